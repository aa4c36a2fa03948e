//! The sealed tails of logs that this node keeps for others: what was committed behind a checkpoint.
//!
//! State: a file per tail in `<node>/bootstrap/tails`. Its name says which it is, so that nothing but the
//! directory is read at a start; what is in it only a gateway can open. A tail is durable before it is
//! acknowledged, and goes when no record of its group needs it any more. Their number and bytes are
//! bounded: whoever brings more hears that it is too much, and takes a checkpoint instead.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_codec::GroupId;
use nexusgrid_env::{Disk, Env, OpenMode};
use nexusgrid_meta::tail::LogPlace;
use parking_lot::Mutex;

use super::record::{TailHead, tail_head_of};
use super::shelf::replace;
use crate::limits::{BOOTSTRAP_GROUPS_MAX, TAIL_BYTES_MAX, TAILS_KEPT, TAILS_KEPT_BYTES};

const DIR_NAME: &str = "tails";

/// Tails of one group and their lengths, those that lead farthest last.
type Kept = BTreeMap<(u64, LogPlace, LogPlace, u64), u64>;

/// The tails of one node.
pub(super) struct Tails {
    env: Env,
    dir: PathBuf,
    kept: Mutex<BTreeMap<GroupId, Kept>>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
}

/// What became of a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// It is durable.
    Kept,
    /// There is no room for more of its group.
    Full,
}

fn order(head: &TailHead) -> (u64, LogPlace, LogPlace, u64) {
    (head.incarnation, head.end, head.after, head.taken_ms)
}

fn head(group: GroupId, order: &(u64, LogPlace, LogPlace, u64)) -> TailHead {
    let (incarnation, end, after, taken_ms) = *order;
    TailHead { group, incarnation, after, end, taken_ms }
}

fn file_name(head: &TailHead) -> String {
    let TailHead { group, incarnation, after, end, taken_ms } = head;
    format!(
        "{}-{incarnation}-{}.{}-{}.{}-{taken_ms}",
        group.0, after.index, after.term, end.index, end.term
    )
}

fn parse(name: &str) -> Option<TailHead> {
    let place = |text: &str| {
        let (index, term) = text.split_once('.')?;
        Some(LogPlace { index: index.parse().ok()?, term: term.parse().ok()? })
    };
    let mut parts = name.split('-');
    let head = TailHead {
        group: GroupId(parts.next()?.parse().ok()?),
        incarnation: parts.next()?.parse().ok()?,
        after: place(parts.next()?)?,
        end: place(parts.next()?)?,
        taken_ms: parts.next()?.parse().ok()?,
    };
    (file_name(&head) == name).then_some(head)
}

impl Tails {
    pub(super) async fn open(env: &Env, records_dir: &Path) -> io::Result<Tails> {
        let dir = records_dir.join(DIR_NAME);
        let (disk, at) = (Arc::clone(&env.disk), dir.clone());
        let kept = env.exec.blocking(move || load(disk.as_ref(), &at)).await?;
        let (env, kept) = (env.clone(), Mutex::new(kept));
        Ok(Tails { env, dir, kept, changing: tokio::sync::Mutex::default() })
    }

    /// Tails of a group.
    pub(super) fn heads(&self, group: GroupId) -> Vec<TailHead> {
        let kept = self.kept.lock();
        kept.get(&group).into_iter().flatten().map(|(order, _)| head(group, order)).collect()
    }

    /// A sealed tail; an error if its file cannot be read.
    pub(super) async fn get(&self, head: &TailHead) -> io::Result<Option<Bytes>> {
        let is_kept = |kept: &Kept| kept.contains_key(&order(head));
        if !self.kept.lock().get(&head.group).is_some_and(is_kept) {
            return Ok(None);
        }
        let (disk, path) = (Arc::clone(&self.env.disk), self.dir.join(file_name(head)));
        let read = self.env.exec.blocking(move || {
            let file = disk.open(&path, OpenMode::Read)?;
            let len = usize::try_from(file.len()?).unwrap_or(usize::MAX).min(TAIL_BYTES_MAX);
            let mut bytes = vec![0; len];
            let read = file.read_at(&mut bytes, 0)?;
            bytes.truncate(read);
            io::Result::Ok(Bytes::from(bytes))
        });
        read.await.map(Some)
    }

    /// Keeps a sealed tail; durable when it returns. `newest` is the newest record of its group here:
    /// what leads up to it only goes first when room is short.
    pub(super) async fn put(&self, sealed: Bytes, newest: Option<(u64, u64)>) -> io::Result<Put> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let head = tail_head_of(&sealed).map_err(|error| invalid(&error.to_string()))?;
        if sealed.len() > TAIL_BYTES_MAX || head.end.index <= head.after.index {
            return Err(invalid("a tail that is too long, or empty"));
        }
        let group = head.group;
        let len = sealed.len() as u64;
        {
            let kept = self.kept.lock();
            let of_group = kept.get(&group);
            if of_group.is_some_and(|of_group| of_group.contains_key(&order(&head))) {
                return Ok(Put::Kept);
            }
            if of_group.is_none() && kept.len() >= BOOTSTRAP_GROUPS_MAX {
                return Ok(Put::Full);
            }
        }
        if !self.has_room(group, len)
            && let Some(newest) = newest
        {
            self.forget(group, newest).await;
        }
        let _one = self.changing.lock().await;
        if !self.has_room(group, len) {
            return Ok(Put::Full);
        }
        let (disk, dir, name) = (Arc::clone(&self.env.disk), self.dir.clone(), file_name(&head));
        let written = self.env.exec.blocking(move || replace(disk.as_ref(), &dir, &name, &sealed));
        written.await?;
        self.kept.lock().entry(group).or_default().insert(order(&head), len);
        Ok(Put::Kept)
    }

    fn has_room(&self, group: GroupId, bytes: u64) -> bool {
        let kept = self.kept.lock();
        kept.get(&group).is_none_or(|kept| {
            kept.len() < TAILS_KEPT && kept.values().sum::<u64>() + bytes <= TAILS_KEPT_BYTES
        })
    }

    /// Lets go of what a checkpoint of (incarnation, index) holds itself.
    pub(super) async fn forget(&self, group: GroupId, upto: (u64, u64)) {
        let _one = self.changing.lock().await;
        let covered: Vec<TailHead> = {
            let mut kept = self.kept.lock();
            let Some(of_group) = kept.get_mut(&group) else { return };
            let is_covered =
                |order: &(u64, LogPlace, LogPlace, u64)| (order.0, order.1.index) <= upto;
            let covered: Vec<_> =
                of_group.keys().filter(|order| is_covered(order)).copied().collect();
            of_group.retain(|order, _| !is_covered(order));
            if of_group.is_empty() {
                kept.remove(&group);
            }
            covered.iter().map(|order| head(group, order)).collect()
        };
        if covered.is_empty() {
            return;
        }
        let (disk, dir) = (Arc::clone(&self.env.disk), self.dir.clone());
        let removed = self.env.exec.blocking(move || {
            covered.iter().try_for_each(|head| disk.remove_file(&dir.join(file_name(head))))
        });
        // What stays is found at the next start, and goes then.
        if let Err(error) = removed.await {
            tracing::warn!(%error, group = group.0, "removing old tails of a log");
        }
    }
}

fn load(disk: &dyn Disk, dir: &Path) -> io::Result<BTreeMap<GroupId, Kept>> {
    disk.create_dir_all(dir)?;
    if let Some(parent) = dir.parent() {
        disk.sync_dir(parent)?;
    }
    let mut kept: BTreeMap<GroupId, Kept> = BTreeMap::new();
    let listed = disk.list(dir).unwrap_or_else(|error| {
        tracing::error!(%error, dir = %dir.display(), "tails of logs cannot be listed");
        Vec::new()
    });
    for path in listed {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let path = dir.join(name);
        let Some(head) = parse(name) else {
            // Of a write that a crash cut short.
            if let Err(error) = disk.remove_file(&path) {
                tracing::error!(file = %path.display(), %error, "removing what is no tail of a log");
            }
            continue;
        };
        match disk.open(&path, OpenMode::Read).and_then(|file| file.len()) {
            Ok(len) => drop(kept.entry(head.group).or_default().insert(order(&head), len)),
            // It may be read again at the next start, and may be the last one: it stays.
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "a tail of a log cannot be read now");
            }
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use nexusgrid_codec::{ClusterId, MasterKey};
    use nexusgrid_env::NodeId;
    use nexusgrid_env::sim::World;
    use nexusgrid_meta::tail::LogTail;

    use super::super::record::RecordKeys;
    use super::*;

    fn sealed(incarnation: u64, after: u64, end: u64, bytes: usize) -> (TailHead, Bytes) {
        let keys = RecordKeys::new(&MasterKey::from_bytes([1; 32]), ClusterId([2; 16]));
        let place = |index| LogPlace { index, term: 2 };
        let (after, end) = (place(after), place(end));
        let head = TailHead { group: GroupId(3), incarnation, after, end, taken_ms: 5 };
        // A single command of so many bytes.
        let mut tail = vec![1, 3, 1, 2, 1, 2, 2];
        let mut len = bytes;
        while len >= 0x80 {
            tail.push((len & 0x7f) as u8 | 0x80);
            len >>= 7;
        }
        tail.push(len as u8);
        tail.resize(tail.len() + bytes, 7);
        let tail = LogTail::decode(&tail).unwrap();
        (head, keys.seal_tail(head, &tail, [0; 12]).unwrap().into())
    }

    #[test]
    fn tails_stay_across_a_power_cut_until_a_checkpoint_covers_them() {
        let world = World::new(1);
        let inner = world.clone();
        world.run(async move {
            let (node, dir) = (NodeId(1), Path::new("/node"));
            let env = inner.start(node);
            env.disk.create_dir_all(dir).unwrap();
            env.disk.sync_dir(Path::new("/")).unwrap();
            let tails = Tails::open(&env, dir).await.unwrap();
            let made = [sealed(1, 10, 20, 4), sealed(1, 20, 25, 4), sealed(2, 5, 15, 4)];
            for (_, tail) in &made {
                assert_eq!(tails.put(tail.clone(), None).await.unwrap(), Put::Kept);
                assert_eq!(tails.put(tail.clone(), None).await.unwrap(), Put::Kept, "again");
            }
            assert!(tails.put(Bytes::from_static(b"no tail"), None).await.is_err());
            let torn = env.disk.open(&dir.join("tails/3-1-1.1-2.1-5.new"), OpenMode::OpenOrCreate);
            torn.unwrap().sync().unwrap();
            // What cannot be read at a start is not served, and not thrown away.
            let unread = sealed(1, 30, 40, 4).0;
            env.disk.create_dir_all(&dir.join("tails").join(file_name(&unread))).unwrap();
            env.disk.sync_dir(&dir.join("tails")).unwrap();
            inner.crash(node);
            let env = inner.start(node);
            let tails = Tails::open(&env, dir).await.unwrap();
            assert_eq!(tails.heads(GroupId(3)), made.clone().map(|(head, _)| head));
            assert_eq!(tails.heads(GroupId(4)), []);
            for (head, tail) in &made {
                assert_eq!(tails.get(head).await.unwrap().as_ref(), Some(tail));
            }
            tails.forget(GroupId(3), (1, 24)).await;
            assert_eq!(tails.heads(GroupId(3)), [made[1].0, made[2].0]);
            tails.forget(GroupId(3), (2, 1)).await;
            assert_eq!(tails.heads(GroupId(3)), [made[2].0]);
            assert_eq!(env.disk.list(&dir.join("tails")).unwrap().len(), 2);
            assert!(env.disk.exists(&dir.join("tails").join(file_name(&unread))).unwrap());
        });
    }

    #[test]
    fn their_bytes_are_bounded_and_what_the_newest_record_holds_goes_first() {
        let world = World::new(2);
        let inner = world.clone();
        world.run(async move {
            let env = inner.start(NodeId(1));
            let tails = Tails::open(&env, Path::new("/node")).await.unwrap();
            let bytes = TAIL_BYTES_MAX - 1_000;
            let fit = TAILS_KEPT_BYTES / (bytes as u64 + 100);
            for at in 1..=fit {
                let (_, tail) = sealed(1, at, at + 1, bytes);
                assert_eq!(tails.put(tail, Some((1, 1))).await.unwrap(), Put::Kept, "{at}");
            }
            let (_, more) = sealed(1, fit + 1, fit + 2, bytes);
            assert_eq!(tails.put(more.clone(), Some((1, 1))).await.unwrap(), Put::Full);
            assert_eq!(tails.put(more, Some((1, 5))).await.unwrap(), Put::Kept);
            assert_eq!(tails.heads(GroupId(3)).len() as u64, fit - 3);
        });
    }
}
