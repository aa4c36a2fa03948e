//! What the machine itself can do, measured in the same run: the figures to hold ours against.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Synced writes of 4 KiB per second, one after the other.
pub fn syncs_per_second(dir: &Path, duration: Duration) -> anyhow::Result<f64> {
    let mut file = File::create(dir.join("syncs"))?;
    let block = [0x5au8; 4096];
    let start = Instant::now();
    let mut count = 0u64;
    while start.elapsed() < duration {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Bytes per second written in order and synced at the end.
pub fn disk_write(dir: &Path, bytes: u64) -> anyhow::Result<f64> {
    let mut file = File::create(dir.join("stream"))?;
    let block = vec![0x5au8; 1 << 20];
    let start = Instant::now();
    for _ in 0..bytes >> 20 {
        file.write_all(&block)?;
    }
    file.sync_data()?;
    Ok(bytes as f64 / start.elapsed().as_secs_f64())
}

/// Bytes per second through the loopback interface, one connection.
pub fn loopback(bytes: u64) -> anyhow::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let sender = std::thread::spawn(move || -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        let block = vec![0x5au8; 1 << 20];
        for _ in 0..bytes >> 20 {
            stream.write_all(&block)?;
        }
        Ok(())
    });
    let (mut stream, _) = listener.accept()?;
    let mut block = vec![0u8; 1 << 20];
    let start = Instant::now();
    let mut got = 0u64;
    loop {
        let count = stream.read(&mut block)?;
        if count == 0 {
            break;
        }
        got += count as u64;
    }
    let rate = got as f64 / start.elapsed().as_secs_f64();
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    Ok(rate)
}

/// Round trips per second of 4 KiB there and one byte back through the loopback interface.
pub fn round_trips(duration: Duration) -> anyhow::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut block = [0u8; 4096];
        while stream.read_exact(&mut block).is_ok() {
            stream.write_all(&[1])?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let (block, mut answer) = ([0u8; 4096], [0u8; 1]);
    let start = Instant::now();
    let mut count = 0u64;
    while start.elapsed() < duration {
        stream.write_all(&block)?;
        stream.read_exact(&mut answer)?;
        count += 1;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Processor, cores, kernel: one line.
pub fn describe() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split_once(':'))
        .map_or("unknown processor", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}
