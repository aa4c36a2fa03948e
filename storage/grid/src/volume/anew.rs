//! A file's bytes written anew as they are, because they are shared too deep. Holes stay holes.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use nexusgrid_meta::namespace::types::{
    ContentBody, ContentId, ContentMap, NewContent, PieceData, PosixOp,
};

use super::data::Mapped;
use super::{Ino, NodeKind, PosixError, Volume, VolumeError};
use crate::api::{ReadStream, ResolvedRange};
use crate::body::BodyReader;
use crate::limits;
use crate::objects::body_of;
use crate::read::ContentRange;
use crate::stripe::BlockKind;
use nexusgrid_codec::SessionId;

/// Where a file has bytes.
#[derive(Debug)]
struct Layout {
    content: ContentId,
    size: u64,
    sequence: u64,
    /// Begin and end, in order and apart.
    runs: Vec<(u64, u64)>,
}

/// Stretches of bytes, in order; what lies close together is one, so that there are not too many.
struct Runs {
    runs: Vec<(u64, u64)>,
    /// Shorter holes are passed over.
    least: u64,
    most: usize,
}

impl Runs {
    fn add(&mut self, start: u64, end: u64) {
        match self.runs.last_mut() {
            Some(last) if start.saturating_sub(last.1) < self.least => last.1 = end,
            _ => self.runs.push((start, end)),
        }
        while self.runs.len() > self.most {
            self.least = self.least.saturating_mul(2);
            let least = self.least;
            self.runs.dedup_by(|next, last| {
                let is_close = next.0.saturating_sub(last.1) < least;
                if is_close {
                    last.1 = next.1;
                }
                is_close
            });
        }
    }
}

impl Volume {
    /// Writes a file's bytes anew, into blocks of its own. If somebody changes the file meanwhile nothing is done:
    /// whether it is shared too deep still, who asks hears by asking again.
    pub(super) async fn write_anew(&self, ino: Ino) -> Result<(), VolumeError> {
        // The group is asked for the bytes: it must know them.
        self.lease.delegation().leave_in_time().await?;
        // Before the first query: what it names is kept from now on.
        let _pin = self.core.sessions.pin(self.bucket.group);
        let Some(layout) = self.layout(ino).await? else { return Ok(()) };
        let sequence = layout.sequence;
        match self.spread(ino, layout).await {
            Err(VolumeError::Posix(PosixError::OtherKey)) => Ok(()),
            // Bytes of a file that is changed in place can go while they are read.
            Err(error @ VolumeError::Grid(_)) => {
                let NodeKind::File { sequence: now, .. } = self.node(ino).await?.kind else {
                    return Err(error);
                };
                if now == sequence { Err(error) } else { Ok(()) }
            }
            other => other,
        }
    }

    /// `None`: it was changed meanwhile.
    async fn layout(&self, ino: Ino) -> Result<Option<Layout>, VolumeError> {
        let most = limits::RUNS_MAX;
        let mut runs = Runs { runs: Vec::new(), least: limits::HOLE_BYTES_MIN, most };
        let mut first: Option<u64> = None;
        let mut at = 0;
        loop {
            let Mapped { node, map, .. } = self.map(ino, at, u64::MAX).await?;
            let NodeKind::File { content, size, sequence, .. } = node.kind else {
                return Err(PosixError::Invalid.into());
            };
            if *first.get_or_insert(sequence) != sequence {
                return Ok(None);
            }
            for piece in map.pieces.iter().filter(|piece| piece.data != PieceData::Hole) {
                runs.add(piece.offset, piece.offset.saturating_add(piece.len));
            }
            match map.next {
                Some(next) => at = next,
                None => return Ok(Some(Layout { content, size, sequence, runs: runs.runs })),
            }
        }
    }

    async fn spread(&self, ino: Ino, layout: Layout) -> Result<(), VolumeError> {
        let Layout { content, size, sequence: over, runs } = layout;
        let key = self.fresh_key().await?;
        let lens = runs.iter().map(|(start, end)| (*start, end - start)).collect::<Vec<_>>();
        let bytes = lens.iter().map(|(_, len)| len).sum::<u64>();
        let spread = |content: NewContent| PosixOp::Spread { ino, content, runs: lens, size, over };
        if bytes == 0 {
            let content = NewContent { size: 0, key: key.row, body: ContentBody::Empty };
            self.lease.one((SessionId(0), Vec::new()), spread(content), None).await?;
            return Ok(());
        }
        let (core, tenant, group) = (Arc::clone(&self.core), self.tenant(), self.bucket.group);
        let read = stream::iter(runs).then(move |(start, end)| {
            let (core, tenant) = (Arc::clone(&core), tenant.clone());
            async move {
                let range = ResolvedRange { start, end };
                let range = ContentRange { group, content, range, map: ContentMap::default() };
                core.stream(&tenant, range, core.sessions.pin(group)).await
            }
        });
        let read: ReadStream = Box::pin(read.try_flatten());
        let (body, failure) = body_of(read, None);
        let mut reader = BodyReader::new(body, Some(bytes), u64::MAX);
        let (tenant, kind) = (self.tenant(), BlockKind::Large);
        let received =
            self.core.receive_blocks(&tenant, &mut reader, group, &key, kind, None).await;
        if let Some(error) = failure.lock().take() {
            return Err(error.into());
        }
        let large = received?.staged(&self.core).await?;
        let op = spread(large.content);
        self.lease.one((large.session.id, large.blocks), op, None).await?;
        self.core.refill_after_commit(large.refill);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_that_lie_close_are_one_until_there_are_few_enough() {
        let of = |most, of: &[(u64, u64)]| {
            let mut runs = Runs { runs: vec![], least: 4, most };
            of.iter().for_each(|(start, end)| runs.add(*start, *end));
            runs.runs
        };
        let all = [(0, 1), (1, 2), (5, 6), (10, 12), (32, 33), (42, 43)];
        assert_eq!(of(9, &all), [(0, 6), (10, 12), (32, 33), (42, 43)]);
        assert_eq!(of(3, &all), [(0, 12), (32, 33), (42, 43)]);
        assert_eq!(of(2, &all), [(0, 12), (32, 43)]);
        assert_eq!(of(1, &all), [(0, 43)]);
    }
}
