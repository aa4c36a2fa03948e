//! What snapshots show in a mount: `.snapshots` in every directory, and in it the directory as it was.
//!
//! ```text
//!   number of a node   ┌ 0 ┬─ which snapshot ─┬───── its number there ─────┐
//!                     63  62                53                            0
//!     snapshot 0: now     1 … 1000: a snapshot's number     1023: `.snapshots` of that directory
//! ```
//! So a node of a snapshot has a number of its own, the same after a restart of whoever serves the mount. Nothing of it
//! changes: whoever tries hears that it is read-only. What is found there is the group's answer each time; whoever asks
//! may believe it until the snapshot is dropped, or a while longer.

use nexusgrid_meta::namespace::types::{
    DirEntry, NamespaceAnswer, NamespaceCommand, NamespaceOk, NamespaceQuery, PosixDone, PosixOp,
    PosixQuery, Snapshot, SnapshotId,
};
use parking_lot::Mutex;

use super::{Attrs, Ino, Node, NodeKind, PosixError, Volume, VolumeError};
use crate::core::internal;

/// The name under which every directory shows what it was.
pub const SNAPSHOTS_NAME: &[u8] = b".snapshots";

/// Bits of a node's own number. A group gets to numbers beyond after 2⁴¹ commands.
const OWN_BITS: u32 = 53;

/// Instead of a snapshot's number: the directory of all of them.
const ALL: u64 = 1_023;

/// What a node's number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// It is a node of now.
    Now,
    /// It shows the snapshots of this directory.
    All(Ino),
    /// It is a node of the snapshot of this number.
    Past(u16, Ino),
}

impl When {
    pub(super) fn of(ino: Ino) -> When {
        let own = Ino(ino.0 & ((1 << OWN_BITS) - 1));
        match ino.0 >> OWN_BITS {
            0 => When::Now,
            ALL => When::All(own),
            number => When::Past(u16::try_from(number).unwrap_or(u16::MAX), own),
        }
    }

    fn ino(self, now: Ino) -> Ino {
        match self {
            When::Now => now,
            When::All(own) => Ino(ALL << OWN_BITS | own.0),
            When::Past(number, own) => Ino(u64::from(number) << OWN_BITS | own.0),
        }
    }
}

/// Whether a node is one that a snapshot shows, or their directory: nothing changes there.
pub fn is_past(ino: Ino) -> bool {
    When::of(ino) != When::Now
}

/// Snapshots by number, as they were seen last.
#[derive(Default)]
pub(super) struct Seen(Mutex<Vec<(u16, SnapshotId)>>);

impl Seen {
    fn find(&self, number: u16) -> Option<SnapshotId> {
        self.0.lock().iter().find(|(known, _)| *known == number).map(|(_, id)| *id)
    }

    fn note(&self, snapshots: &[Snapshot]) {
        *self.0.lock() = snapshots.iter().map(|one| (one.number, one.id)).collect();
    }

    fn forget(&self, id: SnapshotId) {
        self.0.lock().retain(|(_, known)| *known != id);
    }
}

/// The node that a question is about.
fn asked(query: &PosixQuery) -> Option<Ino> {
    match query {
        PosixQuery::Node { ino }
        | PosixQuery::Lookup { parent: ino, .. }
        | PosixQuery::Entries { ino, .. }
        | PosixQuery::Xattr { ino, .. }
        | PosixQuery::Xattrs { ino }
        | PosixQuery::Map { ino, .. }
        | PosixQuery::Conflict { ino, .. } => Some(*ino),
        PosixQuery::Holds { .. } => None,
    }
}

/// The same question about the node's own number.
fn about(query: PosixQuery, own: Ino) -> PosixQuery {
    match query {
        PosixQuery::Node { .. } => PosixQuery::Node { ino: own },
        PosixQuery::Lookup { name, .. } => PosixQuery::Lookup { parent: own, name },
        PosixQuery::Entries { after, limit, .. } => PosixQuery::Entries { ino: own, after, limit },
        PosixQuery::Xattr { name, .. } => PosixQuery::Xattr { ino: own, name },
        PosixQuery::Xattrs { .. } => PosixQuery::Xattrs { ino: own },
        PosixQuery::Map { offset, len, .. } => PosixQuery::Map { ino: own, offset, len },
        PosixQuery::Conflict { mount, owner, range, kind, .. } => {
            PosixQuery::Conflict { ino: own, mount, owner, range, kind }
        }
        holds @ PosixQuery::Holds { .. } => holds,
    }
}

/// Refuses operations that would change what a snapshot shows.
pub(super) fn check_ops(ops: &[PosixOp]) -> Result<(), PosixError> {
    match ops.iter().any(changes_past) {
        true => Err(PosixError::ReadOnly),
        false => Ok(()),
    }
}

fn changes_past(op: &PosixOp) -> bool {
    use PosixOp as O;
    match op {
        O::Root => false,
        O::Adopt { parent: ino, .. }
        | O::Make { parent: ino, .. }
        | O::Unlink { parent: ino, .. }
        | O::Rmdir { parent: ino, .. }
        | O::SetAttrs { ino, .. }
        | O::SetXattr { ino, .. }
        | O::Write { ino, .. }
        | O::Append { ino, .. }
        | O::Replace { ino, .. }
        | O::Resize { ino, .. }
        | O::Punch { ino, .. }
        | O::Hold { ino }
        | O::Release { ino }
        | O::Lock { ino, .. }
        | O::UnlockAll { ino, .. }
        | O::Lengthen { ino, .. }
        | O::Clear { ino, .. }
        | O::Spread { ino, .. }
        | O::CopyPast { to: (ino, _), .. } => is_past(*ino),
        O::Rename { from: (from, _), to: (to, _), .. }
        | O::CopyRange { from: (from, _), to: (to, _), .. } => is_past(*from) || is_past(*to),
        O::Link { ino, parent, .. } => is_past(*ino) || is_past(*parent),
    }
}

/// A node with the number that it has in a mount.
fn shown(number: u16, node: Node) -> Node {
    let ino = node.ino.map(|ino| When::Past(number, ino).ino(ino));
    Node { ino, ..node }
}

fn shown_in(number: u16, answer: NamespaceAnswer) -> NamespaceAnswer {
    use NamespaceAnswer as A;
    match answer {
        A::Node(node) => A::Node(Box::new(shown(number, *node))),
        A::Entries { entries, more } => {
            let one = |entry: DirEntry| DirEntry { node: shown(number, entry.node), ..entry };
            A::Entries { entries: entries.into_iter().map(one).collect(), more }
        }
        A::FileMap { node, map, .. } => {
            A::FileMap { node: Box::new(shown(number, *node)), key: None, map }
        }
        other => other,
    }
}

impl Volume {
    /// What a question comes to that is about a snapshot; `None`: it is not.
    pub(super) async fn ask_past(
        &self,
        query: &PosixQuery,
    ) -> Option<Result<NamespaceAnswer, VolumeError>> {
        match When::of(asked(query)?) {
            When::Now => None,
            When::All(dir) => Some(Box::pin(self.ask_all(dir, query.clone())).await),
            When::Past(number, own) => Some(self.ask_one(number, own, query.clone()).await),
        }
    }

    async fn ask_one(
        &self,
        number: u16,
        own: Ino,
        query: PosixQuery,
    ) -> Result<NamespaceAnswer, VolumeError> {
        // Nobody changes anything there.
        if matches!(query, PosixQuery::Conflict { .. }) {
            return Ok(NamespaceAnswer::Conflict(None));
        }
        let snapshot = self.snapshot(number).await?;
        let (bucket, query) = (self.bucket.id, about(query, own));
        let query = NamespaceQuery::Past { bucket, snapshot, query };
        let answer = self.core.meta.ask(self.bucket.group, &query).await;
        Ok(shown_in(number, self.heard_of(snapshot, answer)?))
    }

    /// What a group said of a snapshot: perhaps that it is gone.
    fn heard_of<T>(
        &self,
        id: SnapshotId,
        said: Result<T, crate::meta_port::MetaError>,
    ) -> Result<T, VolumeError> {
        use crate::meta_port::MetaError;
        use nexusgrid_meta::namespace::types::NamespaceError;
        said.map_err(|error| match error {
            MetaError::Namespace(NamespaceError::NoSuchSnapshot) => {
                self.snapshots.forget(id);
                PosixError::Stale.into()
            }
            error => error.into(),
        })
    }

    async fn snapshot(&self, number: u16) -> Result<SnapshotId, VolumeError> {
        if let Some(id) = self.snapshots.find(number) {
            return Ok(id);
        }
        self.snapshots.note(&self.all_snapshots(None).await?);
        Ok(self.snapshots.find(number).ok_or(PosixError::Stale)?)
    }

    async fn all_snapshots(&self, of: Option<Ino>) -> Result<Vec<Snapshot>, VolumeError> {
        let query = NamespaceQuery::Snapshots { bucket: self.bucket.id, of };
        match self.core.meta.ask(self.bucket.group, &query).await? {
            NamespaceAnswer::Snapshots(snapshots) => Ok(snapshots),
            _ => Err(internal("answer to a query for snapshots").into()),
        }
    }

    /// What `.snapshots` of a directory answers.
    async fn ask_all(&self, dir: Ino, query: PosixQuery) -> Result<NamespaceAnswer, VolumeError> {
        use NamespaceAnswer as A;
        match query {
            PosixQuery::Node { .. } => Ok(A::Node(Box::new(self.snapshots_of(dir).await?))),
            PosixQuery::Lookup { name, .. } => {
                let found = self.all_snapshots(Some(dir)).await?;
                let one = found.iter().find(|one| one.name.as_bytes() == name);
                let one = one.ok_or(PosixError::NotFound)?;
                self.ask_one(one.number, dir, PosixQuery::Node { ino: dir }).await
            }
            PosixQuery::Entries { after, limit, .. } => {
                let mut found = self.all_snapshots(Some(dir)).await?;
                found.sort_by(|one, other| one.name.cmp(&other.name));
                found.retain(|one| {
                    after.as_ref().is_none_or(|after| one.name.as_bytes() > after.as_slice())
                });
                let more = found.len() > limit as usize;
                let mut entries = Vec::new();
                for one in found.into_iter().take(limit as usize) {
                    let query = PosixQuery::Node { ino: dir };
                    let node = match self.ask_one(one.number, dir, query).await {
                        Ok(A::Node(node)) => *node,
                        // Dropped meanwhile.
                        Ok(_) | Err(VolumeError::Posix(_)) => continue,
                        Err(error) => return Err(error),
                    };
                    let name = one.name.into_bytes();
                    entries.push(DirEntry { stored: name.clone(), name, node });
                }
                Ok(A::Entries { entries, more })
            }
            PosixQuery::Xattr { .. } => Err(PosixError::NoAttribute.into()),
            PosixQuery::Xattrs { .. } => Ok(A::Xattrs(Vec::new())),
            PosixQuery::Conflict { .. } => Ok(A::Conflict(None)),
            PosixQuery::Map { .. } | PosixQuery::Holds { .. } => {
                Err(PosixError::IsDirectory.into())
            }
        }
    }

    /// `.snapshots` of a directory of now: whoever may look at that may look here, and nobody may change anything.
    async fn snapshots_of(&self, dir: Ino) -> Result<Node, VolumeError> {
        let node = Box::pin(self.node(dir)).await?;
        if node.kind != NodeKind::Directory {
            return Err(PosixError::NotDirectory.into());
        }
        let attrs = Attrs { mode: node.attrs.mode.map(|mode| mode & 0o555), ..node.attrs };
        Ok(Node { ino: Some(When::All(dir).ino(dir)), attrs, links: 2, ..node })
    }

    /// What a name leads to in a directory of now, if that may be [`SNAPSHOTS_NAME`]: whatever really has the name
    /// goes first.
    pub(super) async fn lookup_all(&self, parent: Ino) -> Result<Node, VolumeError> {
        let query = PosixQuery::Lookup { parent, name: SNAPSHOTS_NAME.to_vec() };
        match self.recall(query).await {
            Ok(NamespaceAnswer::Node(node)) if node.ino.is_some() => Ok(*node),
            Ok(NamespaceAnswer::Node(_)) => self.adopt(parent, SNAPSHOTS_NAME).await,
            Ok(_) => Err(internal("answer to a lookup").into()),
            Err(VolumeError::Posix(PosixError::NotFound)) => self.snapshots_of(parent).await,
            Err(error) => Err(error),
        }
    }

    /// Gives numbers to names in a directory that a snapshot shows; `None`: it is one of now.
    pub(super) async fn adopt_past(
        &self,
        parent: Ino,
        names: &[Vec<u8>],
    ) -> Option<Result<Vec<Option<Node>>, VolumeError>> {
        match When::of(parent) {
            When::Now => None,
            When::All(_) => Some(Err(PosixError::Stale.into())),
            When::Past(number, own) => Some(self.adopt_in(number, own, names.to_vec()).await),
        }
    }

    async fn adopt_in(
        &self,
        number: u16,
        parent: Ino,
        names: Vec<Vec<u8>>,
    ) -> Result<Vec<Option<Node>>, VolumeError> {
        let (bucket, snapshot) = (self.bucket.id, self.snapshot(number).await?);
        let command = NamespaceCommand::AdoptPast { bucket, snapshot, parent, names };
        let done = self.core.meta.command(self.bucket.group, &command).await;
        let NamespaceOk::Posix(results) = self.heard_of(snapshot, done)? else {
            return Err(internal("reply to an adoption").into());
        };
        match results.into_iter().next() {
            Some(Ok(PosixDone::Nodes(nodes))) => {
                Ok(nodes.into_iter().map(|node| node.map(|node| shown(number, node))).collect())
            }
            Some(Err(error)) => Err(error.into()),
            _ => Err(internal("reply to an adoption").into()),
        }
    }

    /// The operation that copies from a file, whichever time that is of.
    pub(super) async fn copy_op(
        &self,
        from: (Ino, u64),
        to: (Ino, u64),
        len: u64,
    ) -> Result<PosixOp, VolumeError> {
        let key = self.fresh_row().await?;
        Ok(match When::of(from.0) {
            When::Now => PosixOp::CopyRange { from, to, len, key },
            When::All(_) => return Err(PosixError::IsDirectory.into()),
            When::Past(number, own) => {
                let snapshot = self.snapshot(number).await?;
                PosixOp::CopyPast { snapshot, from: (own, from.1), to, len, key }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::AttrsChange;
    use super::*;

    #[test]
    fn numbers_say_which_snapshot_they_are_of() {
        for own in [Ino::ROOT, Ino(4_096), Ino((1 << OWN_BITS) - 1)] {
            assert_eq!(When::of(own), When::Now);
            for when in [When::All(own), When::Past(1, own), When::Past(1_000, own)] {
                let ino = when.ino(own);
                assert_eq!(When::of(ino), when);
                assert!(is_past(ino) && ino.0 >> 63 == 0, "{ino:?} is a number for programs");
            }
        }
        assert!(is_past(Ino(u64::MAX)), "whatever is no number of now");
    }

    #[test]
    fn nothing_of_a_snapshot_is_changed() {
        let past = When::Past(3, Ino(4_096)).ino(Ino(0));
        let now = Ino(4_096);
        let rename = |from, to| PosixOp::Rename {
            from: (from, b"a".to_vec()),
            to: (to, b"b".to_vec()),
            mode: super::super::RenameMode::Replace,
        };
        let attrs = |ino| PosixOp::SetAttrs { ino, change: AttrsChange::default() };
        assert_eq!(check_ops(&[attrs(now), rename(now, now)]), Ok(()));
        for op in [attrs(past), rename(now, past), rename(past, now)] {
            assert_eq!(check_ops(&[attrs(now), op]), Err(PosixError::ReadOnly));
        }
    }
}
