//! A group's state: the machine's rows, the applied index, the membership and kept replies, in one
//! store over [`nexusgrid_env::Kv`].
//!
//! ```text
//! <group>/GROUP      raft id and number of the current store (replaced atomically)
//!         state-N/   the current store
//!         snap-N/    a checkpoint to send
//!         recv-N/    a snapshot being received
//! ```
//! *Keeps* I6: rows, reply, membership and applied index of an entry are one batch. Batches are not
//! synced: the log replays what is missing, and [`StateStore::flush`] runs before the log forgets.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use nexusgrid_codec::id::GroupId;
use nexusgrid_env::{Batch, Durability, Env, Invariant, Kv, KvError, KvOptions, KvRead, KvVerify};
use openraft::storage::{
    ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot,
};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::encode::{decode, encode, open, seal};
use super::guard::{Rot, guarded};
use super::log::floor::{read_file, replace_file};
use super::types::{
    Entry, LogId, MetaTypes, RaftId, Reply, SnapshotMeta, StoredMembership, generation_of, node_of,
};
use super::wire::Standing;
use crate::host::watchers::{Changed, Watchers, marks};
use crate::limits::{
    APPLY_CHUNK_ENTRIES, APPLY_IN_PLACE_ENTRIES, BATCH_ROWS_MAX, REPLY_WINDOW_ENTRIES,
};
use crate::machine::{ApplyContext, FAMILY_RAFT, FAMILY_REPLIES, HOST_FAMILIES, StateMachine};

const IDENTITY_FILE: &str = "GROUP";
/// How often it is looked whether another thread has come from one statement to the next; it may be put off between them.
const NOTED_LOOKS: usize = 1_000_000;
/// A checkpoint that is being read; a leaving if the process ends meanwhile.
const VERIFY_DIR: &str = "snap-verify";
const KEY_APPLIED: &[u8] = b"applied";
const KEY_MEMBERSHIP: &[u8] = b"membership";
/// No node's generation counts as lower: set where a group is founded from a checkpoint.
const KEY_GENERATION_BASE: &[u8] = b"generation-base";
const GENERATIONS: &[u8] = b"generation/";

/// Who this node is in a group, and which store holds its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub group: GroupId,
    pub raft_id: RaftId,
    pub store: u64,
}

impl Identity {
    /// A replica that begins. Its store has a number of its own: that of a replica which was here before
    /// may still be open, for someone who reads it.
    pub(crate) fn new(group: GroupId, raft_id: RaftId) -> Identity {
        Identity { group, raft_id, store: (u64::from(generation_of(raft_id)) << 32) + 1 }
    }

    /// What stands in a group's directory; `None` if the node has no part in the group.
    pub(crate) fn load(disk: &dyn nexusgrid_env::Disk, dir: &Path) -> io::Result<Option<Identity>> {
        let path = dir.join(IDENTITY_FILE);
        if !disk.exists(&path)? {
            return Ok(None);
        }
        Ok(Some(open(&read_file(disk, &path)?, "group identity")?))
    }

    /// Makes `self` durable in a group's directory.
    pub(crate) fn store(&self, disk: &dyn nexusgrid_env::Disk, dir: &Path) -> io::Result<()> {
        replace_file(disk, dir, IDENTITY_FILE, &seal(self))
    }
}

/// Files of a checkpoint.
#[derive(Debug)]
pub struct SnapshotFiles {
    pub(crate) dir: PathBuf,
    /// Name and length, sorted by name.
    pub(crate) files: Vec<(String, u64)>,
}

struct Current {
    kv: Arc<dyn Kv>,
    number: u64,
}

/// The state of one group on this node.
pub(crate) struct StateStore {
    env: Env,
    dir: PathBuf,
    machine: Arc<dyn StateMachine>,
    identity: Mutex<Identity>,
    current: RwLock<Current>,
    /// Held while entries are applied, and while a checkpoint is taken.
    apply: Mutex<()>,
    applied: watch::Sender<u64>,
    /// The newest snapshot last, before it those still being sent.
    snapshots: Mutex<Vec<(SnapshotMeta, Arc<SnapshotFiles>)>>,
    numbers: Mutex<u64>,
    retired: Mutex<Vec<(Arc<dyn Kv>, PathBuf)>>,
    rot: Arc<Rot>,
    watchers: Watchers,
    /// The entry whose rows may be seen, and the last of which the watchers have been told.
    writing: AtomicU64,
    noted: AtomicU64,
}

pub(crate) fn failed(error: KvError) -> io::Error {
    match error {
        KvError::Corrupt(_) => io::Error::new(io::ErrorKind::InvalidData, error),
        _ => io::Error::other(error),
    }
}

fn reply_key(request_id: u128) -> Vec<u8> {
    let mut key = vec![b'r'];
    key.extend_from_slice(&request_id.to_be_bytes());
    key
}

fn age_key(index: u64) -> Vec<u8> {
    let mut key = vec![b'i'];
    key.extend_from_slice(&index.to_be_bytes());
    key
}

fn generation_key(node: u64) -> Vec<u8> {
    let mut key = GENERATIONS.to_vec();
    key.extend_from_slice(&node.to_be_bytes());
    key
}

/// How a machine's store is opened.
pub(crate) fn options(machine: &dyn StateMachine) -> KvOptions {
    let blob_families = machine.blob_families().to_vec();
    let plain = machine.families().iter().filter(|family| !blob_families.contains(family));
    let families = HOST_FAMILIES.iter().chain(plain).copied().collect();
    KvOptions { families, blob_families, create: true }
}

/// Where a store of a group's directory is.
pub(crate) fn store_dir(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("state-{number}"))
}

fn read_row<T: serde::de::DeserializeOwned>(kv: &dyn KvRead, key: &[u8]) -> io::Result<Option<T>> {
    match kv.get(FAMILY_RAFT, key).map_err(failed)? {
        Some(bytes) => Ok(Some(decode(&bytes, "state row")?)),
        None => Ok(None),
    }
}

fn known_generation(kv: &dyn KvRead, node: nexusgrid_env::NodeId) -> io::Result<u16> {
    let own: u16 = read_row(kv, &generation_key(node.0))?.unwrap_or(0);
    let base: u16 = read_row(kv, KEY_GENERATION_BASE)?.unwrap_or(0);
    Ok(own.max(base))
}

/// Term and index of the newest entry that a view holds. Blocks.
pub(crate) fn applied_in(kv: &dyn KvRead) -> io::Result<Option<(u64, u64)>> {
    let applied = read_row::<Option<LogId>>(kv, KEY_APPLIED)?.flatten();
    Ok(applied.map(|id| (id.leader_id.term, id.index)))
}

/// The highest generation that any node ever had, as a view knows. Blocks.
pub(crate) fn highest_generation(kv: &dyn KvRead) -> io::Result<u16> {
    let mut highest: u16 = read_row(kv, KEY_GENERATION_BASE)?.unwrap_or(0);
    let all = nexusgrid_env::ScanRange::prefix(GENERATIONS, usize::MAX);
    for (_, value) in kv.scan(FAMILY_RAFT, &all).map_err(failed)? {
        highest = highest.max(decode(&value, "state row")?);
    }
    Ok(highest)
}

/// Whether the command of an entry was answered by the machine, and not from a kept reply; `None` if a
/// view cannot tell any more. Blocks.
pub(crate) fn took_effect(kv: &dyn KvRead, applied: u64, index: u64) -> io::Result<Option<bool>> {
    if applied.saturating_sub(index) >= REPLY_WINDOW_ENTRIES {
        return Ok(None);
    }
    Ok(Some(kv.get(FAMILY_REPLIES, &age_key(index)).map_err(failed)?.is_some()))
}

/// The host's own rows of a group that begins at `applied`.
pub(crate) fn begin(
    batch: &mut Batch,
    applied: LogId,
    membership: &StoredMembership,
    generation_base: u16,
) {
    batch.put(FAMILY_RAFT, KEY_APPLIED, encode(&Some(applied)));
    batch.put(FAMILY_RAFT, KEY_MEMBERSHIP, encode(membership));
    batch.put(FAMILY_RAFT, KEY_GENERATION_BASE, encode(&generation_base));
    for (id, _) in membership.membership().nodes() {
        batch.put(FAMILY_RAFT, generation_key(node_of(*id).0), encode(&generation_of(*id)));
    }
}

impl StateStore {
    /// Opens the store that `identity` names, and removes leavings of earlier runs. Blocks.
    pub(crate) fn open(
        env: &Env,
        dir: &Path,
        identity: Identity,
        machine: Arc<dyn StateMachine>,
    ) -> io::Result<Arc<StateStore>> {
        let keep = format!("state-{}", identity.store);
        for path in env.disk.list(dir)? {
            let name =
                path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let leaving =
                ["state-", "snap-", "recv-"].iter().any(|prefix| name.starts_with(prefix));
            if leaving && name != keep {
                env.disk.remove_dir_all(&dir.join(&name))?;
            }
        }
        env.disk.sync_dir(dir)?;
        let rot = Arc::new(Rot::default());
        let kv = env.kv.open(&store_dir(dir, identity.store), &options(&*machine));
        let kv = guarded(kv.map_err(failed)?, rot.clone());
        let applied: Option<LogId> = read_row::<Option<LogId>>(&*kv, KEY_APPLIED)?.flatten();
        let (applied, _) = watch::channel(applied.map_or(0, |id| id.index));
        Ok(Arc::new(StateStore {
            env: env.clone(),
            dir: dir.to_path_buf(),
            machine,
            identity: Mutex::new(identity),
            current: RwLock::new(Current { kv, number: identity.store }),
            apply: Mutex::new(()),
            applied,
            snapshots: Mutex::new(Vec::new()),
            numbers: Mutex::new(identity.store),
            retired: Mutex::new(Vec::new()),
            rot,
            watchers: Watchers::default(),
            writing: AtomicU64::new(0),
            noted: AtomicU64::new(0),
        }))
    }

    /// Those who remember what this replica answered while it led.
    pub(crate) fn watchers(&self) -> &Watchers {
        &self.watchers
    }

    /// Completes when all that is being applied now has been. Blocks.
    pub(crate) fn settle(&self) {
        drop(self.apply.lock());
    }

    /// Completes when the watchers are told of every change that can have been seen before this was called; `None`: none
    /// can be any more.
    pub(crate) async fn noted(&self) -> Option<()> {
        let seen = self.writing.load(Ordering::SeqCst);
        for _ in 0..NOTED_LOOKS {
            if self.noted.load(Ordering::SeqCst) >= seen {
                return Some(());
            }
            // It is between two statements.
            tokio::task::yield_now().await;
        }
        None
    }

    /// The store as it is now.
    pub(crate) fn kv(&self) -> Arc<dyn Kv> {
        self.current.read().kv.clone()
    }

    /// What was found rotten in the state since it was opened.
    pub(crate) fn rotten(&self) -> Option<String> {
        self.rot.found()
    }

    /// Begins to read all of the store against its checksums. Blocks.
    pub(crate) fn verify(&self) -> Result<Box<dyn KvVerify>, KvError> {
        self.kv().verify(&self.dir.join(VERIFY_DIR))
    }

    /// Reads the identity file again, and writes it again if it is rotten; says whether it was.
    pub(crate) fn verify_identity(&self) -> io::Result<bool> {
        // Held, so that no newer identity is written in between.
        let identity = self.identity.lock();
        match Identity::load(&*self.env.disk, &self.dir) {
            Ok(Some(_)) => Ok(false),
            Err(error) if error.kind() != io::ErrorKind::InvalidData => Err(error),
            _ => identity.store(&*self.env.disk, &self.dir).map(|()| true),
        }
    }

    /// The machine.
    pub(crate) fn machine(&self) -> Arc<dyn StateMachine> {
        self.machine.clone()
    }

    /// Index of the newest applied entry; zero before the first.
    pub(crate) fn watch_applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// A number for a directory, new in this run.
    pub(crate) fn next_number(&self) -> u64 {
        let mut numbers = self.numbers.lock();
        *numbers += 1;
        *numbers
    }

    /// The highest generation under which `node` was ever a member.
    pub(crate) fn generation(&self, node: nexusgrid_env::NodeId) -> io::Result<u16> {
        known_generation(&*self.kv(), node)
    }

    /// What the applied entries say of an incarnation. A leader draws an id above all it has applied,
    /// so one that is not above and no member was let go, or lost to another before it was taken in.
    /// Blocks.
    pub(crate) fn standing(&self, id: RaftId) -> io::Result<Standing> {
        let rows = self.kv().snapshot().map_err(failed)?;
        let membership: StoredMembership = read_row(&*rows, KEY_MEMBERSHIP)?.unwrap_or_default();
        if membership.membership().get_node(&id).is_some() {
            return Ok(Standing::Member);
        }
        let known = known_generation(&*rows, node_of(id))?;
        Ok(if generation_of(id) <= known { Standing::Gone } else { Standing::Unknown })
    }

    /// Makes what was applied durable without the log; fails unless it covers `upto`.
    pub(crate) async fn flush(self: &Arc<Self>, upto: Option<&LogId>) -> io::Result<()> {
        let (store, upto) = (self.clone(), upto.cloned());
        self.env
            .exec
            .blocking(move || {
                let kv = store.kv();
                let applied = read_row::<Option<LogId>>(&*kv, KEY_APPLIED)?.flatten();
                if upto.as_ref().is_some_and(|upto| applied.as_ref() < Some(upto)) {
                    return Err(io::Error::other("entries not applied yet must not be purged"));
                }
                kv.flush().map_err(failed)
            })
            .await
    }

    fn apply_entry(&self, kv: &dyn Kv, previous: u64, entry: &Entry) -> io::Result<Reply> {
        let index = entry.log_id.index;
        // The first entry of a group has index zero.
        let follows = index == previous + 1 || index == 0;
        self.env.invariants.check(Invariant::I6, follows, || {
            format!("group {} applies {index} after {previous}", self.identity.lock().group.0)
        });
        let mut reply = Reply::default();
        let mut batch = Batch::default();
        let mut changed = None;
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(envelope) => {
                let key = reply_key(envelope.request_id);
                if let Some(kept) = kv.get(FAMILY_REPLIES, &key).map_err(failed)? {
                    reply = decode(&kept, "kept reply")?;
                    changed = Some((envelope.request_id, Changed::Before));
                } else {
                    let context = ApplyContext { index, group: self.identity.lock().group };
                    let applied =
                        self.machine.apply(kv, &context, &envelope.body).map_err(failed)?;
                    if applied.batch.changes.len() > BATCH_ROWS_MAX {
                        tracing::error!(
                            index,
                            rows = applied.batch.changes.len(),
                            "a command changes too many rows"
                        );
                    }
                    self.env.invariants.enter(applied.checks);
                    batch = applied.batch;
                    if self.watchers.is_on() {
                        let rows = Changed::Rows(marks(&batch.changes));
                        changed = Some((envelope.request_id, rows));
                    }
                    reply = Reply(Bytes::from(applied.reply));
                    batch.put(FAMILY_REPLIES, key, encode(&reply));
                    batch.put(FAMILY_REPLIES, age_key(index), envelope.request_id.to_be_bytes());
                }
            }
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                batch.put(FAMILY_RAFT, KEY_MEMBERSHIP, encode(&stored));
                for (id, _) in membership.nodes() {
                    let key = generation_key(node_of(*id).0);
                    let known: u16 = read_row(kv, &key)?.unwrap_or(0);
                    if generation_of(*id) > known {
                        batch.put(FAMILY_RAFT, key, encode(&generation_of(*id)));
                    }
                }
            }
        }
        if let Some(old) = index.checked_sub(REPLY_WINDOW_ENTRIES)
            && let Some(id) = kv.get(FAMILY_REPLIES, &age_key(old)).map_err(failed)?
        {
            let mut key = vec![b'r'];
            key.extend_from_slice(&id);
            batch.delete(FAMILY_REPLIES, key);
            batch.delete(FAMILY_REPLIES, age_key(old));
        }
        batch.put(FAMILY_RAFT, KEY_APPLIED, encode(&Some(entry.log_id)));
        self.writing.store(index, Ordering::SeqCst);
        kv.write(batch, Durability::Unsynced).map_err(failed)?;
        if let Some((request, changed)) = changed.filter(|_| self.watchers.is_on()) {
            self.watchers.applied(index, request, changed);
        }
        self.noted.store(index, Ordering::SeqCst);
        Ok(reply)
    }

    /// Applies entries that follow each other. Blocks.
    fn apply_chunk(
        &self,
        chunk: Vec<EntryResponder<MetaTypes>>,
    ) -> io::Result<Vec<(ApplyResponder<MetaTypes>, Reply)>> {
        let _still = self.apply.lock();
        let kv = self.kv();
        let mut replied = Vec::with_capacity(chunk.len());
        let mut last = None;
        for (entry, responder) in chunk {
            let previous = last.unwrap_or_else(|| *self.applied.borrow());
            let reply = self.apply_entry(&*kv, previous, &entry)?;
            last = Some(entry.log_id.index);
            if let Some(responder) = responder {
                replied.push((responder, reply));
            }
        }
        if let Some(last) = last {
            self.applied.send_replace(last);
        }
        Ok(replied)
    }

    fn applied_rows(&self, kv: &dyn KvRead) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = read_row::<Option<LogId>>(kv, KEY_APPLIED)?.flatten();
        let membership = read_row(kv, KEY_MEMBERSHIP)?.unwrap_or_default();
        Ok((applied, membership))
    }

    /// Takes a checkpoint of now. Blocks.
    fn checkpoint(&self) -> io::Result<(SnapshotMeta, Arc<SnapshotFiles>)> {
        let dir = self.dir.join(format!("snap-{}", self.next_number()));
        // Most of the work is done before appliers have to wait.
        self.kv().flush().map_err(failed)?;
        let (applied, membership) = {
            let _still = self.apply.lock();
            let kv = self.kv();
            kv.checkpoint(&dir).map_err(failed)?;
            self.applied_rows(&*kv)?
        };
        let mut files = Vec::new();
        for path in self.env.disk.list(&dir)? {
            let name =
                path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            // A lock file is of the store that was copied, not of the copy.
            if name != "LOCK" {
                let len =
                    self.env.disk.open(&dir.join(&name), nexusgrid_env::OpenMode::Read)?.len()?;
                files.push((name, len));
            }
        }
        let meta = SnapshotMeta { last_log_id: applied, last_membership: membership };
        let snapshot = (meta, Arc::new(SnapshotFiles { dir, files }));
        let mut kept = self.snapshots.lock();
        let (sending, idle): (Vec<_>, Vec<_>) = std::mem::take(&mut *kept)
            .into_iter()
            .partition(|(_, files)| Arc::strong_count(files) > 1);
        *kept = sending;
        for (_, files) in idle {
            self.env.disk.remove_dir_all(&files.dir)?;
        }
        kept.push(snapshot.clone());
        Ok(snapshot)
    }

    /// Puts received files in place of the state. Blocks.
    fn install(&self, meta: &SnapshotMeta, files: &SnapshotFiles) -> io::Result<()> {
        let disk = &*self.env.disk;
        let number = self.next_number();
        let dir = store_dir(&self.dir, number);
        disk.rename(&files.dir, &dir)?;
        disk.sync_dir(&self.dir)?;
        let kv = self.env.kv.open(&dir, &options(&*self.machine)).map_err(failed)?;
        let kv = guarded(kv, self.rot.clone());
        let (applied, membership) = self.applied_rows(&*kv)?;
        if applied != meta.last_log_id || membership != meta.last_membership {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a received snapshot is not what its head says",
            ));
        }
        kv.flush().map_err(failed)?;
        let old = {
            let _still = self.apply.lock();
            let mut current = self.identity.lock();
            let identity = Identity { store: number, ..*current };
            identity.store(disk, &self.dir)?;
            *current = identity;
            std::mem::replace(&mut *self.current.write(), Current { kv, number })
        };
        self.applied.send_replace(applied.map_or(0, |id| id.index));
        self.retired.lock().push((old.kv, store_dir(&self.dir, old.number)));
        self.destroy_retired()
    }

    /// Removes replaced stores that nobody reads any more; the rest goes at the next start.
    fn destroy_retired(&self) -> io::Result<()> {
        let mut retired = self.retired.lock();
        let (read, idle): (Vec<_>, Vec<_>) = std::mem::take(&mut *retired)
            .into_iter()
            .partition(|(kv, _)| Arc::strong_count(kv) > 1);
        *retired = read;
        for (kv, dir) in idle {
            drop(kv);
            self.env.kv.destroy(&dir).map_err(failed)?;
        }
        Ok(())
    }
}

/// openraft's handle on a [`StateStore`].
#[derive(Clone)]
pub(crate) struct Machine(pub Arc<StateStore>);

impl RaftStateMachine<MetaTypes> for Machine {
    type SnapshotData = Arc<SnapshotFiles>;
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let store = self.0.clone();
        self.0.env.exec.blocking(move || store.applied_rows(&*store.kv())).await
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<MetaTypes>, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(APPLY_CHUNK_ENTRIES);
        while let Some(chunk) = chunks.next().await {
            let chunk: Vec<EntryResponder<MetaTypes>> =
                chunk.into_iter().collect::<io::Result<_>>()?;
            let store = self.0.clone();
            let brief = chunk.len() <= APPLY_IN_PLACE_ENTRIES;
            let work = move || store.apply_chunk(chunk);
            let exec = &self.0.env.exec;
            let replied = if brief { exec.brief(work).await } else { exec.blocking(work).await }?;
            for (responder, reply) in replied {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Arc<SnapshotFiles>,
    ) -> io::Result<()> {
        let (store, meta) = (self.0.clone(), meta.clone());
        self.0
            .env
            .exec
            .blocking(move || {
                store.install(&meta, &snapshot)?;
                // This node may have to send it on.
                store.checkpoint().map(drop)
            })
            .await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotToSend>> {
        let kept = self.0.snapshots.lock();
        Ok(kept
            .last()
            .map(|(meta, files)| Snapshot { meta: meta.clone(), snapshot: files.clone() }))
    }
}

type SnapshotToSend = openraft::type_config::alias::SnapshotOf<MetaTypes, Arc<SnapshotFiles>>;

impl RaftSnapshotBuilder<MetaTypes> for Machine {
    type SnapshotData = Arc<SnapshotFiles>;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotToSend> {
        let store = self.0.clone();
        let (meta, snapshot) = self.0.env.exec.blocking(move || store.checkpoint()).await?;
        Ok(Snapshot { meta, snapshot })
    }
}
