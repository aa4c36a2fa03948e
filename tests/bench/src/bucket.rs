//! One bucket of very many objects: how fast it fills, what its listings cost, how fast a rule ends a tenth of
//! it, what memory all that takes, and whether another tenant feels it.
//!
//! Ten prefixes (`t0/` to `t9/`), below each directories of a thousand objects.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use http::Method;
use nexusgrid_tests::s3::{Body, Client, Endpoint};
use nexusgrid_tests::{ACCESS_KEY, GridOptions, LocalGrid, SECRET_KEY};
use serde_json::Value;

use crate::cpu::Cpu;
use crate::load::{self, Outcome, Request, Script, between, drive, listing, script};

const BUCKET: &str = "large";
/// Connections that fill it: as many as share a sync well.
const FILLERS: usize = 96;
const OBJECT_BYTES: usize = 64;
const OBJECTS_PER_DIRECTORY: u64 = 1_000;
/// A day of the lifecycle rules: from a rule's objects being written to their end.
const DAY: Duration = Duration::from_secs(10);
/// Objects that are written when the rule has long been there.
const LATE_OBJECTS: u64 = 2_000;
/// Pages whose latency is looked at.
const PAGES: u64 = 300;
const PROGRESS: Duration = Duration::from_secs(10);

/// Name of an object, in order of its number within a tenth.
fn key(number: u64) -> String {
    let (tenth, place) = (number % 10, number / 10);
    format!("t{tenth}/d{:04}/object-{place:07}", place / OBJECTS_PER_DIRECTORY)
}

fn row(what: &str, value: String) {
    println!("| {what} | {value} |");
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn latency(outcome: &Outcome) -> String {
    format!("p50 {:.2} ms, p99 {:.2} ms", ms(outcome.p50), ms(outcome.p99))
}

fn mib(bytes: &[u64]) -> u64 {
    bytes.iter().max().copied().unwrap_or_default() >> 20
}

/// What was promised of such a bucket, and what was found.
struct Promise {
    what: String,
    budget: String,
    found: String,
    is_kept: bool,
}

/// Keys listed for a second of a gateway's CPU, at least.
const KEYS_PER_CPU_SECOND: f64 = 200_000.0;
/// The first page takes no longer.
const FIRST_PAGE: Duration = Duration::from_millis(10);
/// Resident memory of a node, as with few objects.
const RESIDENT_MIB: u64 = 250;
/// By so much latencies of two runs differ on a machine that clients and seven nodes share.
const NOISE: f64 = 1.25;

/// One bucket of one grid.
struct Bench {
    grid: LocalGrid,
    endpoints: Vec<Endpoint>,
    servers: Cpu,
    objects: u64,
    seconds: Duration,
    promises: Mutex<Vec<Promise>>,
}

/// Measures all of it in a grid of its own.
pub async fn measure(nodes: usize, objects: u64, seconds: Duration) -> anyhow::Result<()> {
    let config = format!("[timers]\nlifecycle_day_ms = {}\n", DAY.as_millis());
    let options = GridOptions { nodes, config, ..GridOptions::default() };
    let grid = tokio::task::spawn_blocking(move || LocalGrid::start_with(&options)).await?;
    let endpoint = |number| Endpoint {
        authority: grid.s3(number).trim_start_matches("http://").to_owned(),
        access_key: ACCESS_KEY.to_owned(),
        secret_key: SECRET_KEY.to_owned(),
        region: "us-east-1".to_owned(),
    };
    let endpoints = (1..=nodes).map(endpoint).collect();
    let servers = Cpu::of(grid.pids());
    let promises = Mutex::default();
    let bench = Bench { grid, endpoints, servers, objects, seconds, promises };
    println!("\n| a bucket of {objects} objects, {nodes} nodes | |\n|---|---|");
    load::bucket(&bench.endpoints[0], BUCKET).await?;
    bench.fill().await?;
    bench.list().await?;
    bench.share().await?;
    bench.expire().await?;
    let (peak, now) = (mib(&bench.servers.peak()), mib(&bench.servers.resident()));
    row("resident memory of a node at most", format!("{peak} MiB ever, {now} MiB at the end"));
    let budget = format!("≤ {RESIDENT_MIB} MiB");
    bench.promise("resident memory of a node", budget, format!("{peak} MiB"), peak <= RESIDENT_MIB);
    println!("\n| promised of {objects} objects | budget | found | kept |\n|---|---|---|---|");
    for Promise { what, budget, found, is_kept } in bench.promises.lock().unwrap().iter() {
        println!("| {what} | {budget} | {found} | {} |", if *is_kept { "yes" } else { "NO" });
    }
    Ok(())
}

impl Bench {
    fn promise(&self, what: &str, budget: String, found: String, is_kept: bool) {
        let what = what.to_owned();
        self.promises.lock().unwrap().push(Promise { what, budget, found, is_kept });
    }

    async fn fill(&self) -> anyhow::Result<()> {
        let body = Body::new(load::noise(OBJECT_BYTES));
        let next = Arc::new(AtomicU64::new(0));
        let told = tokio::spawn(progress(Arc::clone(&next), self.objects));
        let objects = self.objects;
        let one = |_| {
            let (body, next) = (body.clone(), Arc::clone(&next));
            script(move |_| {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let path = format!("/{BUCKET}/{}", key(number));
                (number < objects).then(|| Request::put(path, body.clone()))
            })
        };
        let scripts = (0..FILLERS).map(one).collect();
        let filled = drive(&self.endpoints, scripts, None, &self.servers).await?;
        told.abort();
        let rate = filled.operations as f64 / filled.took.as_secs_f64();
        let cpu = ms(filled.server) / filled.operations.max(1) as f64;
        let (peak, failed) = (mib(&self.servers.peak()), filled.failed.0);
        let what = format!("filled by {FILLERS} connections");
        row(&what, format!("{rate:.0} objects/s, {cpu:.2} ms of CPU each, {failed} tried again"));
        row("resident memory of a node after that, at most", format!("{peak} MiB"));
        Ok(())
    }

    async fn pages(&self, what: &str, ask: impl Fn(u64) -> Request) -> anyhow::Result<Duration> {
        let mut round = 0;
        let requests: Vec<Request> = (0..PAGES).map(ask).collect();
        let one = script(move |_| {
            round += 1;
            requests.get(round - 1).cloned()
        });
        let outcome = drive(&self.endpoints[..1], vec![one], None, &self.servers).await?;
        let lines = outcome.operations / PAGES;
        row(what, format!("{}, {lines} lines each", latency(&outcome)));
        Ok(outcome.p50)
    }

    async fn list(&self) -> anyhow::Result<()> {
        let page = |query: String| Request::get(format!("/{BUCKET}"), query);
        let places = self.objects / 10;
        let first =
            self.pages("first page of 1 000", |_| page("list-type=2&max-keys=1000".to_owned()));
        let first = first.await?;
        let found = format!("{:.1} ms (p50)", ms(first));
        let budget = format!("< {:.0} ms", ms(FIRST_PAGE));
        self.promise("the first page", budget, found, first < FIRST_PAGE);
        self.pages("a page of 1 000 somewhere", |round| {
            let after = key(round * 7_919 % places * 10 + round % 10).replace('/', "%2F");
            page(format!("list-type=2&max-keys=1000&start-after={after}"))
        })
        .await?;
        self.pages("a directory by its prefix", |round| {
            let directory = round * 7 % places.div_ceil(OBJECTS_PER_DIRECTORY);
            let prefix = format!("t{}%2Fd{directory:04}%2F", round % 10);
            page(format!("delimiter=%2F&list-type=2&max-keys=1000&prefix={prefix}"))
        })
        .await?;
        self.pages("ten prefixes of all by a delimiter", |_| {
            page("delimiter=%2F&list-type=2&max-keys=1000".to_owned())
        })
        .await?;
        self.pages("directories of a prefix by a delimiter", |round| {
            page(format!("delimiter=%2F&list-type=2&max-keys=1000&prefix=t{}%2F", round % 10))
        })
        .await?;
        let walk = vec![listing(BUCKET, "", true)];
        let rate = self.walk("all of it listed, one client", walk, None).await?;
        self.promise(
            "keys listed for a second of a gateway's CPU",
            format!("≥ {KEYS_PER_CPU_SECOND:.0}"),
            format!("{rate:.0}"),
            rate >= KEYS_PER_CPU_SECOND,
        );
        let walks = (0..2).map(|_| listing(BUCKET, "", false)).collect();
        self.walk("listed by two clients", walks, Some(self.seconds)).await?;
        let walk = vec![versions()];
        let rate = self.walk("versions listed, one client", walk, Some(self.seconds)).await?;
        self.promise(
            "versions listed for a second of a gateway's CPU",
            format!("≥ {KEYS_PER_CPU_SECOND:.0}"),
            format!("{rate:.0}"),
            rate >= KEYS_PER_CPU_SECOND,
        );
        Ok(())
    }

    async fn walk(
        &self,
        what: &str,
        scripts: Vec<Script>,
        duration: Option<Duration>,
    ) -> anyhow::Result<f64> {
        let gateway = Cpu::of(self.grid.pids()[..1].to_vec());
        let before = gateway.used();
        let outcome = drive(&self.endpoints[..1], scripts, duration, &self.servers).await?;
        let gateway = gateway.used().saturating_sub(before);
        anyhow::ensure!(
            duration.is_some() || outcome.operations == self.objects,
            "a walk of {} objects, not {}",
            outcome.operations,
            self.objects
        );
        let keys = outcome.operations as f64;
        let (wall, cpu) = (outcome.took.as_secs_f64(), outcome.server.as_secs_f64());
        let rate = keys / gateway.as_secs_f64().max(0.01);
        row(
            what,
            format!(
                "{:.0} keys/s; {:.0} for a second of the gateway's CPU, {:.0} of all nodes'; {} a page",
                keys / wall,
                rate,
                keys / cpu.max(0.01),
                latency(&outcome)
            ),
        );
        Ok(rate)
    }

    /// Another tenant's small requests, alone and while one lists.
    async fn share(&self) -> anyhow::Result<()> {
        let dir = self.grid.dir(1).display().to_string();
        let words = ["--json", "account", "create", "quiet", "--email", "q@example.com", "--dir"];
        let made: Value =
            serde_json::from_str(&self.grid.command(&[&words[..], &[dir.as_str()]].concat())?)?;
        let text = |field: &str| Some(made[field].as_str()?.to_owned());
        let quiet = Endpoint {
            access_key: text("access_key").context("the account's key")?,
            secret_key: text("secret_key").context("the account's secret")?,
            ..self.endpoints[0].clone()
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(error) = load::bucket(&quiet, "quiet").await {
            anyhow::ensure!(Instant::now() < deadline, "the account: {error:#}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        load::fill(&quiet, "quiet", 4 << 10).await?;
        let quiet = [quiet];
        let none = Cpu::of(Vec::new());
        let mut alone = Vec::new();
        for listers in [0, 1, 8] {
            let (endpoints, duration) = (self.endpoints[..1].to_vec(), self.seconds * 2);
            let loud = std::thread::spawn(move || elsewhere(listers, &endpoints, duration));
            let mut found = Vec::new();
            for (what, action) in
                [("GET", load::Action::Get(4 << 10)), ("PUT", load::Action::Put(4 << 10))]
            {
                let outcome = load::run(&quiet, "quiet", action, 1, self.seconds, &none).await?;
                let what = format!("another tenant's {what} of 4 KiB, {listers} clients listing");
                row(&what, format!("{}, {} failed", latency(&outcome), outcome.failed.0));
                found.push(outcome.p50);
            }
            let listed = tokio::task::spawn_blocking(move || loud.join()).await?;
            let listed = listed.map_err(|_| anyhow::anyhow!("the listing clients"))??;
            for ((what, alone), found) in ["GET", "PUT"].iter().zip(&alone).zip(&found) {
                let (before, now) = (ms(*alone), ms(*found));
                self.promise(
                    &format!("another tenant's {what}, {listers} clients listing (p50)"),
                    format!("{before:.1} ms, as alone"),
                    format!("{now:.1} ms, {:.2} times", now / before),
                    now <= before * NOISE,
                );
            }
            if listers == 0 {
                alone = found;
            }
            if listers > 0 {
                let rate = listed.operations as f64 / listed.took.as_secs_f64();
                row("meanwhile listed", format!("{rate:.0} keys/s"));
            }
        }
        Ok(())
    }

    /// A rule that ends a tenth: laid down on what is there, then met by what comes.
    async fn expire(&self) -> anyhow::Result<()> {
        let rule = "<LifecycleConfiguration><Rule><ID>tenth</ID><Filter><Prefix>t9/</Prefix></Filter>\
                    <Status>Enabled</Status><Expiration><Days>1</Days></Expiration></Rule>\
                    </LifecycleConfiguration>";
        let mut client = Client::connect(&self.endpoints[0]).await?;
        let body = Body::new(rule.into());
        let path = format!("/{BUCKET}");
        client.send(Method::PUT, &path, "lifecycle=", &body).await.context("the rule")?;
        let (begin, before) = (Instant::now(), self.servers.used());
        self.until_gone(&mut client).await?;
        let took = begin.elapsed().as_secs_f64();
        let cpu = self.servers.used().saturating_sub(before);
        let tenth = self.objects.div_ceil(10);
        row(
            "a new rule ends a tenth",
            format!(
                "{took:.1} s, {:.0} objects/s, {:.2} ms of CPU each, all keys looked at once",
                tenth as f64 / took,
                ms(cpu) / tenth as f64
            ),
        );
        // Nobody walks any more: what is due is known.
        let body = Body::new(load::noise(OBJECT_BYTES));
        let mut next = 0;
        let late = script(move |_| {
            next += 1;
            let path = format!("/{BUCKET}/t9/late/{next:06}");
            (next <= LATE_OBJECTS).then(|| Request::put(path, body.clone()))
        });
        drive(&self.endpoints[..1], vec![late], None, &self.servers).await?;
        let (begin, before) = (Instant::now(), self.servers.used());
        self.until_gone(&mut client).await?;
        let cpu = self.servers.used().saturating_sub(before);
        row(
            "what came later and is due",
            format!(
                "{LATE_OBJECTS} gone {:.1} s after the last was written (a day is {} s), {:.2} ms of CPU each",
                begin.elapsed().as_secs_f64(),
                DAY.as_secs(),
                ms(cpu) / LATE_OBJECTS as f64
            ),
        );
        Ok(())
    }

    async fn until_gone(&self, client: &mut Client) -> anyhow::Result<()> {
        let deadline = Instant::now() + DAY + Duration::from_millis(self.objects / 2 + 60_000);
        loop {
            let query = "list-type=2&max-keys=1&prefix=t9%2F";
            let empty = Body::empty();
            let page = client.send(Method::GET, &format!("/{BUCKET}"), query, &empty).await?;
            if !page.windows(5).any(|mark| mark == b"<Key>") {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "the rule does not end its objects");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Clients that list, as if on a machine of their own: they use what processors the others leave.
fn elsewhere(
    listers: usize,
    endpoints: &[Endpoint],
    duration: Duration,
) -> anyhow::Result<Outcome> {
    // Of this thread alone, as Linux has it.
    rustix::process::setpriority_process(None, 19)?;
    let scripts = (0..listers).map(|_| listing(BUCKET, "", false)).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(drive(endpoints, scripts, Some(duration), &Cpu::of(Vec::new())))
}

/// Walks the versions from end to end, again and again.
fn versions() -> Script {
    script(|answer| {
        let text = std::str::from_utf8(answer).unwrap_or_default();
        let marker = between(text, "<NextKeyMarker>", "</NextKeyMarker>");
        let version = between(text, "<NextVersionIdMarker>", "</NextVersionIdMarker>");
        let marker = marker.map(|marker| format!("key-marker={}&", marker.replace('/', "%2F")));
        let version = version.map(|version| format!("&version-id-marker={version}"));
        let (marker, version) = (marker.unwrap_or_default(), version.unwrap_or_default());
        let query = format!("{marker}max-keys=1000{version}&versions=");
        Some(Request::get(format!("/{BUCKET}"), query))
    })
}

async fn progress(done: Arc<AtomicU64>, all: u64) {
    let begin = Instant::now();
    loop {
        tokio::time::sleep(PROGRESS).await;
        let done = done.load(Ordering::Relaxed).min(all);
        let rate = done as f64 / begin.elapsed().as_secs_f64();
        eprintln!("{done} of {all} objects, {rate:.0}/s");
    }
}
