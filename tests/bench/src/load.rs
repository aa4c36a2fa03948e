//! Workloads: so many clients do one thing for so long, or until all is done; what it took is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;

use crate::cpu::Cpu;
use nexusgrid_tests::s3::{Body, Client, Endpoint};

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
    let script = |_| {
        let (bucket, body, next) = (bucket.to_owned(), body.clone(), Arc::clone(&next));
        script(move |_| {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let path = path(&bucket, size, number);
            (number < objects(size)).then(|| Request::put(path, body.clone()))
        })
    };
    let scripts = (0..8).map(script).collect();
    let endpoints = std::slice::from_ref(endpoint);
    drive(endpoints, scripts, None, &Cpu::of(Vec::new())).await.map(drop)
}

/// What a client asks.
#[derive(Clone)]
pub struct Request {
    /// GET, PUT, …
    pub method: Method,
    /// Canonical: escaped.
    pub path: String,
    /// Canonical: sorted and escaped.
    pub query: String,
    /// What is sent along.
    pub body: Body,
}

impl Request {
    /// An object or a page.
    pub fn get(path: String, query: String) -> Request {
        Request { method: Method::GET, path, query, body: Body::empty() }
    }

    /// An object.
    pub fn put(path: String, body: Body) -> Request {
        Request { method: Method::PUT, path, query: String::new(), body }
    }
}

/// What one client does: from the answer before (empty at first) follows the next request, if there is one.
pub type Script = Box<dyn FnMut(&Bytes) -> Option<Request> + Send>;

/// A closure as a script.
pub fn script(next: impl FnMut(&Bytes) -> Option<Request> + Send + 'static) -> Script {
    Box::new(next)
}

/// Walks a listing from end to end, again and again or once. `fixed` is the rest of the query behind
/// `list-type=2&max-keys=1000`, sorted.
pub fn listing(bucket: &str, fixed: &str, once: bool) -> Script {
    let (path, fixed) = (format!("/{bucket}"), fixed.to_owned());
    let mut has_begun = false;
    script(move |answer| {
        let text = std::str::from_utf8(answer).unwrap_or_default();
        let token = between(text, "<NextContinuationToken>", "</NextContinuationToken>");
        if std::mem::replace(&mut has_begun, true) && once && token.is_none() {
            return None;
        }
        let token = token.map(|token| format!("continuation-token={token}&")).unwrap_or_default();
        Some(Request::get(path.clone(), format!("{token}list-type=2&max-keys=1000{fixed}")))
    })
}

/// What stands between two marks.
pub fn between<'t>(text: &'t str, mark: &str, end: &str) -> Option<&'t str> {
    text.split_once(mark)?.1.split_once(end).map(|(inner, _)| inner)
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
    // Distinct for each run: the clock's nanoseconds tell runs apart.
    let run = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let body = match action {
        Action::Put(size) => Body::new(noise(size)),
        Action::Get(_) | Action::List => Body::empty(),
    };
    let script = |number: usize| {
        let (bucket, body) = (bucket.to_owned(), body.clone());
        let mut round = 0u64;
        match action {
            Action::List => listing(&bucket, "", false),
            Action::Put(size) => script(move |_| {
                round += 1;
                let path = format!("/{bucket}/write/{size}/{run:x}-{number}/{round:06}");
                Some(Request::put(path, body.clone()))
            }),
            Action::Get(size) => script(move |_| {
                round += 1;
                // A prime stride: clients do not walk in step.
                let object = (number as u64 * 997 + round * 31) % objects(size);
                Some(Request::get(path(&bucket, size, object), String::new()))
            }),
        }
    };
    drive(endpoints, (0..clients).map(script).collect(), Some(duration), servers).await
}

/// Has one client run each script, until all have ended or the time is over.
pub async fn drive(
    endpoints: &[Endpoint],
    scripts: Vec<Script>,
    duration: Option<Duration>,
    servers: &Cpu,
) -> anyhow::Result<Outcome> {
    let (server, client) = (servers.used(), Cpu::own().used());
    let start = Instant::now();
    let end = duration.map(|duration| start + duration);
    let mut tasks = Vec::new();
    for (number, script) in scripts.into_iter().enumerate() {
        let endpoint = endpoints[number % endpoints.len()].clone();
        tasks.push(tokio::spawn(one_client(endpoint, script, end)));
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

/// A client that is refused so often in a row gives up.
const FAILURES_MAX: u32 = 1_000;
/// Before what failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

async fn one_client(
    endpoint: Endpoint,
    mut script: Script,
    end: Option<Instant>,
) -> anyhow::Result<Tally> {
    let mut client = Client::connect(&endpoint).await?;
    let mut tally = Tally::default();
    let mut request = script(&Bytes::new());
    let mut in_a_row = 0;
    while let Some(Request { method, path, query, body }) = &request {
        if end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        let begin = Instant::now();
        match client.send(method.clone(), path, query, body).await {
            Ok(bytes) => {
                tally.latencies.push(begin.elapsed());
                let is_listing = query.contains("max-keys");
                tally.operations += if is_listing { lines(&bytes) } else { 1 };
                if !is_listing {
                    tally.bytes += body.bytes.len().max(bytes.len()) as u64;
                }
                request = script(&bytes);
                in_a_row = 0;
            }
            Err(error) => {
                tally.failed += 1;
                in_a_row += 1;
                anyhow::ensure!(in_a_row < FAILURES_MAX, "{method} {path}: {error:#}");
                tally.reason = format!("{error:#}");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
    Ok(tally)
}

/// Lines of a page of a listing: keys and common prefixes.
fn lines(page: &[u8]) -> u64 {
    let page = std::str::from_utf8(page).unwrap_or_default();
    (page.matches("</Key>").count() + page.matches("<CommonPrefixes>").count()) as u64
}
