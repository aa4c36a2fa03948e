//! The bootstrap records that this node keeps: a file per group, the newest record and the one before.
//! Beside them the tails of logs that it keeps ([`super::tails`]), for as long as a record needs them.
//!
//! State: `<node>/bootstrap/<group>`, replaced as a whole and synced, so that after any crash the old
//! or the new stands there; in memory only what records say in clear. A record that is not newer changes
//! nothing. A file that cannot be read, or is no list of records, is set aside and reported, and stops
//! nobody: the group's voters have others. What records say is not believed here (only gateways can
//! open them); who may bring them is the transport's business.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_codec::GroupId;
use nexusgrid_env::{Disk, Env, OpenMode};
use parking_lot::Mutex;

use super::record::{RecordHead, head_of};
use super::tails::Tails;
use crate::limits::{BOOTSTRAP_GROUPS_MAX, BOOTSTRAP_RECORD_BYTES_MAX, BOOTSTRAP_RECORDS_KEPT};
use crate::shard::wire::{decode, encode};

const DIR_NAME: &str = "bootstrap";
/// Behind the name of a file that was set aside.
const DAMAGED: &str = "damaged";

/// Heads of one group's records, oldest first.
type Kept = Vec<RecordHead>;

#[derive(Default)]
struct State {
    kept: BTreeMap<GroupId, Kept>,
    /// Groups whose file was set aside, until another record came.
    damaged: BTreeSet<GroupId>,
}

/// The records of one node.
pub struct Shelf {
    env: Env,
    dir: PathBuf,
    state: Mutex<State>,
    /// One file is written at a time.
    writing: tokio::sync::Mutex<()>,
    /// The tails that lead on from the records.
    pub(super) tails: Tails,
}

impl Shelf {
    /// Opens what stands in a node's directory.
    pub async fn open(env: &Env, node_dir: &Path) -> io::Result<Arc<Shelf>> {
        let dir = node_dir.join(DIR_NAME);
        let (disk, at) = (Arc::clone(&env.disk), dir.clone());
        let state = env.exec.blocking(move || load(disk.as_ref(), &at)).await?;
        Ok(Arc::new(Shelf {
            env: env.clone(),
            state: Mutex::new(state),
            writing: tokio::sync::Mutex::default(),
            tails: Tails::open(env, &dir).await?,
            dir,
        }))
    }

    /// Heads of all records.
    pub fn heads(&self) -> Vec<RecordHead> {
        self.state.lock().kept.values().flatten().copied().collect()
    }

    /// Groups whose records here were damaged, and that no other record came of since.
    pub fn damaged(&self) -> Vec<GroupId> {
        self.state.lock().damaged.iter().copied().collect()
    }

    /// The newest record of a group.
    pub(crate) fn newest(&self, group: GroupId) -> Option<RecordHead> {
        self.state.lock().kept.get(&group)?.last().copied()
    }

    /// A record; an error if its file cannot be read.
    pub(crate) async fn get(&self, head: &RecordHead) -> io::Result<Option<Bytes>> {
        let is_kept = |kept: &Kept| kept.contains(head);
        if !self.state.lock().kept.get(&head.group).is_some_and(is_kept) {
            return Ok(None);
        }
        let records = self.read(head.group).await?;
        Ok(records.into_iter().find(|(of, _)| of == head).map(|(_, record)| record))
    }

    async fn read(&self, group: GroupId) -> io::Result<Vec<(RecordHead, Bytes)>> {
        let (disk, path) = (Arc::clone(&self.env.disk), self.dir.join(group.0.to_string()));
        self.env.exec.blocking(move || read(disk.as_ref(), &path, group)).await
    }

    /// Keeps a record; durable when it returns. One that is not newer than the newest is let go.
    pub(crate) async fn put(&self, record: Bytes) -> io::Result<()> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let head = head_of(&record).map_err(|error| invalid(&error.to_string()))?;
        if record.len() > BOOTSTRAP_RECORD_BYTES_MAX {
            return Err(invalid("the record is too long"));
        }
        let _one = self.writing.lock().await;
        let newest = self.newest(head.group);
        if newest.is_some_and(|newest| newest.age_order() >= head.age_order()) {
            return Ok(());
        }
        let mut records = match newest {
            None if self.state.lock().kept.len() >= BOOTSTRAP_GROUPS_MAX => {
                return Err(invalid("records of too many groups"));
            }
            None => Vec::new(),
            // One that is rotten by now is of no use: the new one takes its place.
            Some(_) => self.read(head.group).await.unwrap_or_default(),
        };
        records.push((head, record));
        let too_many = records.len().saturating_sub(BOOTSTRAP_RECORDS_KEPT);
        records.drain(..too_many);
        let (heads, bytes): (Kept, Vec<Bytes>) = records.into_iter().unzip();
        let (disk, dir) = (Arc::clone(&self.env.disk), self.dir.clone());
        self.env.exec.blocking(move || store(disk.as_ref(), &dir, head.group, &bytes)).await?;
        let oldest = heads.first().copied();
        {
            let mut state = self.state.lock();
            state.kept.insert(head.group, heads);
            state.damaged.remove(&head.group);
        }
        if let Some(oldest) = oldest {
            self.tails.forget(head.group, oldest.state_order()).await;
        }
        Ok(())
    }
}

fn load(disk: &dyn Disk, dir: &Path) -> io::Result<State> {
    let mut state = State::default();
    disk.create_dir_all(dir)?;
    if let Some(node_dir) = dir.parent() {
        disk.sync_dir(node_dir)?;
    }
    let listed = disk.list(dir).unwrap_or_else(|error| {
        tracing::error!(%error, dir = %dir.display(), "bootstrap records cannot be listed");
        Vec::new()
    });
    for path in listed {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Ok(number) = name.parse::<u32>() else { continue };
        let (group, path) = (GroupId(number), dir.join(name));
        match read(disk, &path, group) {
            Ok(records) => {
                state.kept.insert(group, records.into_iter().map(|(head, _)| head).collect());
            }
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "a file of bootstrap records is damaged and set aside");
                state.damaged.insert(group);
                // Whether or not that works: nothing is read from it, and the next record replaces it.
                if let Err(error) = disk.rename(&path, &dir.join(format!("{name}.{DAMAGED}"))) {
                    tracing::error!(file = %path.display(), %error, "setting it aside");
                }
            }
        }
    }
    Ok(state)
}

/// What stands in a group's file.
fn read(disk: &dyn Disk, path: &Path, group: GroupId) -> io::Result<Vec<(RecordHead, Bytes)>> {
    let rotten = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let file = disk.open(path, OpenMode::Read)?;
    let len = file.len()?;
    if len > ((BOOTSTRAP_RECORD_BYTES_MAX + 64) * BOOTSTRAP_RECORDS_KEPT) as u64 {
        return Err(rotten("too long"));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    let records: Vec<Bytes> = decode(&bytes).map_err(|_| rotten("not a list of records"))?;
    let mut kept = Vec::with_capacity(records.len());
    for record in records {
        match head_of(&record) {
            Ok(head) if head.group == group => kept.push((head, record)),
            _ => return Err(rotten("not a record of its group")),
        }
    }
    Ok(kept)
}

fn store(disk: &dyn Disk, dir: &Path, group: GroupId, records: &[Bytes]) -> io::Result<()> {
    replace(disk, dir, &group.0.to_string(), &encode(&records))
}

/// Puts a file in place, durably.
pub(super) fn replace(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let fresh = dir.join(format!("{name}.new"));
    let file = disk.open(&fresh, OpenMode::OpenOrCreate)?;
    file.set_len(0)?;
    file.write_at(bytes, 0)?;
    file.sync()?;
    disk.rename(&fresh, &dir.join(name))?;
    disk.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use nexusgrid_codec::{ClusterId, MasterKey};
    use nexusgrid_env::NodeId;
    use nexusgrid_env::sim::World;

    use super::super::record::{RecordBody, RecordKeys};
    use super::*;

    fn record(group: u32, incarnation: u64, index: u64) -> (RecordHead, Bytes) {
        record_at(group, incarnation, index, index)
    }

    fn record_at(group: u32, incarnation: u64, index: u64, taken_ms: u64) -> (RecordHead, Bytes) {
        let keys = RecordKeys::new(&MasterKey::from_bytes([1; 32]), ClusterId([2; 16]));
        let head = RecordHead { group: GroupId(group), incarnation, index, taken_ms };
        let body = RecordBody {
            bytes: 1,
            generation: 1,
            wrapped_key: Vec::new(),
            extents: Vec::new(),
            topology: Vec::new(),
        };
        (head, keys.seal(head, &body, [0; 12]).unwrap().into())
    }

    #[test]
    fn the_newest_two_are_kept_across_a_power_cut() {
        let world = World::new(1);
        let inner = world.clone();
        world.run(async move {
            let node = NodeId(1);
            let dir = Path::new("/node");
            let env = inner.start(node);
            env.disk.create_dir_all(dir).unwrap();
            env.disk.sync_dir(Path::new("/")).unwrap();
            let shelf = Shelf::open(&env, dir).await.unwrap();
            let first = record(3, 1, 10);
            let second = record(3, 1, 20);
            let third = record(3, 2, 5);
            for record in [&first, &second, &first, &third, &second] {
                shelf.put(record.1.clone()).await.unwrap();
            }
            shelf.put(record(4, 1, 1).1).await.unwrap();
            assert!(shelf.put(Bytes::from_static(b"no record")).await.is_err());
            inner.crash(node);
            let shelf = Shelf::open(&inner.start(node), dir).await.unwrap();
            assert_eq!(shelf.newest(GroupId(3)), Some(third.0));
            assert_eq!(shelf.get(&second.0).await.unwrap(), Some(second.1));
            assert_eq!(shelf.get(&third.0).await.unwrap(), Some(third.1));
            assert_eq!(shelf.get(&first.0).await.unwrap(), None);
            assert_eq!(shelf.heads().len(), 3);
        });
    }

    #[test]
    fn of_a_quiet_group_the_records_taken_last_are_kept() {
        let world = World::new(3);
        let inner = world.clone();
        world.run(async move {
            let env = inner.start(NodeId(1));
            let dir = Path::new("/node");
            let shelf = Shelf::open(&env, dir).await.unwrap();
            shelf.put(record(3, 1, 5).1).await.unwrap();
            // Nothing happens between them: one index. Each has an object of its own, and of these
            // only the last ones stay.
            let taken: Vec<_> = (10..15).map(|taken_ms| record_at(3, 1, 7, taken_ms)).collect();
            for (head, record) in &taken {
                shelf.put(record.clone()).await.unwrap();
                assert_eq!(shelf.newest(GroupId(3)), Some(*head));
            }
            // One that was on its way for long, and the newest again: nothing changes.
            shelf.put(taken[1].1.clone()).await.unwrap();
            shelf.put(taken[4].1.clone()).await.unwrap();
            let shelf = Shelf::open(&env, dir).await.unwrap();
            assert_eq!(shelf.heads(), [taken[3].0, taken[4].0]);
            assert_eq!(shelf.get(&taken[4].0).await.unwrap().as_ref(), Some(&taken[4].1));
        });
    }

    #[test]
    fn a_rotten_file_is_set_aside_and_reported_until_another_record_comes() {
        let world = World::new(2);
        let inner = world.clone();
        world.run(async move {
            let dir = Path::new("/node");
            let env = inner.start(NodeId(1));
            let shelf = Shelf::open(&env, dir).await.unwrap();
            let (third, fourth) = (record(3, 1, 10), record(4, 1, 10));
            shelf.put(third.1).await.unwrap();
            shelf.put(fourth.1).await.unwrap();
            let file = env.disk.open(&dir.join("bootstrap/3"), OpenMode::OpenOrCreate).unwrap();
            file.write_at(&[0xff; 4], 0).unwrap();
            // A directory in a file's place cannot be read either.
            env.disk.create_dir_all(&dir.join("bootstrap/5")).unwrap();

            let shelf = Shelf::open(&env, dir).await.unwrap();
            assert_eq!(shelf.heads(), [fourth.0]);
            assert_eq!(shelf.damaged(), [GroupId(3), GroupId(5)]);
            assert!(env.disk.exists(&dir.join("bootstrap/3.damaged")).unwrap());
            // The same record again is news here.
            shelf.put(record(3, 1, 10).1).await.unwrap();
            assert_eq!(shelf.newest(GroupId(3)), Some(third.0));
            assert_eq!(shelf.damaged(), [GroupId(5)]);
        });
    }
}
