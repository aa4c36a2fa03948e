//! Prints GB/s (of plaintext) of a block's way through the codec, on one thread.
#![allow(clippy::disallowed_methods, reason = "a measurement needs the real clock")]

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use nexusgrid_codec::erasure::{encode, reconstruct};
use nexusgrid_codec::seal::{open_region, seal_one};
use nexusgrid_codec::{
    BlockId, ClusterId, Code, CodecError, ContentKey, GroupId, RegionContext, SessionId,
};

const BUDGET: Duration = Duration::from_millis(700);

fn main() -> Result<(), CodecError> {
    let cluster = ClusterId([1; 16]);
    let block = BlockId { group: GroupId(1), session: SessionId(1), counter: 1 };
    let key = ContentKey::from_bytes([2; 32]);
    println!(
        "{:>10} {:>8} {:>6} {:>6} {:>8} {:>6}",
        "code", "bytes", "seal", "encode", "rebuild2", "open"
    );
    let codes = [Code::copies(3)?, Code::reed_solomon(4, 2)?, Code::reed_solomon(8, 4)?];
    for code in codes {
        for len in [256 << 10, 1 << 20, 8 << 20] {
            let plain = [Bytes::from(vec![7; len])];
            let (sealed, region) = seal_one(cluster, block, code, &key, &plain)?;
            let encoded = encode(&sealed)?;
            let present: Vec<(u8, Bytes)> =
                (0u8..).zip(encoded.shards.iter().cloned()).skip(2).collect();
            let context = RegionContext { cluster, block, codec: code.codec(), region };
            let seal = rate(len, || seal_one(cluster, block, code, &key, &plain).is_ok());
            let code_rate = rate(len, || encode(&sealed).is_ok());
            let rebuild = rate(len, || reconstruct(&encoded.layout, &[0, 1], &present).is_ok());
            let open =
                rate(len, || open_region(&key, context, BytesMut::from(&sealed.bytes[..])).is_ok());
            let name = format!("{}+{}", code.k(), code.m());
            println!("{name:>10} {len:>8} {seal:>6.2} {code_rate:>6.2} {rebuild:>8.2} {open:>6.2}");
        }
    }
    Ok(())
}

fn rate(len: usize, mut step: impl FnMut() -> bool) -> f64 {
    let start = Instant::now();
    let mut rounds = 0u32;
    while start.elapsed() < BUDGET {
        assert!(step(), "the measured step failed");
        rounds += 1;
    }
    f64::from(rounds) * len as f64 / start.elapsed().as_secs_f64() / 1e9
}
