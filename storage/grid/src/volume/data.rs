//! Bytes of files: ranges read, ranges written into blocks and laid over the file by one command.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use nexusgrid_codec::seal;
use nexusgrid_codec::{Code, ContentKey, SessionId};
use nexusgrid_meta::namespace::types::{
    ContentBody, ContentMap, NamespaceAnswer, NamespaceError, NewContent, PosixOp, PosixQuery,
    WrappedKey,
};

use super::{AttrsChange, Ino, Moment, Node, NodeKind, PosixError, Volume, VolumeError, is_past};
use crate::api::{ResolvedRange, Tenant};
use crate::core::internal;
use crate::error::GridError;
use crate::keys::FreshKey;
use crate::limits;
use crate::meta_port::{CommandId, MetaError};
use crate::read::ContentRange;
use crate::session::Pin;
use crate::stripe::{BlockKind, Payload};
use crate::write::extent;

/// Bytes to be written at an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRange {
    /// Where in the file.
    pub offset: u64,
    /// What; at least one byte.
    pub pieces: Vec<Bytes>,
}

impl FileRange {
    /// Its bytes.
    fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

/// A file's map and the key of what is written to it.
pub(super) struct Mapped {
    pub(super) node: Node,
    key: Option<WrappedKey>,
    pub(super) map: ContentMap,
}

/// Where bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// Where their ranges say; and when programs wrote them.
    Given(Option<Moment>),
    /// Behind the file's end.
    End,
}

impl Where {
    fn modified(self) -> Option<Moment> {
        match self {
            Where::Given(modified) => modified,
            Where::End => None,
        }
    }
}

/// Names of what one request proposes: what was refused is another request when it is made anew. Who repeats
/// the request goes the same way again.
pub(super) struct Rounds {
    request: Option<CommandId>,
    number: usize,
}

impl Rounds {
    pub(super) fn of(request: Option<CommandId>) -> Rounds {
        Rounds { request, number: 0 }
    }

    pub(super) fn next(&mut self) -> Option<CommandId> {
        let id = self.request.map(|id| id.again(self.number));
        self.number += 1;
        id
    }

    /// The last one was not proposed: it is what is proposed next. (Another name would let a repeated request,
    /// which begins at the first again, be done once more.)
    fn take_back(&mut self) {
        self.number = self.number.saturating_sub(1);
    }

    pub(super) fn is_left(&self) -> bool {
        self.number < limits::WRITE_ROUNDS_MAX
    }
}

fn mapped(answer: NamespaceAnswer) -> Result<Mapped, VolumeError> {
    match answer {
        NamespaceAnswer::FileMap { node, key, map } => Ok(Mapped { node: *node, key, map }),
        _ => Err(internal("answer to a query for a file's map").into()),
    }
}

/// Whether what a map named may be gone.
fn is_given_up(error: &GridError) -> bool {
    matches!(error, GridError::Unreadable(_) | GridError::DataLost(_))
}

/// Why bytes were not written.
enum Failure {
    /// Their blocks count for nothing: store them anew.
    Lost(VolumeError),
    /// Likewise, and nothing was proposed.
    NotStored(VolumeError),
    /// Something else.
    Other(VolumeError),
}

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Failure {
        Failure::Other(error)
    }
}

/// What goes into one block: for each region its offset in the file, and its bytes.
type BlockPlan = (BlockKind, Vec<(u64, Vec<Bytes>)>);

impl Volume {
    pub(super) async fn map(&self, ino: Ino, offset: u64, len: u64) -> Result<Mapped, VolumeError> {
        mapped(self.ask(PosixQuery::Map { ino, offset, len }).await?)
    }

    /// Bytes of a file from an offset on: as many as asked for, fewer only at its end.
    pub async fn read(&self, ino: Ino, offset: u64, len: u64) -> Result<Bytes, VolumeError> {
        // Before the query: what it names is kept from now on.
        let pin = self.core.sessions.pin(self.bucket.group);
        // All reads in a stretch of the file ask the same, so that it is remembered for all of them.
        let start = offset - offset % limits::MAPPED_BYTES;
        let end = offset.saturating_add(len).div_ceil(limits::MAPPED_BYTES);
        let end = end.saturating_mul(limits::MAPPED_BYTES);
        let stretch = PosixQuery::Map { ino, offset: start, len: end - start };
        let (answer, is_remembered) = self.recall_or_ask(stretch).await?;
        match self.read_by(mapped(answer)?, (offset, len), pin).await {
            // What it named was given up, and this mount was not told in time: it is told now.
            Err(VolumeError::Grid(error)) if is_remembered && is_given_up(&error) => {
                // Nobody tells a mount that has its bucket to itself.
                self.lease.delegation().leave_in_time().await?;
                let pin = self.core.sessions.pin(self.bucket.group);
                self.read_by(self.map(ino, offset, len).await?, (offset, len), pin).await
            }
            other => other,
        }
    }

    async fn read_by(
        &self,
        Mapped { node, map, .. }: Mapped,
        (offset, len): (u64, u64),
        pin: Pin,
    ) -> Result<Bytes, VolumeError> {
        let NodeKind::File { content, size, sealed, .. } = node.kind else {
            return Err(PosixError::Invalid.into());
        };
        if sealed {
            return Err(PosixError::Sealed.into());
        }
        let end = offset.saturating_add(len).min(size);
        if offset >= end {
            return Ok(Bytes::new());
        }
        if map.next.is_some() {
            // The rest is asked of the group: it must have heard of all this.
            self.lease.delegation().settle_in_time().await?;
        }
        let range = ContentRange {
            group: self.bucket.group,
            content,
            range: ResolvedRange { start: offset, end },
            map,
        };
        let mut stream = self.core.stream(&self.tenant(), range, pin).await?;
        let mut pieces = Vec::new();
        while let Some(piece) = stream.next().await {
            pieces.push(piece?);
        }
        Ok(joined(pieces))
    }

    pub(super) fn tenant(&self) -> Tenant {
        Tenant(format!("bucket {}", self.bucket.name))
    }

    /// Writes ranges (in order, apart) over what is there; each is durable afterwards. Readers see all of
    /// them or none, unless they cover more pieces than one command can take away. `modified`: when programs
    /// wrote them, if that is a while ago; later than now counts as now.
    pub async fn write(
        &self,
        ino: Ino,
        ranges: Vec<FileRange>,
        modified: Option<Moment>,
        request: Option<CommandId>,
    ) -> Result<Node, VolumeError> {
        self.write_at(ino, ranges, Where::Given(modified), request).await
    }

    /// Writes behind a file's end, wherever that is by then: of many who append at once nobody's bytes are lost.
    /// Gives where they are.
    pub async fn append(
        &self,
        ino: Ino,
        pieces: Vec<Bytes>,
        request: Option<CommandId>,
    ) -> Result<(Node, u64), VolumeError> {
        let range = FileRange { offset: 0, pieces };
        let len = range.len();
        let node = match len {
            0 => self.node(ino).await?,
            _ => self.write_at(ino, vec![range], Where::End, request).await?,
        };
        match node.kind {
            NodeKind::File { size, .. } => Ok((node, size.saturating_sub(len))),
            _ => Err(PosixError::Invalid.into()),
        }
    }

    async fn write_at(
        &self,
        ino: Ino,
        ranges: Vec<FileRange>,
        place: Where,
        request: Option<CommandId>,
    ) -> Result<Node, VolumeError> {
        self.core.check_writable()?;
        if is_past(ino) {
            return Err(PosixError::ReadOnly.into());
        }
        let bytes = ranges.iter().map(FileRange::len).sum::<u64>();
        let tenant = self.tenant();
        let reserve = || self.core.budget.reserve(&tenant, 2 * bytes);
        let mut reservation = Some(reserve().await?);
        let mut left = vec![ranges];
        let mut rounds = Rounds::of(request);
        let mut lost = 0;
        loop {
            let Some(ranges) = left.pop() else {
                return Err(PosixError::Invalid.into());
            };
            // What was refused may have been made of something old: then it is asked.
            let may_recall = rounds.number == 0;
            let done = self.write_once(ino, &ranges, place, (rounds.next(), may_recall)).await;
            match done {
                Ok(node) if left.is_empty() => return Ok(node),
                Ok(_) => {}
                // Everything is at hand: it is stored anew, under another session or in other places.
                Err(failure @ (Failure::Lost(_) | Failure::NotStored(_)))
                    if lost < limits::WRITES_LOST_MAX =>
                {
                    lost += 1;
                    if matches!(failure, Failure::NotStored(_)) {
                        rounds.take_back();
                    }
                    self.core.map.refresh().await?;
                    left.push(ranges);
                }
                Err(Failure::Lost(error) | Failure::NotStored(error)) => return Err(error),
                // Someone changed the file meanwhile: the bytes are sealed anew, under its new key.
                Err(Failure::Other(VolumeError::Posix(PosixError::OtherKey)))
                    if rounds.is_left() =>
                {
                    left.push(ranges);
                }
                Err(Failure::Other(VolumeError::Posix(PosixError::ReplaceInstead)))
                    if rounds.is_left() =>
                {
                    // That takes its own share: who waited for it with one in hand would keep others, who do the
                    // same, from theirs.
                    drop(reservation.take());
                    self.write_anew(ino).await?;
                    reservation = Some(reserve().await?);
                    left.push(ranges);
                }
                Err(Failure::Other(VolumeError::Grid(GridError::TooLarge { .. })))
                    if rounds.is_left() && matches!(place, Where::Given(_)) =>
                {
                    let (first, second) = halves(ranges);
                    if first.is_empty() || second.is_empty() {
                        return Err(PosixError::TooLarge.into());
                    }
                    left.extend([second, first]);
                }
                Err(Failure::Other(error)) => return Err(error),
            }
        }
    }

    async fn write_once(
        &self,
        ino: Ino,
        ranges: &[FileRange],
        place: Where,
        (request, may_recall): (Option<CommandId>, bool),
    ) -> Result<Node, Failure> {
        let query = PosixQuery::Map { ino, offset: 0, len: 0 };
        let answer = match may_recall {
            true => self.recall(query).await?,
            false => self.ask(query).await?,
        };
        let Mapped { node, key, .. } = mapped(answer)?;
        let NodeKind::File { size, sealed, sequence, .. } = node.kind else {
            return Err(VolumeError::from(PosixError::Invalid).into());
        };
        if sealed {
            return Err(VolumeError::from(PosixError::Sealed).into());
        }
        // A small file is replaced as a whole, by those who wrote all of it.
        let begins_at = |range: &FileRange| match place {
            Where::Given(_) => range.offset,
            Where::End => size,
        };
        if let [only] = ranges
            && begins_at(only) == 0
            && only.len() >= size
            && only.len() <= self.core.options.inline_bytes as u64
        {
            return Ok(self.replace(ino, &only.pieces, sequence, place, request).await?);
        }
        let is_new_key = key.is_none();
        let key = match key {
            Some(row) => {
                let open = self.core.content_key(&row).await.map_err(VolumeError::from)?;
                FreshKey { open, row }
            }
            None => self.fresh_key().await?,
        };
        self.write_under(ino, ranges, (key, is_new_key), place, request).await
    }

    async fn write_under(
        &self,
        ino: Ino,
        ranges: &[FileRange],
        (key, is_new_key): (FreshKey, bool),
        place: Where,
        request: Option<CommandId>,
    ) -> Result<Node, Failure> {
        let group = self.bucket.group;
        let session = self.core.sessions.get(group).await.map_err(VolumeError::from)?;
        let mut extents = Vec::new();
        let mut blocks = Vec::new();
        let mut refill = Vec::new();
        for (kind, regions) in self.plan(ranges) {
            let offsets: Vec<u64> = regions.iter().map(|(offset, _)| *offset).collect();
            let contents: Vec<(ContentKey, Vec<Bytes>)> =
                regions.into_iter().map(|(_, pieces)| (key.open.clone(), pieces)).collect();
            let stored = self.core.store_block(&session, kind, Payload::Plain(contents)).await;
            let stored = match stored {
                Ok(stored) => stored,
                Err(error) => {
                    // A session that a drive calls closed is forgotten by then.
                    let now = self.core.sessions.get(group).await;
                    let is_lost = now.is_ok_and(|now| now.id != session.id);
                    let error = VolumeError::from(error);
                    return Err(if is_lost { Failure::NotStored(error) } else { error.into() });
                }
            };
            for (offset, region) in offsets.iter().zip(&stored.regions) {
                extents.push(extent(&stored, *region, *offset));
            }
            blocks.push(stored.row);
            refill.extend(stored.refill);
        }
        extents.sort_by_key(|extent| extent.offset);
        let op = match place {
            Where::Given(_) => PosixOp::Write { ino, key: key.row, is_new_key, extents },
            Where::End => PosixOp::Append { ino, key: key.row, is_new_key, extents },
        };
        let done =
            match self.lease.one_at(place.modified(), (session.id, blocks), op, request).await {
                Ok(done) => done,
                Err(MetaError::Namespace(error)) => {
                    use NamespaceError::{BlockBound, Fenced, NoQuorum, SessionClosed};
                    if matches!(error, SessionClosed(_)) {
                        self.core.sessions.forget(&session);
                    }
                    let is_lost =
                        matches!(error, SessionClosed(_) | NoQuorum(_) | Fenced(_) | BlockBound(_));
                    let error = VolumeError::from(error);
                    return Err(if is_lost { Failure::Lost(error) } else { error.into() });
                }
                Err(error) => return Err(VolumeError::from(error).into()),
            };
        self.core.refill_after_commit(refill);
        Ok(super::node(done)?)
    }

    /// Long ranges in coded blocks of their own, short ones together in copies.
    fn plan(&self, ranges: &[FileRange]) -> Vec<BlockPlan> {
        let mut plans: Vec<BlockPlan> = Vec::new();
        let mut small: Vec<(u64, Vec<Bytes>)> = Vec::new();
        let mut small_bytes = 0;
        for range in ranges {
            let mut offset = range.offset;
            let mut left = range.len();
            let mut pieces =
                range.pieces.iter().cloned().collect::<std::collections::VecDeque<_>>();
            while left > 0 {
                let len = left.min(self.core.options.block_bytes as u64);
                let cut = take(&mut pieces, len);
                if len > self.core.options.packed_bytes as u64 {
                    plans.push((BlockKind::Large, vec![(offset, cut)]));
                } else {
                    if small_bytes + len > limits::PACK_BYTES_MAX as u64 && !small.is_empty() {
                        plans.push((BlockKind::Pack, std::mem::take(&mut small)));
                        small_bytes = 0;
                    }
                    small.push((offset, cut));
                    small_bytes += len;
                }
                offset += len;
                left -= len;
            }
        }
        if !small.is_empty() {
            plans.push((BlockKind::Pack, small));
        }
        plans
    }

    /// Replaces all bytes of a file by a few.
    async fn replace(
        &self,
        ino: Ino,
        pieces: &[Bytes],
        sequence: u64,
        place: Where,
        request: Option<CommandId>,
    ) -> Result<Node, VolumeError> {
        let session = self.core.sessions.get(self.bucket.group).await?;
        let key = self.fresh_key().await?;
        let size: usize = pieces.iter().map(Bytes::len).sum();
        let block = session
            .next_block()
            .ok_or_else(|| GridError::Unavailable("block ids are used up".into()))?;
        if size == 0 {
            return self.resize(ino, 0, request).await;
        }
        let code = Code::copies(1).map_err(internal)?;
        let (sealed, _) = seal::seal_one(self.core.keys.cluster(), block, code, &key.open, pieces)
            .map_err(internal)?;
        let body = ContentBody::Inline { block, sealed: sealed.bytes };
        let content = NewContent { size: size as u64, key: key.row, body };
        let op = PosixOp::Replace { ino, content, over: Some(sequence) };
        super::node(
            self.lease.one_at(place.modified(), (SessionId(0), Vec::new()), op, request).await?,
        )
    }

    /// Cuts a file, or lengthens it by a hole.
    pub async fn resize(
        &self,
        ino: Ino,
        size: u64,
        request: Option<CommandId>,
    ) -> Result<Node, VolumeError> {
        self.resize_and(ino, size, AttrsChange::default(), request).await
    }

    pub(super) async fn resize_and(
        &self,
        ino: Ino,
        size: u64,
        change: AttrsChange,
        request: Option<CommandId>,
    ) -> Result<Node, VolumeError> {
        let key = self.fresh_row().await?;
        let op = || PosixOp::Resize { ino, size, key: key.clone(), change };
        self.unless_too_deep(ino, op, request).await
    }
}

/// Ranges in two parts of about as many bytes; a part may be empty if there is one byte.
fn halves(ranges: Vec<FileRange>) -> (Vec<FileRange>, Vec<FileRange>) {
    let half = ranges.iter().map(FileRange::len).sum::<u64>() / 2;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut done = 0;
    for range in ranges {
        let len = range.len();
        let room = half.saturating_sub(done).min(len);
        done += len;
        let mut pieces = range.pieces.into_iter().collect::<std::collections::VecDeque<_>>();
        let head = take(&mut pieces, room);
        if room > 0 {
            first.push(FileRange { offset: range.offset, pieces: head });
        }
        if room < len {
            let pieces = pieces.into_iter().collect();
            second.push(FileRange { offset: range.offset + room, pieces });
        }
    }
    (first, second)
}

/// The first `len` bytes.
fn take(pieces: &mut std::collections::VecDeque<Bytes>, mut len: u64) -> Vec<Bytes> {
    let mut taken = Vec::new();
    while len > 0
        && let Some(mut piece) = pieces.pop_front()
    {
        if piece.len() as u64 > len {
            let rest = piece.split_off(usize::try_from(len).unwrap_or(usize::MAX));
            pieces.push_front(rest);
        }
        len -= piece.len() as u64;
        taken.push(piece);
    }
    taken
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.remove(0);
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in pieces {
        all.extend_from_slice(&piece);
    }
    all.freeze()
}
