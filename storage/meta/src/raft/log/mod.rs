//! One segment log for many groups: what they have to sync is written and synced together.
//!
//! ```text
//! groups ──append, vote, truncate, purge──▶ index (memory) + queue ──writer──▶ one write, one sync
//!                                             ▲ readers                             │ callbacks, floors
//!                                             └──────── where entries lie ──────────┘
//! ```
//! *Owns* the files of its directory. *Keeps*: an entry is called durable only after the sync that
//! covers it; only an unsynced tail may be lost, a hole never; segments go from the oldest on, when no
//! entry of theirs is needed (and each segment begins with every group's marks). After an error the
//! log is dead: a failed fsync is never tried again.

pub(crate) mod floor;
mod format;
mod index;
mod recover;
mod store;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_codec::GroupId;
use nexusgrid_env::Env;
use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

pub(crate) use floor::Floor;
use floor::FloorFile;
use index::{GroupIndex, Index, Marks, Place};
pub(crate) use recover::LogDamage;
use recover::Segment;
pub(crate) use store::GroupLog;
pub(crate) use verify::inspect_log;

use crate::raft::types::{LogId, MetaTypes, Vote};

/// Tunables of a log. Tests shorten them.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// A segment is closed when it holds so much. Default 16 MiB.
    pub segment_bytes_max: u64,
    /// Newest entries kept in memory, over all groups. Default 8 MiB.
    pub cache_bytes_max: usize,
    /// How often floors of groups that only appended are written. Default 1 s.
    pub floor_interval: std::time::Duration,
    /// With more sealed segments than this, the oldest one's last entries are copied forward.
    /// Default 8.
    pub segments_soft_max: usize,
    /// With less room than this on its disk the log waits: the states beside it must never meet a
    /// full disk. Default 32 MiB.
    pub headroom_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes_max: 16 * 1024 * 1024,
            cache_bytes_max: 8 * 1024 * 1024,
            floor_interval: std::time::Duration::from_secs(1),
            segments_soft_max: 8,
            headroom_bytes: 32 * 1024 * 1024,
        }
    }
}

/// Tells a waiter how its change went.
type Done = oneshot::Sender<io::Result<()>>;

/// One change on its way to disk.
enum Op {
    Entries {
        group: u32,
        items: Vec<(u64, u64, Bytes)>,
        replaced: Vec<Place>,
        after: Floor,
        callback: IOFlushed<MetaTypes>,
    },
    Marks {
        group: u32,
        marks: Marks,
        freed: Vec<Place>,
        after: Floor,
        done: Option<Done>,
    },
    Truncate {
        group: u32,
        index: u64,
        freed: Vec<Place>,
        after: Floor,
    },
    Drop {
        group: u32,
        freed: Vec<Place>,
        done: Done,
    },
    /// Entries of the oldest segment, to be written again so that it can go.
    Copies {
        items: Vec<Straggler>,
    },
    /// Write out the floors that lag behind.
    Floors {
        done: Option<Done>,
    },
}

/// An entry that holds a segment otherwise free.
struct Straggler {
    group: u32,
    index: u64,
    stamp: u64,
    place: Place,
    bytes: Bytes,
}

#[derive(Default)]
struct State {
    index: Index,
    queue: Vec<Op>,
    queued_bytes: usize,
    segments: BTreeMap<u64, Segment>,
    /// The segment whose stragglers were last queued.
    copying: Option<u64>,
    /// Why the log is dead.
    dead: Option<String>,
    /// What of its files was found damaged.
    rotten: Option<String>,
}

struct Shared {
    env: Env,
    dir: PathBuf,
    options: LogOptions,
    state: Mutex<State>,
    floors: Mutex<BTreeMap<u32, FloorSlot>>,
    /// The writer has work.
    work: Notify,
    /// The queue got shorter.
    drained: Notify,
}

struct FloorSlot {
    file: FloorFile,
    written: Floor,
    durable: Floor,
}

/// A log that groups share. Clones are the same log.
#[derive(Clone)]
pub(crate) struct SegmentLog {
    shared: Arc<Shared>,
}

fn dead(why: &str) -> io::Error {
    io::Error::other(format!("the log is closed: {why}"))
}

impl SegmentLog {
    /// The newest vote that a group here saved, or is saving: none higher was granted so far.
    pub(crate) fn vote(&self, group: GroupId) -> io::Result<Option<Vote>> {
        let state = self.shared.state.lock();
        state.check()?;
        Ok(state.index.groups.get(&group.0).and_then(|group| group.marks.vote))
    }

    /// Opens (or makes) the log in `dir` and starts its writer. Returns also how many bytes of an
    /// unsynced tail were cut.
    pub(crate) async fn open(
        env: &Env,
        dir: &Path,
        options: LogOptions,
    ) -> Result<(SegmentLog, u64), LogDamage> {
        let (disk, at) = (env.disk.clone(), dir.to_path_buf());
        let found = env.exec.blocking(move || recover::recover(&*disk, &at)).await?;
        let shared = Arc::new(Shared {
            env: env.clone(),
            dir: dir.to_path_buf(),
            options,
            state: Mutex::new(State {
                index: found.index,
                segments: found.segments,
                ..State::default()
            }),
            floors: Mutex::new(BTreeMap::new()),
            work: Notify::new(),
            drained: Notify::new(),
        });
        let log = SegmentLog { shared };
        drop(env.exec.spawn(writer::run(log.shared.clone(), found.next_sequence)));
        let ticker = log.clone();
        drop(env.exec.spawn(async move {
            loop {
                ticker.shared.env.clock.sleep(ticker.shared.options.floor_interval).await;
                if ticker.push(Op::Floors { done: None }).is_err() {
                    return;
                }
            }
        }));
        Ok((log, found.cut_bytes))
    }

    /// What the log proves of a group.
    pub(crate) fn floor_of(&self, group: u32) -> Floor {
        self.shared.state.lock().index.groups.get(&group).map(GroupIndex::floor).unwrap_or_default()
    }

    /// From now on keeps the group's floor in `dir`.
    pub(crate) fn keep_floor(&self, group: u32, file: FloorFile, written: Floor) {
        let durable = self.floor_of(group);
        self.shared.floors.lock().insert(group, FloorSlot { file, written, durable });
    }

    /// Bytes of entries a group holds in the log.
    pub(crate) fn bytes_of(&self, group: u32) -> u64 {
        let state = self.shared.state.lock();
        let Some(group) = state.index.groups.get(&group) else { return 0 };
        group.slots.values().filter_map(|slot| slot.place).map(|place| u64::from(place.bytes)).sum()
    }

    /// How many segments there are.
    #[cfg(test)]
    pub(crate) fn segments(&self) -> usize {
        self.shared.state.lock().segments.len()
    }

    /// Forgets a group, durably.
    pub(crate) async fn drop_group(&self, group: u32) -> io::Result<()> {
        let (done, result) = oneshot::channel();
        self.shared.floors.lock().remove(&group);
        {
            let mut state = self.shared.state.lock();
            let freed = state
                .index
                .groups
                .remove(&group)
                .map_or_else(Vec::new, |mut group| group.cut_from(0));
            state.check()?;
            state.queue.push(Op::Drop { group, freed, done });
        }
        self.shared.work.notify_one();
        result.await.unwrap_or_else(|_| Err(dead("it stopped")))
    }

    /// Waits until all that was asked for is durable, floors included.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        let (done, result) = oneshot::channel();
        self.push(Op::Floors { done: Some(done) })?;
        result.await.unwrap_or_else(|_| Err(dead("it stopped")))
    }

    fn push(&self, op: Op) -> io::Result<()> {
        {
            let mut state = self.shared.state.lock();
            state.check()?;
            state.queue.push(op);
        }
        self.shared.work.notify_one();
        Ok(())
    }
}

impl State {
    fn check(&self) -> io::Result<()> {
        match &self.dead {
            Some(why) => Err(dead(why)),
            None => Ok(()),
        }
    }

    fn group(&mut self, group: u32) -> &mut GroupIndex {
        self.index.groups.entry(group).or_default()
    }

    /// Places where entries no longer needed lie were freed, durably.
    fn free(&mut self, places: &[Place]) {
        for place in places {
            if let Some(segment) = self.segments.get_mut(&place.segment) {
                segment.live = segment.live.saturating_sub(1);
                segment.live_bytes = segment.live_bytes.saturating_sub(u64::from(place.bytes));
            }
        }
    }
}

fn index_of(id: &Option<LogId>) -> Option<u64> {
    id.as_ref().map(|id| id.index)
}
