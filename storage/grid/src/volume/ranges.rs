//! Holes and copies: what changes or tells where a file has bytes, and moves none.

use nexusgrid_meta::namespace::types::{PieceData, PosixDone, PosixOp};

use super::data::{FileRange, Mapped, Rounds};
use super::{Ino, Node, NodeKind, PosixError, Volume, VolumeError};
use crate::core::internal;
use crate::error::GridError;
use crate::limits;
use crate::meta_port::CommandId;

/// What [`Volume::seek`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is stored.
    Data,
    /// The next hole, or the file's end.
    Hole,
}

impl Volume {
    /// The next data or hole of a file from `offset` on; `NoData` if there is none, or `offset` lies behind the
    /// end.
    pub async fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64, VolumeError> {
        let mut at = offset;
        loop {
            let Mapped { node, map, .. } = self.map(ino, at, u64::MAX).await?;
            let NodeKind::File { size, .. } = node.kind else {
                return Err(PosixError::Invalid.into());
            };
            if offset >= size {
                return Err(PosixError::NoData.into());
            }
            let is_wanted = |data: &PieceData| (*data == PieceData::Hole) == (what == Seek::Hole);
            if let Some(piece) = map.pieces.iter().find(|piece| is_wanted(&piece.data)) {
                return Ok(piece.offset);
            }
            match (map.next, what) {
                (Some(next), _) => at = next,
                (None, Seek::Hole) => return Ok(size),
                (None, Seek::Data) => return Err(PosixError::NoData.into()),
            }
        }
    }

    /// Makes bytes of a file what bytes of another (or the same, apart from them) are; says how many, which may be
    /// fewer than asked for. Long ranges are referred to, short ones copied.
    pub async fn copy_range(
        &self,
        from: (Ino, u64),
        to: (Ino, u64),
        len: u64,
        request: Option<CommandId>,
    ) -> Result<u64, VolumeError> {
        let apart = from.0 != to.0
            || from.1.saturating_add(len) <= to.1
            || to.1.saturating_add(len) <= from.1;
        if !apart {
            return Err(PosixError::Invalid.into());
        }
        if len >= limits::REFERRED_BYTES_MIN {
            let op = self.copy_op(from, to, len).await?;
            match self.one(op, request).await {
                Ok(PosixDone::Copied(len)) => return Ok(len),
                Ok(_) => return Err(internal("reply to a copy").into()),
                // Shared too deep, or more pieces than one command may cover.
                Err(VolumeError::Posix(PosixError::ReplaceInstead))
                | Err(VolumeError::Grid(GridError::TooLarge { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        let bytes = self.read(from.0, from.1, len.min(limits::COPIED_BYTES_MAX)).await?;
        let len = bytes.len() as u64;
        if len > 0 {
            let ranges = vec![FileRange { offset: to.1, pieces: vec![bytes] }];
            self.write(to.0, ranges, None, request.map(|id| id.again(0xff))).await?;
        }
        Ok(len)
    }

    /// Makes a hole; the size stays. A hole of very many pieces is made from its beginning on, piece by piece: who
    /// reads meanwhile may see a part of it.
    pub async fn punch(
        &self,
        ino: Ino,
        offset: u64,
        len: u64,
        request: Option<CommandId>,
    ) -> Result<Node, VolumeError> {
        if len == 0 {
            return Err(PosixError::Invalid.into());
        }
        let key = self.fresh_row().await?;
        let mut rounds = Rounds::of(request);
        let mut anew = 0;
        let mut done = 0;
        while done < len {
            let (offset, len) = (offset.saturating_add(done), len - done);
            let op = PosixOp::Clear { ino, offset, len, key: key.clone() };
            match self.one(op, rounds.next()).await {
                // Each takes something: as many rounds as there are pieces are the most.
                Ok(PosixDone::Copied(more)) if more > 0 => done += more,
                Ok(_) => return Err(internal("reply to a hole").into()),
                Err(VolumeError::Posix(PosixError::ReplaceInstead))
                    if anew < limits::WRITES_ANEW_MAX =>
                {
                    anew += 1;
                    self.write_anew(ino).await?;
                }
                Err(error) => return Err(error),
            }
        }
        self.node(ino).await
    }

    /// Lengthens a file by a hole, unless it is as long already: never cuts what others have appended.
    pub async fn lengthen(
        &self,
        ino: Ino,
        size: u64,
        request: Option<CommandId>,
    ) -> Result<Node, VolumeError> {
        let key = self.fresh_row().await?;
        let op = || PosixOp::Lengthen { ino, size, key: key.clone() };
        self.unless_too_deep(ino, op, request).await
    }

    /// An operation on a file that may be shared too deep: then its bytes are written anew first.
    pub(super) async fn unless_too_deep(
        &self,
        ino: Ino,
        op: impl Fn() -> PosixOp,
        request: Option<CommandId>,
    ) -> Result<Node, VolumeError> {
        let mut rounds = Rounds::of(request);
        for _ in 0..limits::WRITES_ANEW_MAX {
            match self.node_of(op(), rounds.next()).await {
                Err(VolumeError::Posix(PosixError::ReplaceInstead)) => self.write_anew(ino).await?,
                other => return other,
            }
        }
        self.node_of(op(), rounds.next()).await
    }
}
