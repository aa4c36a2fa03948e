//! Prints GB/s of both AES-256-GCM packages, sealing and opening. Times CPU work on one thread;
//! the numbers of `docs/decisions/0001-aead.md` come from here.
#![allow(clippy::disallowed_methods, reason = "a measurement needs the real clock")]

use std::time::{Duration, Instant};

use nexusgrid_codec::aead::{Aead, NONCE_LEN, Provider, cipher_of, provider};

const BUDGET: Duration = Duration::from_millis(700);

fn main() {
    println!("chosen here: {:?}", provider());
    println!("{:>8} {:>8} {:>10} {:>10}", "package", "bytes", "seal GB/s", "open GB/s");
    for provider in [Provider::AesGcm, Provider::Ring] {
        let aead = cipher_of(provider, &[7; 32]);
        for len in [16 << 10, 64 << 10, 1 << 20] {
            let sealing = seal(aead.as_ref(), len);
            let opening = open(aead.as_ref(), len);
            println!("{:>8} {len:>8} {sealing:>10.2} {opening:>10.2}", format!("{provider:?}"));
        }
    }
}

fn nonce(counter: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

fn seal(aead: &dyn Aead, len: usize) -> f64 {
    let mut buffer = vec![1; len + 16];
    let start = Instant::now();
    let mut rounds = 0;
    while start.elapsed() < BUDGET {
        aead.seal_in_place(nonce(rounds), b"bench", &mut buffer).expect("room for a tag");
        rounds += 1;
    }
    rounds as f64 * len as f64 / start.elapsed().as_secs_f64() / 1e9
}

fn open(aead: &dyn Aead, len: usize) -> f64 {
    let mut sealed = vec![1; len + 16];
    aead.seal_in_place(nonce(0), b"bench", &mut sealed).expect("room for a tag");
    let mut buffer = sealed.clone();
    let (mut rounds, mut spent) = (0u64, Duration::ZERO);
    while spent < BUDGET {
        buffer.copy_from_slice(&sealed);
        let start = Instant::now();
        aead.open_in_place(nonce(0), b"bench", &mut buffer).expect("sealed above");
        spent += start.elapsed();
        rounds += 1;
    }
    rounds as f64 * len as f64 / spent.as_secs_f64() / 1e9
}
