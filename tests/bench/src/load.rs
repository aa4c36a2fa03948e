//! Workloads: so many clients do one thing for so long; what it took is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;

use crate::cpu::Cpu;
use crate::s3::{Body, Client, Endpoint};

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// New objects of this size.
    Put(usize),
    /// Objects of this size that [`fill`] made, all of it each time.
    Get(usize),
    /// Whole listings, a page of 1 000 keys per request.
    List,
}

/// Objects that [`fill`] makes per size.
pub fn objects(size: usize) -> u64 {
    ((64 << 20) / size as u64).clamp(4, 2_000)
}

/// Names of objects to read.
fn path(bucket: &str, size: usize, number: u64) -> String {
    format!("/{bucket}/read/{size}/{number:06}")
}

/// One line of the result.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Operations (keys, for a listing) that ended in time.
    pub operations: u64,
    /// Bytes of objects moved.
    pub bytes: u64,
    /// How long it ran.
    pub took: Duration,
    /// Half of the requests took no longer.
    pub p50: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
    /// CPU of all servers.
    pub server: Duration,
    /// CPU of this process.
    pub client: Duration,
    /// Requests that were refused, with the last reason.
    pub failed: (u64, String),
}

/// Bytes that do not compress.
pub fn noise(size: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    Bytes::from(bytes)
}

/// Makes a bucket.
pub async fn bucket(endpoint: &Endpoint, name: &str) -> anyhow::Result<()> {
    let mut client = Client::connect(endpoint).await?;
    client.send(Method::PUT, &format!("/{name}"), "", &Body::empty()).await?;
    Ok(())
}

/// Makes the objects that [`Action::Get`] reads.
pub async fn fill(endpoint: &Endpoint, bucket: &str, size: usize) -> anyhow::Result<()> {
    let body = Body::new(noise(size));
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let (endpoint, bucket) = (endpoint.clone(), bucket.to_owned());
        let (body, next) = (body.clone(), Arc::clone(&next));
        tasks.push(tokio::spawn(async move {
            let mut client = Client::connect(&endpoint).await?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= objects(size) {
                    return anyhow::Ok(());
                }
                client.send(Method::PUT, &path(&bucket, size, number), "", &body).await?;
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// Runs one workload; clients share `endpoints` in turn.
pub async fn run(
    endpoints: &[Endpoint],
    bucket: &str,
    action: Action,
    clients: usize,
    duration: Duration,
    servers: &Cpu,
) -> anyhow::Result<Outcome> {
    let body = match action {
        Action::Put(size) => Body::new(noise(size)),
        Action::Get(_) | Action::List => Body::empty(),
    };
    let (server, client) = (servers.used(), Cpu::own().used());
    let start = Instant::now();
    let end = start + duration;
    let mut tasks = Vec::new();
    for number in 0..clients {
        let endpoint = endpoints[number % endpoints.len()].clone();
        let (bucket, body) = (bucket.to_owned(), body.clone());
        tasks.push(tokio::spawn(one_client(endpoint, bucket, action, number, body, end)));
    }
    let mut all = Tally::default();
    for task in tasks {
        let one = task.await??;
        all.operations += one.operations;
        all.bytes += one.bytes;
        all.latencies.extend(one.latencies);
        all.failed += one.failed;
        if !one.reason.is_empty() {
            all.reason = one.reason;
        }
    }
    let took = start.elapsed();
    all.latencies.sort_unstable();
    let at = |share: f64| {
        let last = all.latencies.len().saturating_sub(1);
        all.latencies.get((last as f64 * share) as usize).copied().unwrap_or_default()
    };
    Ok(Outcome {
        operations: all.operations,
        bytes: all.bytes,
        took,
        p50: at(0.5),
        p99: at(0.99),
        server: servers.used().saturating_sub(server),
        client: Cpu::own().used().saturating_sub(client),
        failed: (all.failed, all.reason),
    })
}

#[derive(Default)]
struct Tally {
    operations: u64,
    bytes: u64,
    latencies: Vec<Duration>,
    failed: u64,
    reason: String,
}

async fn one_client(
    endpoint: Endpoint,
    bucket: String,
    action: Action,
    number: usize,
    body: Body,
    end: Instant,
) -> anyhow::Result<Tally> {
    let mut client = Client::connect(&endpoint).await?;
    let mut tally = Tally::default();
    let mut round = 0u64;
    let mut after = String::new();
    // Distinct for each run: the clock's nanoseconds tell runs apart.
    let run = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    while Instant::now() < end {
        round += 1;
        let begin = Instant::now();
        let answer = match action {
            Action::Put(size) => {
                let path = format!("/{bucket}/write/{size}/{run:x}-{number}/{round:06}");
                client.send(Method::PUT, &path, "", &body).await
            }
            Action::Get(size) => {
                // A prime stride: clients do not walk in step.
                let object = (number as u64 * 997 + round * 31) % objects(size);
                client.send(Method::GET, &path(&bucket, size, object), "", &body).await
            }
            Action::List => {
                let path = format!("/{bucket}");
                let query = if after.is_empty() {
                    "list-type=2&max-keys=1000".to_owned()
                } else {
                    let after = after.replace('/', "%2F");
                    format!("list-type=2&max-keys=1000&start-after={after}")
                };
                client.send(Method::GET, &path, &query, &body).await
            }
        };
        match answer {
            Ok(bytes) => {
                tally.latencies.push(begin.elapsed());
                match action {
                    Action::Put(size) => {
                        tally.operations += 1;
                        tally.bytes += size as u64;
                    }
                    Action::Get(_) => {
                        tally.operations += 1;
                        tally.bytes += bytes.len() as u64;
                    }
                    Action::List => {
                        let text = String::from_utf8_lossy(&bytes);
                        let keys: Vec<&str> = text
                            .split("<Key>")
                            .skip(1)
                            .filter_map(|rest| rest.split("</Key>").next())
                            .collect();
                        tally.operations += keys.len() as u64;
                        after = match keys.last() {
                            Some(last) if text.contains("<IsTruncated>true") => (*last).to_owned(),
                            _ => String::new(),
                        };
                    }
                }
            }
            Err(error) => {
                tally.failed += 1;
                tally.reason = format!("{error:#}");
            }
        }
    }
    Ok(tally)
}
