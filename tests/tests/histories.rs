//! What clients of several gateways see of twenty keys while nodes die, stand still and are cut off from
//! one another has, for each key, an order that explains it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode};
use nexusgrid_tests::history::{Deed, Operation, linearizable, unexplained};
use nexusgrid_tests::s3::{Body, Client, Endpoint};
use nexusgrid_tests::{ACCESS_KEY, GridOptions, LocalGrid, SECRET_KEY};
use parking_lot::Mutex;
use rand::Rng;
use rustix::process::Signal;
use tokio::time::timeout;

const NODES: usize = 7;
const CLIENTS: usize = 20;
/// Their groups differ, so that whoever leads, some of it is met.
const BUCKETS: [&str; 4] = ["amber", "birch", "cedar", "dunes"];
const KEYS_PER_BUCKET: u64 = 5;
/// Clients give up after so long, and do not know what became of it.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two operations of a client, at most.
const PAUSE_MS: u64 = 25;

/// All that clients saw, by key.
struct Book {
    began: Instant,
    values: AtomicU64,
    keys: Mutex<BTreeMap<String, Vec<Operation>>>,
    /// What must never happen, as it happened.
    wrongs: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<String, u64>>,
}

impl Book {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }

    fn note(&self, path: &str, invoked: u64, end: End) {
        let (completed, deed) = match end {
            End::Saw(deed) => (Some(self.now()), deed),
            End::Unknown(deed) => (None, deed),
            End::Nothing => return,
        };
        let operation = Operation { invoked, completed, deed };
        self.keys.lock().entry(path.to_owned()).or_default().push(operation);
    }

    fn count(&self, what: String) {
        *self.counts.lock().entry(what).or_default() += 1;
    }
}

/// How an operation ended.
enum End {
    /// It did this.
    Saw(Deed),
    /// Perhaps it did this, or will.
    Unknown(Deed),
    /// It did nothing, and tells nothing.
    Nothing,
}

/// Bytes that follow from a value's number, and begin with it: in metadata, in packs, in blocks.
fn content(value: u64) -> Body {
    let size = match value % 8 {
        0..=4 => 20,
        5 | 6 => 9_000,
        _ => 600_000,
    };
    Body::new(Bytes::from(format!("{value:020}").repeat(size / 20)))
}

/// A client: it knows what it last saw, as clients that replace what they read do.
struct Reader {
    book: Arc<Book>,
    doors: Vec<Endpoint>,
    open: Vec<Option<Client>>,
    last: BTreeMap<String, (String, u64)>,
}

impl Reader {
    fn new(book: &Arc<Book>, doors: &[Endpoint]) -> Reader {
        let open = doors.iter().map(|_| None).collect();
        Reader { book: Arc::clone(book), doors: doors.to_vec(), open, last: BTreeMap::new() }
    }

    /// One request by one gateway. `Err(false)`: it was never sent.
    async fn ask(
        &mut self,
        door: usize,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: &Body,
    ) -> Result<nexusgrid_tests::s3::Answer, bool> {
        let mut client = match self.open[door].take() {
            Some(client) => client,
            None => match timeout(PATIENCE, Client::connect(&self.doors[door])).await {
                Ok(Ok(client)) => client,
                _ => return Err(false),
            },
        };
        match timeout(PATIENCE, client.ask(method, path, "", headers, body)).await {
            Ok(Ok(answer)) => {
                self.open[door] = Some(client);
                Ok(answer)
            }
            // The connection is done with: an answer to this must not pass for the next one's.
            Ok(Err(_)) | Err(_) => Err(true),
        }
    }

    async fn get(&mut self, door: usize, path: &str) -> bool {
        let invoked = self.book.now();
        let empty = Body::new(Bytes::new());
        let Ok(answer) = self.ask(door, Method::GET, path, &[], &empty).await else { return false };
        let end = match answer.status {
            StatusCode::NOT_FOUND => End::Saw(Deed::Read(None)),
            StatusCode::OK => {
                let text = std::str::from_utf8(answer.bytes.get(..20).unwrap_or_default());
                let value = text.unwrap_or_default().parse().unwrap_or_default();
                if answer.bytes != content(value).bytes {
                    let bytes = answer.bytes.len();
                    self.book.wrongs.lock().push(format!("{path}: {bytes} wrong bytes of {value}"));
                }
                let etag = answer.headers["etag"].to_str().unwrap().to_owned();
                self.last.insert(path.to_owned(), (etag, value));
                End::Saw(Deed::Read(Some(value)))
            }
            _ => End::Nothing,
        };
        self.book.count(format!("GET {}", answer.status.as_u16()));
        let is_answer = matches!(end, End::Saw(_));
        self.book.note(path, invoked, end);
        is_answer
    }

    /// A write; `expected`: only if this is there.
    async fn write(
        &mut self,
        door: usize,
        path: &str,
        value: Option<u64>,
        expected: Option<Option<(String, u64)>>,
    ) {
        let deed = match &expected {
            None => Deed::Write(value),
            Some(seen) => Deed::Swap(seen.as_ref().map(|(_, value)| *value), value),
        };
        let condition = match &expected {
            None => None,
            Some(None) => Some(("if-none-match", "*")),
            Some(Some((etag, _))) => Some(("if-match", etag.as_str())),
        };
        let headers: Vec<_> = condition.into_iter().collect();
        let (method, body) = match value {
            Some(value) => (Method::PUT, content(value)),
            None => (Method::DELETE, Body::new(Bytes::new())),
        };
        let invoked = self.book.now();
        let answer = self.ask(door, method.clone(), path, &headers, &body).await;
        let what = condition.map_or(method.to_string(), |(name, _)| format!("{method} {name}"));
        let (end, status) = match answer {
            Err(false) => (End::Nothing, 0),
            Err(true) => (End::Unknown(deed), 1),
            Ok(answer) => {
                let slow = answer.bytes.windows(8).any(|word| word == b"SlowDown");
                let end = match (answer.status, deed) {
                    (StatusCode::OK | StatusCode::NO_CONTENT, _) => End::Saw(deed),
                    (StatusCode::PRECONDITION_FAILED, Deed::Swap(from, _)) => {
                        End::Saw(Deed::Differs(from))
                    }
                    (StatusCode::NOT_FOUND, Deed::Swap(..)) => End::Saw(Deed::Read(None)),
                    (StatusCode::CONFLICT, _) => End::Nothing,
                    (status, _) if status.is_server_error() && slow => End::Nothing,
                    (status, _) if status.is_server_error() => End::Unknown(deed),
                    (status, _) => {
                        let said = String::from_utf8_lossy(&answer.bytes).into_owned();
                        self.book.wrongs.lock().push(format!("{what} {path}: {status}: {said}"));
                        End::Nothing
                    }
                };
                if let (End::Saw(Deed::Write(_) | Deed::Swap(..)), Some(value)) = (&end, value) {
                    let etag = answer.headers["etag"].to_str().unwrap().to_owned();
                    self.last.insert(path.to_owned(), (etag, value));
                }
                (end, answer.status.as_u16())
            }
        };
        self.book.count(format!("{what} {status}"));
        self.book.note(path, invoked, end);
    }

    /// Does random operations until told to stop.
    async fn run(mut self, stop: tokio::sync::watch::Receiver<bool>) {
        while !*stop.borrow() {
            let dice = || rand::rng().random_range(0..100u64);
            let path = some_path();
            let door = rand::rng().random_range(0..self.doors.len());
            let value = Some(self.book.values.fetch_add(1, Ordering::Relaxed) + 1);
            match dice() {
                0..45 => drop(self.get(door, &path).await),
                45..60 => self.write(door, &path, value, None).await,
                60..75 => self.write(door, &path, value, Some(None)).await,
                75..90 => {
                    // What it read a moment ago, at another gateway.
                    self.get(door, &path).await;
                    let door = (door + 1) % NODES;
                    let seen = self.last.get(&path).cloned();
                    if seen.is_some() {
                        self.write(door, &path, value, Some(seen)).await;
                    }
                }
                _ => self.write(door, &path, None, None).await,
            }
            tokio::time::sleep(Duration::from_millis(dice() * PAUSE_MS / 100)).await;
        }
    }
}

fn some_path() -> String {
    let bucket = BUCKETS[rand::rng().random_range(0..BUCKETS.len())];
    format!("/{bucket}/key-{}", rand::rng().random_range(0..KEYS_PER_BUCKET))
}

fn paths() -> impl Iterator<Item = String> {
    let keys = |bucket| (0..KEYS_PER_BUCKET).map(move |key| format!("/{bucket}/key-{key}"));
    BUCKETS.into_iter().flat_map(keys)
}

/// Who leads one of the groups, as a node sees it.
fn leader(grid: &LocalGrid, group: usize) -> usize {
    let node = grid.running()[0];
    let groups = grid.status(node).map(|status| status["groups"].clone()).unwrap_or_default();
    groups[group]["leader"].as_u64().map_or(1 + group, |leader| leader as usize)
}

/// So long does a fault last, and the time after it.
fn wait(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

/// Cuts these off from the rest, or has them stand still where networks cannot be made.
fn cut_off(grid: &LocalGrid, some: &[usize], seconds: f64) {
    match grid.network() {
        Some(network) => {
            let rest: Vec<usize> = (1..=NODES).filter(|node| !some.contains(node)).collect();
            network.cut(some, &rest);
            wait(seconds);
            network.heal();
        }
        None => stand_still(grid, some, seconds),
    }
}

fn stand_still(grid: &LocalGrid, some: &[usize], seconds: f64) {
    some.iter().for_each(|node| grid.signal(*node, Signal::STOP));
    wait(seconds);
    some.iter().for_each(|node| grid.signal(*node, Signal::CONT));
}

fn faults(grid: &mut LocalGrid) {
    wait(1.0);
    // Each leader of a group that holds something is met by something else.
    let first = leader(grid, 1);
    cut_off(grid, &[first], 5.0);
    wait(1.0);
    let second = leader(grid, 2);
    grid.kill(second);
    wait(3.0);
    grid.serve(second).unwrap();
    let third = leader(grid, 3);
    stand_still(grid, &[third], 4.0);
    wait(1.0);
    // Two of seven at a time; who is cut off still serves whoever reaches it.
    cut_off(grid, &[leader(grid, 4), 1 + leader(grid, 4) % NODES], 5.0);
    wait(1.0);
    // A leader that hears nobody but is heard, and one that is heard by nobody.
    if let Some(network) = grid.network() {
        let (mute, deaf) = (leader(grid, 1), leader(grid, 2));
        let others = |node| (1..=NODES).filter(|other| *other != node).collect::<Vec<usize>>();
        network.cut_one_way(&[mute], &others(mute));
        wait(4.0);
        network.heal();
        network.cut_one_way(&others(deaf), &[deaf]);
        wait(4.0);
        network.heal();
    }
    // One dies while another is away.
    let (away, dead) = (leader(grid, 1), leader(grid, 2));
    let dead = if dead == away { 1 + away % NODES } else { dead };
    grid.signal(away, Signal::STOP);
    grid.kill(dead);
    wait(3.0);
    grid.signal(away, Signal::CONT);
    grid.serve(dead).unwrap();
    wait(1.0);
}

#[test]
fn grid_histories_of_twenty_keys_are_linearizable_though_nodes_die_and_are_cut_off() {
    let mut grid = LocalGrid::start_with(&GridOptions { network: true, ..GridOptions::default() });
    let endpoint = |number: usize| Endpoint {
        authority: grid.s3(number).trim_start_matches("http://").to_owned(),
        access_key: ACCESS_KEY.to_owned(),
        secret_key: SECRET_KEY.to_owned(),
        region: "us-east-1".to_owned(),
    };
    let doors: Vec<Endpoint> = (1..=NODES).map(endpoint).collect();
    let book = Arc::new(Book {
        began: Instant::now(),
        values: AtomicU64::new(0),
        keys: Mutex::default(),
        wrongs: Mutex::default(),
        counts: Mutex::default(),
    });
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = Client::connect(&doors[0]).await.unwrap();
        for bucket in BUCKETS {
            let body = Body::new(Bytes::new());
            client.send(Method::PUT, &format!("/{bucket}"), "", &body).await.unwrap();
        }
    });
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| runtime.spawn(Reader::new(&book, &doors).run(stopped.clone())))
        .collect();
    faults(&mut grid);
    stop.send(true).unwrap();
    runtime.block_on(async {
        for client in clients {
            client.await.unwrap();
        }
    });
    grid.wait_ready(NODES);
    // What is left is what all agree on, wherever they ask.
    runtime.block_on(async {
        let mut reader = Reader::new(&book, &doors);
        for (path, door) in
            paths().flat_map(|path| (0..NODES).map(move |door| (path.clone(), door)))
        {
            let deadline = Instant::now() + Duration::from_secs(30);
            while !reader.get(door, &path).await {
                assert!(Instant::now() < deadline, "node {} does not tell {path}", door + 1);
            }
        }
    });
    assert_eq!(*book.wrongs.lock(), Vec::<String>::new());
    let counts = book.counts.lock().clone();
    println!("{counts:?}");
    let (mut longest, mut doctored) = (0, 0);
    for (path, history) in book.keys.lock().iter() {
        if let Some(stuck) = unexplained(history) {
            let mut all = history.clone();
            all.sort_by_key(|operation| operation.invoked);
            let lines: Vec<String> = all.iter().map(|one| format!("{one:?}")).collect();
            panic!("{path}: none of these can be next: {stuck:#?}\nof\n{}", lines.join("\n"));
        }
        longest = longest.max(history.len());
        doctored += usize::from(is_staleness_told(history));
    }
    println!("the longest history has {longest} operations, {doctored} were doctored");
    assert!(doctored >= BUCKETS.len(), "few histories would show a stale read: {doctored}");
    // Far fewer than a machine does that has nothing else to do.
    for what in [
        "GET 200",
        "PUT 200",
        "PUT if-none-match 200",
        "PUT if-none-match 412",
        "PUT if-match 200",
        "PUT if-match 412",
        "DELETE 204",
    ] {
        assert!(counts.get(what) >= Some(&20), "{what}: {counts:?}");
    }
    let unknown = |what: &&String| what.ends_with(" 1") || what.ends_with(" 503");
    assert!(counts.keys().any(|what| unknown(&what)), "no fault was felt: {counts:?}");
}

/// Tells this key's history again with one more read at its end, of a value that was seen in the middle and
/// replaced: nobody would miss that this is wrong. `false`: there is no such value.
fn is_staleness_told(history: &[Operation]) -> bool {
    let reads = history.iter().filter_map(|operation| match operation.deed {
        Deed::Read(Some(value)) => Some(value),
        _ => None,
    });
    let Some(last) = history.iter().filter_map(|operation| operation.completed).max() else {
        return false;
    };
    let middle: Vec<u64> = reads.collect();
    let (Some(stale), Some(newest)) = (middle.get(middle.len() / 2), middle.last()) else {
        return false;
    };
    if stale == newest {
        return false;
    }
    let deed = Deed::Read(Some(*stale));
    let stale = Operation { invoked: last + 1, completed: Some(last + 2), deed };
    assert!(!linearizable(&[history, &[stale]].concat()), "a stale read passed");
    true
}
