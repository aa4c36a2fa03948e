//! What a shard call between two nodes costs on this machine, and what authenticating its body
//! would: `make bench`.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a program to run by hand: it measures real time and may fail at once"
)]

#[allow(dead_code, reason = "shared with the tests, which use more of it")]
#[path = "../tests/all/support.rs"]
mod support;

use std::time::Instant;

use nexusgrid_cluster::{ShardTransport, TransportOptions};
use nexusgrid_env::Roles;
use ring::{aead, hmac};

use support::*;

const MIB: usize = 1 << 20;
const ROUNDS: usize = 300;

fn report(what: &str, mut work: impl FnMut()) {
    work();
    let begun = Instant::now();
    (0..ROUNDS).for_each(|_| work());
    let seconds = begun.elapsed().as_secs_f64();
    println!("{what:<36} {:6.2} GB/s", (ROUNDS * MIB) as f64 / seconds / 1e9);
}

fn nonce() -> aead::Nonce {
    aead::Nonce::assume_unique_for_key([0; 12])
}

/// MACs and ciphers over a body of 1 MiB.
fn measure_macs() {
    let body = vec![7; MIB];
    for (name, algorithm) in [
        ("AES-256-GMAC", &aead::AES_256_GCM),
        ("ChaCha20-Poly1305, as MAC", &aead::CHACHA20_POLY1305),
    ] {
        let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, &[1; 32]).unwrap());
        report(name, || {
            let aad = aead::Aad::from(&body);
            let _ = std::hint::black_box(
                key.seal_in_place_separate_tag(nonce(), aad, &mut []).unwrap(),
            );
        });
    }
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, &[1; 32]).unwrap());
    let mut copy = body.clone();
    report("AES-256-GCM of a copy", || {
        copy.copy_from_slice(&body);
        let aad = aead::Aad::empty();
        let _ =
            std::hint::black_box(key.seal_in_place_separate_tag(nonce(), aad, &mut copy).unwrap());
    });
    for piece_len in [16 << 10, 32 << 10, 64 << 10] {
        let mut scratch = vec![0; piece_len];
        report(&format!("AES-256-GCM of copies of {} KiB", piece_len >> 10), || {
            for piece in body.chunks(piece_len) {
                scratch.copy_from_slice(piece);
                let aad = aead::Aad::empty();
                let _ = std::hint::black_box(
                    key.seal_in_place_separate_tag(nonce(), aad, &mut scratch).unwrap(),
                );
            }
        });
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]);
    report("HMAC-SHA256", || {
        let _ = std::hint::black_box(hmac::sign(&key, &body));
    });
    report("CRC32C (no MAC, to compare)", || {
        let _ = std::hint::black_box(crc32c::crc32c(&body));
    });
}

/// Calls from one node to another over loopback, by either shard transport.
async fn measure_transport() {
    for shard_transport in [ShardTransport::Plain, ShardTransport::Tls] {
        let cluster = TestCluster::new(1);
        let options = || TransportOptions { shard_transport, ..cluster.options() };
        let one = cluster.node_with(cluster.issue(1, 1), Roles::ALL, options()).await;
        let _two = cluster.node_with(cluster.issue(2, 1), Roles::ALL, options()).await;
        let body = bytes::Bytes::from(vec![7; MIB]);
        for (name, spec, body, count) in [
            ("write 1 MiB", WRITE, body.clone(), 300),
            ("read 1 MiB", READ, bytes::Bytes::new(), 300),
            ("write 4 KiB", WRITE, body.slice(..4096), 3000),
        ] {
            one.call(2, request(spec, body.clone())).await.unwrap();
            let (begun, cpu) = (Instant::now(), cpu_seconds());
            for _ in 0..count {
                one.call(2, request(spec, body.clone())).await.unwrap();
            }
            let (wall, cpu) = (begun.elapsed().as_secs_f64(), cpu_seconds() - cpu);
            println!(
                "{shard_transport:?} {name}: {:7.1} µs wall, {:7.1} µs CPU, both ends",
                wall * 1e6 / f64::from(count),
                cpu * 1e6 / f64::from(count)
            );
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    measure_macs();
    measure_transport().await;
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}
