//! Answers to queries: pure reads of one state.
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::id::{BlockId, PgId};
use nexusgrid_env::KvRead;
use nexusgrid_env::kv::prefix_end;

use super::machine::{Step, check_key, corrupt};
use super::rows::{
    self, BlockRow, ContentRow, DeadRow, LiveBucket, OutboxRow, RepairRow, UploadRow,
};
use super::types::{
    BlockState, BucketId, ContentMap, DeadBlock, Got, LiveBlock, Malformed, NamespaceAnswer,
    NamespaceError, NamespaceQuery, PartListing, RangeSpec, Repair, Session, UploadRef, VersionRef,
};
use super::{
    codes, ends, lifecycle, limits, list, map, outbox, posix, restore, rewrite, sessions,
    snapshots, uploads, version_list, versions,
};
use crate::rows::tx::{Tx, decode_row};

/// Outbox rows looked at for the oldest: they lie in order of commit, so the oldest is among the
/// first but for the skew of the committers' clocks.
const BACKLOG_LOOK: usize = 16;

/// What a query came to.
pub(super) enum Answer {
    /// To be encoded.
    Typed(NamespaceAnswer),
    /// The reply as it is: it is long, and was written as its rows were read.
    Written(Vec<u8>),
}

/// Answers a query.
pub(super) fn answer(state: &dyn KvRead, query: NamespaceQuery) -> Step<Answer> {
    use NamespaceAnswer as A;
    use NamespaceQuery as Q;
    let tx = &Tx::new(state);
    posix::delegations::check_query(tx, &query)?;
    Ok(Answer::Typed(match query {
        Q::Head { bucket, key } => {
            let version = VersionRef { bucket, key, version: None };
            A::Object(Box::new(versions::answer(tx, &version)?))
        }
        Q::HeadVersion { version } => A::Object(Box::new(versions::answer(tx, &version)?)),
        Q::Get { bucket, key, range } => {
            let version = VersionRef { bucket, key, version: None };
            A::Get(Box::new(get(tx, &version, range)?))
        }
        Q::GetVersion { version, range } => A::Get(Box::new(get(tx, &version, range)?)),
        Q::Rules { bucket } => A::Rules(live_bucket(tx, bucket)?.rules),
        Q::ListVersions { bucket, prefix, delimiter, after, limit } => {
            live_bucket(tx, bucket)?;
            let delimiter = delimiter.as_deref();
            let asked = version_list::Asked { bucket, prefix: &prefix, delimiter, limit };
            A::Versions(version_list::list(tx, &asked, after)?)
        }
        Q::Lifecycle { bucket } => A::LifecycleText(lifecycle::text(tx, bucket)?),
        Q::Leaves { content, after, limit } => rewrite::leaves(tx, content, after, bounded(limit))?,
        Q::LifecycleLeft { now_ms } => A::LifecycleLeft(lifecycle::left(tx, now_ms)?),
        Q::Extents { content, offset, len } => {
            let row: Option<ContentRow> = tx.load(rows::CONTENT, &rows::content(content))?;
            let row = row.ok_or(NamespaceError::NoSuchContent)?;
            if offset.checked_add(len).is_none_or(|end| end > row.size) {
                return Err(NamespaceError::RangeNotSatisfiable(row.size).into());
            }
            A::Map(map::map(tx, content, offset, len)?)
        }
        Q::List { bucket, prefix, delimiter, after, limit } => {
            live_bucket(tx, bucket)?;
            let delimiter = delimiter.as_deref();
            let reply = list::list(tx, bucket, &prefix, delimiter, after.as_ref(), limit)?;
            return Ok(Answer::Written(reply));
        }
        Q::ListUploads { bucket, prefix, delimiter, after, limit } => {
            live_bucket(tx, bucket)?;
            let delimiter = delimiter.as_deref();
            A::Uploads(list::list_uploads(tx, bucket, &prefix, delimiter, after.as_ref(), limit)?)
        }
        Q::Upload { upload } => A::Upload(Box::new(upload_row(tx, &upload)?.info)),
        Q::ListParts { upload, after, limit } => {
            let row = upload_row(tx, &upload)?;
            let limit = bounded(limit);
            let mut parts: Vec<_> = uploads::part_rows(tx, upload.id, after, limit + 1)?
                .into_iter()
                .map(|part| part.info)
                .collect();
            let more = parts.len() > limit;
            parts.truncate(limit);
            A::Parts(Box::new(PartListing { upload: row.info, parts, more }))
        }
        Q::BucketUsage { bucket } => A::Usage(live_bucket(tx, bucket)?.usage),
        Q::Ends { limit } => ends::oldest(tx, bounded(limit.min(limits::ENDS_MAX)))?,
        Q::Held { bucket } => {
            let row = live_bucket(tx, bucket)?;
            A::Held(row.usage, row.allowance)
        }
        Q::Sessions => A::Sessions { floor: sessions::floor(tx)?, sessions: sessions::all(tx)? },
        Q::RepairQueue { pg, after, limit } => repairs(tx, pg, after, bounded(limit))?,
        Q::Outbox { after, limit } => dead_blocks(tx, after, bounded(limit))?,
        Q::Backlog => backlog(tx)?,
        Q::OldestMoved => rewrite::oldest_moved(tx)?,
        Q::Released => outbox::released(tx)?,
        Q::Codes => A::Codes(codes::usage(tx)?),
        Q::FindExtents { filter, after, limit } => {
            rewrite::find(tx, &filter, after, bounded(limit))?
        }
        Q::LiveBlocks { after, limit } => live_blocks(tx, after, bounded(limit))?,
        Q::ResolveBlocks { blocks } => {
            if blocks.len() > limits::ANSWER_ROWS_MAX as usize {
                return Err(NamespaceError::TooLarge.into());
            }
            let states = blocks.into_iter().map(|block| block_state(tx, block));
            A::Blocks(states.collect::<Step<_>>()?)
        }
        Q::PartSizes { content } => {
            let row: Option<ContentRow> = tx.load(rows::CONTENT, &rows::content(content))?;
            row.ok_or(NamespaceError::NoSuchContent)?;
            A::PartSizes(map::part_sizes(tx, content)?)
        }
        Q::Mounts => A::Mounts(posix::mounts(tx)?),
        Q::Posix { bucket, query } => posix::answer(tx, bucket, query)?,
        Q::Delegation { bucket } => {
            let row = posix::delegations::of(tx, bucket)?;
            A::Delegation(row.map(|row| (row.mount, row.grant, row.recalled)))
        }
        Q::Rows { mount, grant, wanted } => posix::delegations::fetch(tx, mount, grant, &wanted)?,
        Q::Snapshots { bucket, of } => A::Snapshots(snapshots::list(tx, bucket, of)?),
        Q::Past { bucket, snapshot, query } => {
            snapshots::past::answer(state, bucket, snapshot, query)?
        }
        Q::PartsOf { content, skip, limit } => {
            A::PartsOf(uploads::parts_of(tx, content, skip as usize, bounded(limit))?)
        }
    }))
}

fn bounded(limit: u32) -> usize {
    limit.clamp(1, limits::ANSWER_ROWS_MAX) as usize
}

fn live_bucket(tx: &Tx<'_>, bucket: BucketId) -> Step<LiveBucket> {
    versions::live(tx, bucket)
}

fn get(tx: &Tx<'_>, version: &VersionRef, range: RangeSpec) -> Step<Got> {
    let object = versions::answer(tx, version)?;
    let size = object.size;
    let unsatisfiable = || NamespaceError::RangeNotSatisfiable(size);
    let (offset, len) = match range {
        RangeSpec::Full => (0, size),
        RangeSpec::From(first, last) => {
            if first >= size || last.is_some_and(|last| last < first) {
                return Err(unsatisfiable().into());
            }
            let last = last.unwrap_or(u64::MAX).min(size - 1);
            (first, last - first + 1)
        }
        RangeSpec::Last(0) => return Err(unsatisfiable().into()),
        RangeSpec::Last(_) if size == 0 => return Err(unsatisfiable().into()),
        RangeSpec::Last(count) => (size - count.min(size), count.min(size)),
        RangeSpec::Part(0) => return Err(Malformed::PartNumber.into()),
        RangeSpec::Part(number) if number > object.parts.max(1) => {
            return Err(unsatisfiable().into());
        }
        RangeSpec::Part(_) if object.parts == 0 => (0, size),
        RangeSpec::Part(number) => map::part_range(tx, object.content, number, size)?,
    };
    let map = match len {
        0 => ContentMap::default(),
        _ => map::map(tx, object.content, offset, len)?,
    };
    Ok(Got { object, offset, len, map })
}

fn upload_row(tx: &Tx<'_>, upload: &UploadRef) -> Step<UploadRow> {
    live_bucket(tx, upload.bucket)?;
    check_key(&upload.key)?;
    let row = tx.load(rows::STATE, &rows::upload(upload))?;
    row.ok_or_else(|| NamespaceError::NoSuchUpload.into())
}

fn repairs(
    tx: &Tx<'_>,
    pg: Option<PgId>,
    after: Option<(PgId, BlockId, u8)>,
    limit: usize,
) -> Step<NamespaceAnswer> {
    let prefix = match pg {
        Some(PgId(pg)) => crate::rows::key::KeyBuf::tag(b'R').u32(pg).done(),
        None => vec![b'R'],
    };
    let start = match after {
        Some((pg, block, slot)) => [rows::repair(pg, block, slot).as_slice(), &[0]].concat(),
        None => Vec::new(),
    };
    let end = prefix_end(&prefix);
    let found = tx.scan(rows::STATE, &start.max(prefix), end.as_deref(), limit + 1)?;
    let more = found.len() > limit;
    let mut repairs = Vec::with_capacity(found.len().min(limit));
    for (key, value) in found.iter().take(limit) {
        let (pg, block, slot) =
            rows::parse_repair(key).ok_or_else(|| corrupt("key of a repair row"))?;
        let RepairRow { sequence, since_ms, epoch } = decode_row(rows::STATE, value)?;
        repairs.push(Repair { pg, block, slot, sequence, since_ms, epoch });
    }
    Ok(NamespaceAnswer::Repairs { repairs, more })
}

fn backlog(tx: &Tx<'_>) -> Step<NamespaceAnswer> {
    let end = prefix_end(b"O");
    let found = tx.scan(rows::STATE, b"O", end.as_deref(), BACKLOG_LOOK)?;
    let mut oldest_released_ms = None;
    for (_, value) in &found {
        let row: OutboxRow = decode_row(rows::STATE, value)?;
        oldest_released_ms = Some(
            oldest_released_ms.map_or(row.released_ms, |oldest: u64| oldest.min(row.released_ms)),
        );
    }
    Ok(NamespaceAnswer::Backlog { oldest_released_ms })
}

fn live_blocks(tx: &Tx<'_>, after: Option<BlockId>, limit: usize) -> Step<NamespaceAnswer> {
    let prefix = rows::blocks();
    let start = match after {
        Some(block) => [rows::block(block).as_slice(), &[0]].concat(),
        None => prefix.clone(),
    };
    let end = prefix_end(&prefix);
    let found = tx.scan(rows::CONTENT, &start, end.as_deref(), limit + 1)?;
    let more = found.len() > limit;
    let mut blocks = Vec::with_capacity(found.len().min(limit));
    for (key, value) in found.iter().take(limit) {
        let block = rows::parse_block(key).ok_or_else(|| corrupt("key of a block"))?;
        let BlockRow { pg, epoch, len, live, k, m, missing_mask, .. } =
            decode_row(rows::CONTENT, value)?;
        blocks.push(LiveBlock { block, pg, epoch, len, live_bytes: live, k, m, missing_mask });
    }
    Ok(NamespaceAnswer::LiveBlocks { blocks, more })
}

fn dead_blocks(tx: &Tx<'_>, after: Option<BlockId>, limit: usize) -> Step<NamespaceAnswer> {
    let start = match after {
        Some(block) => [rows::dead(block).as_slice(), &[0]].concat(),
        None => vec![b'D'],
    };
    let end = prefix_end(b"D");
    let found = tx.scan(rows::STATE, &start, end.as_deref(), limit + 1)?;
    let more = found.len() > limit;
    let mut blocks = Vec::with_capacity(found.len().min(limit));
    for (key, value) in found.iter().take(limit) {
        let block = rows::parse_block(key).ok_or_else(|| corrupt("key of a dead block"))?;
        let DeadRow { sequence, pg, since_ms } = decode_row(rows::STATE, value)?;
        blocks.push(DeadBlock { block, pg, sequence, since_ms });
    }
    Ok(NamespaceAnswer::Outbox { blocks, more })
}

fn block_state(tx: &Tx<'_>, block: BlockId) -> Step<BlockState> {
    let row: Option<BlockRow> = tx.load(rows::CONTENT, &rows::block(block))?;
    if let Some(BlockRow { pg, live, len, .. }) = row {
        return Ok(BlockState::Live { pg, live_bytes: live, len });
    }
    if tx.get(rows::STATE, &rows::dead(block))?.is_some() {
        return Ok(BlockState::Dead);
    }
    if restore::is_in_gap(tx, block.session)? {
        return Ok(BlockState::Unheard);
    }
    let session: Option<Session> = tx.load(rows::STATE, &rows::session(block.session))?;
    Ok(match session {
        Some(Session { closed_ms: None, .. }) => BlockState::Pending,
        Some(_) => BlockState::Unknown,
        None if block.session < sessions::floor(tx)? => BlockState::Unknown,
        None => BlockState::Unheard,
    })
}
