//! Clients that put, read, delete, copy and list a few keys through any node, and what they saw.
//!
//! Time in a history is a counter of events, so that no two happen at once. A value is known by
//! its number, which is also its ETag and the seed of its bytes: a read of wrong bytes is told from
//! a read of an old value.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use nexusgrid_env::sim::SeededRng;
use nexusgrid_env::{NodeId, Rng};
use nexusgrid_grid::{
    BodyStream, ChosenPart, CompleteUploadRequest, CopyRequest, CreateUploadRequest, DeleteRequest,
    EtagMatch, Finish, Grid, GridError, ListRequest, ObjectMeta, ObjectSeal, PartRequest,
    Precondition, PutRequest, Tenant,
};
use nexusgrid_tests::history::{Deed, Operation, linearizable};
use parking_lot::Mutex;

use super::cluster::{Cluster, NODES};

/// Clients give up after so long.
const PATIENCE: Duration = Duration::from_secs(20);

/// A slow reader takes no longer: less than any reader horizon.
const SLOW_READ_MAX: Duration = Duration::from_secs(8);

/// A key is left alone when its history is as long as this: the rest of a run is for others.
const OPERATIONS_MAX: usize = 128;

/// Room left in a key's history for the reads after the faults.
const ROOM_AT_THE_END: usize = 24;

const BUCKETS: [&str; 4] = ["amber", "birch", "cedar", "dunes"];
const KEYS: [&str; 3] = ["leaf", "dir/leaf", "dir/deep/leaf"];

/// Where an object is: bucket, key.
pub type Place = (&'static str, &'static str);

pub fn places() -> impl Iterator<Item = Place> {
    BUCKETS.into_iter().flat_map(|bucket| KEYS.into_iter().map(move |key| (bucket, key)))
}

/// One operation as it began; answered or not.
struct Record {
    invoked: u64,
    completed: Option<u64>,
    deed: Deed,
}

#[derive(Default)]
struct State {
    clock: u64,
    values: u64,
    keys: BTreeMap<Place, Vec<Record>>,
    counts: BTreeMap<&'static str, u64>,
    /// What must never happen, as it happened.
    wrongs: Vec<String>,
    /// Nothing goes wrong around the clients: every read must be served.
    calm: bool,
}

/// All that clients saw.
#[derive(Default)]
pub struct Book {
    state: Mutex<State>,
}

impl Book {
    fn tick(&self) -> u64 {
        let mut state = self.state.lock();
        state.clock += 1;
        state.clock
    }

    fn new_value(&self) -> u64 {
        let mut state = self.state.lock();
        state.values += 1;
        state.values
    }

    fn begin_write(&self, place: Place, value: Option<u64>) -> usize {
        let invoked = self.tick();
        let mut state = self.state.lock();
        let records = state.keys.entry(place).or_default();
        records.push(Record { invoked, completed: None, deed: Deed::Write(value) });
        records.len() - 1
    }

    fn end_write(&self, place: Place, at: usize) {
        let now = self.tick();
        if let Some(records) = self.state.lock().keys.get_mut(&place) {
            records[at].completed = Some(now);
        }
    }

    /// It certainly did not happen, and says that the register was set or not.
    fn refused_write(&self, place: Place, at: usize) {
        if let Some(records) = self.state.lock().keys.get_mut(&place) {
            // A write that is invoked after all else and never answered says nothing.
            records[at].invoked = u64::MAX;
        }
    }

    fn read(&self, place: Place, invoked: u64, value: Option<u64>) {
        let completed = Some(self.tick());
        let record = Record { invoked, completed, deed: Deed::Read(value) };
        self.state.lock().keys.entry(place).or_default().push(record);
    }

    /// Whether a read that fails is wrong.
    pub fn expect_answers(&self, calm: bool) {
        self.state.lock().calm = calm;
    }

    pub fn count(&self, what: &'static str) {
        *self.state.lock().counts.entry(what).or_default() += 1;
    }

    pub fn wrong(&self, what: String) {
        self.state.lock().wrongs.push(what);
    }

    pub fn wrongs(&self) -> Vec<String> {
        self.state.lock().wrongs.clone()
    }

    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.state.lock().counts.clone()
    }

    fn is_full(&self, place: Place) -> bool {
        self.history(place).len() + ROOM_AT_THE_END >= OPERATIONS_MAX
    }

    /// What the checker needs of a key's history: an unanswered write whose value nobody saw could
    /// as well have happened at the very end.
    fn history(&self, place: Place) -> Vec<Operation> {
        let state = self.state.lock();
        let Some(records) = state.keys.get(&place) else { return Vec::new() };
        let seen: BTreeSet<u64> = records
            .iter()
            .filter_map(|record| match record.deed {
                Deed::Read(Some(value)) => Some(value),
                _ => None,
            })
            .collect();
        let matters = |record: &&Record| match record.deed {
            _ if record.invoked == u64::MAX => false,
            Deed::Write(Some(value)) => record.completed.is_some() || seen.contains(&value),
            _ => true,
        };
        let operation = |record: &Record| Operation {
            invoked: record.invoked,
            completed: record.completed,
            deed: record.deed,
        };
        records.iter().filter(matters).map(operation).collect()
    }

    /// Says which keys no order of their operations explains.
    pub fn check(&self) -> Vec<String> {
        let mut wrongs = self.wrongs();
        for place in places() {
            let history = self.history(place);
            if !linearizable(&history) {
                let mut lines: Vec<String> =
                    history.iter().map(|operation| format!("{operation:?}")).collect();
                lines.sort();
                wrongs.push(format!("{place:?} is not linearizable:\n  {}", lines.join("\n  ")));
            }
        }
        wrongs
    }
}

/// Bytes that follow from a value's number.
fn content(value: u64) -> Bytes {
    let mut next = stream_of(value);
    let len = match next() % 10 {
        0 => 0,
        1..=3 => next() % 1024,
        4..=6 => 1025 + next() % (15 << 10),
        7 | 8 => (16 << 10) + next() % (100 << 10),
        _ => (64 << 10) * (1 + next() % 3) + next() % 2,
    };
    fill(next, len as usize)
}

/// So many bytes that follow from a number.
pub fn content_of(value: u64, len: usize) -> Bytes {
    fill(stream_of(value), len)
}

fn stream_of(value: u64) -> impl FnMut() -> u64 {
    let mut state = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn fill(mut next: impl FnMut() -> u64, len: usize) -> Bytes {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&next().to_le_bytes());
    }
    bytes.truncate(len);
    Bytes::from(bytes)
}

fn body(bytes: &Bytes) -> BodyStream {
    let chunks: Vec<_> = bytes.chunks(20_000).map(|chunk| Ok(bytes.slice_ref(chunk))).collect();
    Box::pin(stream::iter(chunks))
}

fn etag(value: u64) -> String {
    format!("v{value}")
}

fn value_of(etag: &str) -> Option<u64> {
    etag.strip_prefix('v')?.parse().ok()
}

fn finish(value: u64) -> Finish {
    Box::new(move || Ok(ObjectSeal { etag: etag(value), ..ObjectSeal::default() }))
}

fn tenant() -> Tenant {
    Tenant("client".to_owned())
}

fn none_there() -> Precondition {
    Precondition { if_none_match: Some(EtagMatch::Any), ..Precondition::default() }
}

pub async fn put(
    grid: Grid,
    bucket: &str,
    key: &str,
    value: u64,
    precondition: Precondition,
) -> Result<(), GridError> {
    let bytes = content(value);
    let request = PutRequest {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        meta: ObjectMeta::default(),
        precondition,
        length: value.is_multiple_of(2).then_some(bytes.len() as u64),
        tenant: tenant(),
    };
    grid.put(request, body(&bytes), finish(value)).await.map(drop)
}

/// Puts any bytes under the ETag of `value`.
pub async fn put_bytes(
    grid: Grid,
    bucket: &str,
    key: &str,
    bytes: &Bytes,
    value: u64,
) -> Result<(), GridError> {
    let request = PutRequest {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        meta: ObjectMeta::default(),
        precondition: Precondition::default(),
        length: None,
        tenant: tenant(),
    };
    grid.put(request, body(bytes), finish(value)).await.map(drop)
}

async fn upload(grid: Grid, place: Place, value: u64) -> Result<(), GridError> {
    let (bucket, key) = (place.0.to_owned(), place.1.to_owned());
    let bytes = content(value);
    let request = CreateUploadRequest {
        bucket: bucket.clone(),
        key: key.clone(),
        meta: ObjectMeta::default(),
        checksum: None,
        tenant: tenant(),
    };
    let upload = grid.create_upload(request).await?.upload;
    let part = PartRequest {
        bucket: bucket.clone(),
        key: key.clone(),
        upload: upload.clone(),
        number: 1,
        length: None,
        tenant: tenant(),
    };
    let stored = grid.upload_part(part, body(&bytes), finish(value)).await?;
    let parts = vec![ChosenPart { number: 1, etag: stored.etag }];
    let request =
        CompleteUploadRequest { bucket, key, upload, parts, precondition: Precondition::default() };
    let seal =
        Box::new(move |_: &[_]| Ok(ObjectSeal { etag: etag(value), ..ObjectSeal::default() }));
    grid.complete_upload(request, seal).await.map(drop)
}

/// What a read found: a value whose bytes were right, or nothing.
/// `pause`: how long the reader takes between two chunks.
pub async fn get(
    grid: Grid,
    bucket: &str,
    key: &str,
    pause: Duration,
) -> Result<Result<Option<u64>, String>, GridError> {
    let mut got = match grid.get(bucket, key, None).await {
        Ok(got) => got,
        Err(GridError::NoSuchKey) => return Ok(Ok(None)),
        Err(error) => return Err(error),
    };
    let Some(value) = value_of(&got.info.etag) else {
        return Ok(Err(format!("{bucket}/{key} has the ETag {}", got.info.etag)));
    };
    let mut bytes = Vec::new();
    let mut left = SLOW_READ_MAX;
    while let Some(chunk) = got.body.next().await {
        bytes.extend_from_slice(&chunk?);
        if pause > Duration::ZERO && left > Duration::ZERO {
            tokio::time::sleep(pause.min(left)).await;
            left = left.saturating_sub(pause);
        }
    }
    if bytes != content(value) || got.info.size != bytes.len() as u64 {
        return Ok(Err(format!(
            "{bucket}/{key} has {} wrong bytes under {}",
            bytes.len(),
            got.info.etag
        )));
    }
    Ok(Ok(Some(value)))
}

/// Values by key of one bucket, as one page of a listing has them.
async fn list(
    grid: Grid,
    bucket: &'static str,
) -> Result<BTreeMap<String, Option<u64>>, GridError> {
    let request = ListRequest {
        bucket: bucket.to_owned(),
        prefix: String::new(),
        delimiter: None,
        after: None,
        max: 100,
    };
    let page = grid.list(request).await?;
    Ok(page.objects.into_iter().map(|object| (object.key, value_of(&object.etag))).collect())
}

/// One client: its own choices, the shared book.
pub struct Client {
    pub cluster: Arc<Cluster>,
    pub book: Arc<Book>,
    pub rng: SeededRng,
}

/// How an operation ended for who asked.
enum End<T> {
    Answer(T),
    Refusal(GridError),
    /// The node died or was silent for too long.
    Silence,
}

impl Client {
    pub fn new(cluster: &Arc<Cluster>, book: &Arc<Book>, label: &str) -> Client {
        let rng = SeededRng::for_part(cluster.world.seed(), label);
        Client { cluster: Arc::clone(cluster), book: Arc::clone(book), rng }
    }

    pub async fn make_buckets(&self) -> Result<(), String> {
        let member = self.cluster.member(NodeId(1)).ok_or("node 1 is gone")?;
        for bucket in BUCKETS {
            let made = member.grid.create_bucket(bucket, "client").await;
            made.map_err(|error| format!("making bucket {bucket}: {error}"))?;
        }
        Ok(())
    }

    /// Runs `work` at `node`, as a gateway there would.
    async fn at<T, F>(&self, node: NodeId, work: impl FnOnce(Grid) -> F) -> End<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, GridError>> + Send + 'static,
    {
        let Some(member) = self.cluster.member(node) else { return End::Silence };
        let running = member.env.exec.spawn(work(member.grid.clone()));
        match tokio::time::timeout(PATIENCE, running).await {
            Ok(Ok(Some(Ok(answer)))) => End::Answer(answer),
            Ok(Ok(Some(Err(error)))) => {
                if matches!(error, GridError::Internal(_) | GridError::DataLost(_)) {
                    self.book.wrong(format!("{node} says {error:?}"));
                }
                End::Refusal(error)
            }
            Ok(Err(panicked)) => {
                self.book.wrong(format!("{node}: {panicked}"));
                End::Silence
            }
            Ok(Ok(None)) | Err(_) => End::Silence,
        }
    }

    fn any_node(&self) -> NodeId {
        NodeId(self.rng.between(1, NODES))
    }

    /// In some seeds few keys are hot.
    fn any_place(&self) -> Place {
        let all: Vec<Place> = places().collect();
        let count = [4, 8, all.len()][(self.cluster.world.seed() % 3) as usize];
        all[self.rng.below(count as u64) as usize]
    }

    /// Does random operations until told to stop.
    pub async fn run(self, stop: tokio::sync::watch::Receiver<bool>) {
        let pace_ms = [30, 120, 500][self.rng.below(3) as usize];
        while !*stop.borrow() {
            let pause = Duration::from_millis(self.rng.between(1, pace_ms));
            tokio::time::sleep(pause).await;
            let (place, node) = (self.any_place(), self.any_node());
            let dice = self.rng.below(100);
            if self.book.is_full(place) || self.cluster.member(node).is_none() {
                continue;
            }
            match dice {
                0..30 => drop(self.put(node, place, Precondition::default()).await),
                30..36 => drop(self.put(node, place, none_there()).await),
                36..40 => self.upload(node, place).await,
                40..45 => self.copy(node, self.any_place(), place).await,
                45..57 => self.delete(node, place).await,
                57..91 => drop(self.get(node, place).await),
                91..94 => {
                    let pause = Duration::from_millis(self.rng.between(100, 3_000));
                    self.get_slowly(node, place, pause).await;
                }
                _ => drop(self.list(node, place.0).await),
            }
        }
    }

    fn trace(&self, what: std::fmt::Arguments<'_>) {
        self.cluster.world.trace().record(format_args!("client {what}"));
    }

    async fn write<F>(
        &self,
        node: NodeId,
        place: Place,
        value: Option<u64>,
        work: impl FnOnce(Grid) -> F,
    ) -> bool
    where
        F: Future<Output = Result<(), GridError>> + Send + 'static,
    {
        let at = self.book.begin_write(place, value);
        self.trace(format_args!("writes {value:?} to {place:?} at {node}"));
        let end = self.at(node, work).await;
        match &end {
            End::Answer(()) => {
                self.book.end_write(place, at);
                self.book.count("writes");
            }
            End::Refusal(
                GridError::PreconditionFailed | GridError::NoSuchKey | GridError::SlowDown,
            ) => {
                self.book.refused_write(place, at);
                self.book.count("writes refused");
            }
            End::Refusal(_) | End::Silence => self.book.count("writes of unknown outcome"),
        }
        let word = match end {
            End::Answer(()) => "done".to_owned(),
            End::Refusal(error) => error.to_string(),
            End::Silence => "silence".to_owned(),
        };
        self.trace(format_args!("hears of {value:?} to {place:?}: {word}"));
        word == "done"
    }

    pub async fn put(&self, node: NodeId, place: Place, precondition: Precondition) -> bool {
        let value = self.book.new_value();
        self.write(node, place, Some(value), move |grid| async move {
            put(grid, place.0, place.1, value, precondition).await
        })
        .await
    }

    async fn upload(&self, node: NodeId, place: Place) {
        let value = self.book.new_value();
        self.write(node, place, Some(value), |grid| upload(grid, place, value)).await;
    }

    async fn delete(&self, node: NodeId, place: Place) {
        let request = DeleteRequest {
            bucket: place.0.to_owned(),
            key: place.1.to_owned(),
            precondition: Precondition::default(),
        };
        self.write(node, place, None, |grid| async move { grid.delete(request).await }).await;
    }

    /// Copies the version it saw: a value may so be written twice.
    async fn copy(&self, node: NodeId, from: Place, to: Place) {
        let invoked = self.book.tick();
        let seen = self.at(node, |grid| async move { grid.head(from.0, from.1).await }).await;
        let End::Answer(info) = seen else { return };
        let Some(value) = value_of(&info.etag) else { return };
        self.book.read(from, invoked, Some(value));
        let request = CopyRequest {
            source_bucket: from.0.to_owned(),
            source_key: from.1.to_owned(),
            source_version: Some(info.version),
            bucket: to.0.to_owned(),
            key: to.1.to_owned(),
            meta: Some(ObjectMeta::default()),
            precondition: Precondition::default(),
            tenant: tenant(),
        };
        self.write(node, to, Some(value), |grid| async move { grid.copy(request).await.map(drop) })
            .await;
    }

    pub async fn get(&self, node: NodeId, place: Place) -> Option<Option<u64>> {
        self.get_slowly(node, place, Duration::ZERO).await
    }

    async fn get_slowly(&self, node: NodeId, place: Place, pause: Duration) -> Option<Option<u64>> {
        let invoked = self.book.tick();
        match self
            .at(node, move |grid| async move { get(grid, place.0, place.1, pause).await })
            .await
        {
            End::Answer(Ok(value)) => {
                self.trace(format_args!("reads {value:?} of {place:?} at {node}"));
                self.book.read(place, invoked, value);
                self.book.count("reads");
                Some(value)
            }
            End::Answer(Err(wrong)) => {
                self.book.wrong(wrong);
                None
            }
            End::Refusal(error) => {
                self.trace(format_args!("cannot read {place:?} at {node}: {error}"));
                if self.book.state.lock().calm {
                    self.book.wrong(format!("{place:?} cannot be read at {node}: {error}"));
                }
                self.book.count("reads failed");
                None
            }
            End::Silence => {
                self.book.count("reads failed");
                None
            }
        }
    }

    /// A listing is a read of every key of the bucket.
    pub async fn list(
        &self,
        node: NodeId,
        bucket: &'static str,
    ) -> Option<BTreeMap<String, Option<u64>>> {
        let invoked = self.book.tick();
        let End::Answer(listed) = self.at(node, |grid| list(grid, bucket)).await else {
            return None;
        };
        for key in KEYS {
            if !self.book.is_full((bucket, key)) {
                self.book.read((bucket, key), invoked, listed.get(key).copied().flatten());
            }
        }
        if listed.len() > KEYS.len() || listed.values().any(Option::is_none) {
            self.book.wrong(format!("a listing of {bucket} has {listed:?}"));
        }
        self.book.count("listings");
        Some(listed)
    }
}
