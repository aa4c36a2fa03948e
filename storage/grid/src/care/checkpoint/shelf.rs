//! The bootstrap records that this node keeps: a file per group, the newest record and the one before.
//!
//! State: `<node>/bootstrap/<group>`, replaced as a whole and synced, so that after any crash the old
//! or the new stands there. A record that is not newer changes nothing. What records say is not
//! believed here (only gateways can open them); who may bring them is the transport's business.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_codec::GroupId;
use nexusgrid_env::{Disk, Env, OpenMode};
use parking_lot::Mutex;

use super::record::{RecordHead, head_of};
use crate::limits::{BOOTSTRAP_GROUPS_MAX, BOOTSTRAP_RECORD_BYTES_MAX, BOOTSTRAP_RECORDS_KEPT};
use crate::shard::wire::{decode, encode};

const DIR_NAME: &str = "bootstrap";

/// Records of one group, oldest first.
type Kept = Vec<(RecordHead, Bytes)>;

/// The records of one node.
pub struct Shelf {
    env: Env,
    dir: PathBuf,
    kept: Mutex<BTreeMap<GroupId, Kept>>,
    /// One file is written at a time.
    writing: tokio::sync::Mutex<()>,
}

impl Shelf {
    /// Opens what stands in a node's directory. A file that is no list of records is left out.
    pub async fn open(env: &Env, node_dir: &Path) -> io::Result<Arc<Shelf>> {
        let dir = node_dir.join(DIR_NAME);
        let (disk, at) = (Arc::clone(&env.disk), dir.clone());
        let kept = env.exec.blocking(move || load(disk.as_ref(), &at)).await?;
        Ok(Arc::new(Shelf {
            env: env.clone(),
            dir,
            kept: Mutex::new(kept),
            writing: tokio::sync::Mutex::default(),
        }))
    }

    /// Heads of all records.
    pub fn heads(&self) -> Vec<RecordHead> {
        self.kept.lock().values().flatten().map(|(head, _)| *head).collect()
    }

    /// The newest record of a group.
    pub(crate) fn newest(&self, group: GroupId) -> Option<RecordHead> {
        self.kept.lock().get(&group)?.last().map(|(head, _)| *head)
    }

    /// A record.
    pub(crate) fn get(&self, head: &RecordHead) -> Option<Bytes> {
        let kept = self.kept.lock();
        kept.get(&head.group)?.iter().find(|(of, _)| of == head).map(|(_, record)| record.clone())
    }

    /// Keeps a record; durable when it returns. One that is not newer than the newest is let go.
    pub(crate) async fn put(&self, record: Bytes) -> io::Result<()> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let head = head_of(&record).map_err(|error| invalid(&error.to_string()))?;
        if record.len() > BOOTSTRAP_RECORD_BYTES_MAX {
            return Err(invalid("the record is too long"));
        }
        let _one = self.writing.lock().await;
        let mut records = self.kept.lock().get(&head.group).cloned().unwrap_or_default();
        if records.last().is_some_and(|(newest, _)| newest.age_order() >= head.age_order()) {
            return Ok(());
        }
        if records.is_empty() && self.kept.lock().len() >= BOOTSTRAP_GROUPS_MAX {
            return Err(invalid("records of too many groups"));
        }
        records.push((head, record));
        let too_many = records.len().saturating_sub(BOOTSTRAP_RECORDS_KEPT);
        records.drain(..too_many);
        let bytes: Vec<Bytes> = records.iter().map(|(_, record)| record.clone()).collect();
        let (disk, dir) = (Arc::clone(&self.env.disk), self.dir.clone());
        self.env.exec.blocking(move || store(disk.as_ref(), &dir, head.group, &bytes)).await?;
        self.kept.lock().insert(head.group, records);
        Ok(())
    }
}

fn load(disk: &dyn Disk, dir: &Path) -> io::Result<BTreeMap<GroupId, Kept>> {
    let mut kept = BTreeMap::new();
    disk.create_dir_all(dir)?;
    if let Some(node_dir) = dir.parent() {
        disk.sync_dir(node_dir)?;
    }
    for path in disk.list(dir)? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Ok(group) = name.parse::<u32>() else { continue };
        let file = disk.open(&dir.join(name), OpenMode::Read)?;
        let len = file.len()?;
        if len > ((BOOTSTRAP_RECORD_BYTES_MAX + 64) * BOOTSTRAP_RECORDS_KEPT) as u64 {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        let Ok(records) = decode::<Vec<Bytes>>(&bytes) else {
            tracing::warn!(file = %path.display(), "not a list of bootstrap records: left out");
            continue;
        };
        let records: Kept = records
            .into_iter()
            .filter_map(|record| Some((head_of(&record).ok()?, record)))
            .filter(|(head, _)| head.group.0 == group)
            .collect();
        kept.insert(GroupId(group), records);
    }
    Ok(kept)
}

fn store(disk: &dyn Disk, dir: &Path, group: GroupId, records: &[Bytes]) -> io::Result<()> {
    let fresh = dir.join(format!("{}.new", group.0));
    let file = disk.open(&fresh, OpenMode::OpenOrCreate)?;
    file.set_len(0)?;
    file.write_at(&encode(&records), 0)?;
    file.sync()?;
    disk.rename(&fresh, &dir.join(group.0.to_string()))?;
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
        let keys = RecordKeys::new(&MasterKey::from_bytes([1; 32]), ClusterId([2; 16]));
        let head = RecordHead { group: GroupId(group), incarnation, index, taken_ms: index };
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
            assert_eq!(shelf.get(&second.0), Some(second.1));
            assert_eq!(shelf.get(&third.0), Some(third.1));
            assert_eq!(shelf.get(&first.0), None);
            assert_eq!(shelf.heads().len(), 3);
        });
    }
}
