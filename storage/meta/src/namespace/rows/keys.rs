//! Keys of the rows of a metadata group.
#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::id::{BlockId, PgId, SessionId};

use super::super::types::{BucketId, ContentId, EndMark, UploadId, UploadRef};
use super::DirId;
use crate::rows::key::{KeyBuf, KeyReader};

/// Begins the keys of a directory's children.
pub fn dir_prefix(bucket: BucketId, dir: DirId) -> KeyBuf {
    KeyBuf::new().u64(bucket.0).u16(dir.slot16()).u64(dir.0)
}

/// Bytes before a dentry's name.
pub const DIR_PREFIX_LEN: usize = 18;

/// A dentry.
pub fn dentry(bucket: BucketId, dir: DirId, name: &[u8]) -> Vec<u8> {
    dir_prefix(bucket, dir).name(name).done()
}

/// The name of a dentry's key, if it is that of a current version.
pub fn dentry_name(key: &[u8]) -> Option<Vec<u8>> {
    let mut reader = KeyReader(key.get(DIR_PREFIX_LEN..)?);
    let name = reader.name()?;
    reader.is_done().then_some(name)
}

/// Adds the name of a dentry's key to `path`; `None`: it is not that of a current version.
pub fn add_dentry_name(path: &mut Vec<u8>, key: &[u8]) -> Option<()> {
    let mut reader = KeyReader(key.get(DIR_PREFIX_LEN..)?);
    reader.name_into(path)?;
    reader.is_done().then_some(())
}

/// A content.
pub fn content(content: ContentId) -> Vec<u8> {
    KeyBuf::tag(b'c').u64(content.0).done()
}

/// A content's pages.
pub fn pages(content: ContentId) -> KeyBuf {
    KeyBuf::tag(b'e').u64(content.0)
}

/// A content's page.
pub fn page(content: ContentId, offset: u64) -> Vec<u8> {
    pages(content).u64(offset).done()
}

/// All contents' pages.
pub fn all_pages() -> Vec<u8> {
    KeyBuf::tag(b'e').done()
}

/// The inverse of [`page`].
pub fn parse_page(key: &[u8]) -> Option<(ContentId, u64)> {
    let mut reader = KeyReader(key);
    reader.u8()?;
    Some((ContentId(reader.u64()?), reader.u64()?))
}

/// All codes.
pub fn codes() -> Vec<u8> {
    KeyBuf::tag(b'C').done()
}

/// What a code protects.
pub fn code(k: u8, m: u8) -> Vec<u8> {
    KeyBuf::tag(b'C').u8(k).u8(m).done()
}

/// The inverse of [`code`].
pub fn parse_code(key: &[u8]) -> Option<(u8, u8)> {
    let mut reader = KeyReader(key);
    reader.u8()?;
    Some((reader.u8()?, reader.u8()?))
}

/// What restores lost.
pub fn gaps() -> Vec<u8> {
    KeyBuf::tag(b'G').done()
}

/// A live block.
pub fn block(block: BlockId) -> Vec<u8> {
    KeyBuf::tag(b'b').raw(&block.to_bytes()).done()
}

/// The oldest epoch of a PG that commits may still refer to.
pub fn fence(pg: PgId) -> Vec<u8> {
    KeyBuf::tag(b'E').u32(pg.0).done()
}

/// All live blocks.
pub fn blocks() -> Vec<u8> {
    KeyBuf::tag(b'b').done()
}

/// Inline bytes.
pub fn inline(content: ContentId) -> Vec<u8> {
    KeyBuf::new().u64(content.0).done()
}

/// A bucket.
pub fn bucket(bucket: BucketId) -> Vec<u8> {
    KeyBuf::tag(b'B').u64(bucket.0).done()
}

/// A dead block.
pub fn dead(block: BlockId) -> Vec<u8> {
    KeyBuf::tag(b'D').raw(&block.to_bytes()).done()
}

/// The session floor.
pub fn floor() -> Vec<u8> {
    KeyBuf::tag(b'F').done()
}

/// All extents given up.
pub fn all_moved() -> Vec<u8> {
    KeyBuf::tag(b'M').done()
}

/// Extents that one command gave up.
pub fn moved(sequence: u64) -> Vec<u8> {
    KeyBuf::tag(b'M').u64(sequence).done()
}

/// An outbox row.
pub fn outbox(sequence: u64, ordinal: u32) -> Vec<u8> {
    KeyBuf::tag(b'O').u64(sequence).u32(ordinal).done()
}

/// An upload's parts.
pub fn parts(upload: UploadId) -> KeyBuf {
    KeyBuf::tag(b'P').raw(&upload.0)
}

/// A part.
pub fn part(upload: UploadId, number: u16) -> Vec<u8> {
    parts(upload).u16(number).done()
}

/// A missing shard.
pub fn repair(pg: PgId, block: BlockId, slot: u8) -> Vec<u8> {
    KeyBuf::tag(b'R').u32(pg.0).raw(&block.to_bytes()).u8(slot).done()
}

/// The inverse of [`repair`].
pub fn parse_repair(key: &[u8]) -> Option<(PgId, BlockId, u8)> {
    let mut reader = KeyReader(key);
    reader.u8()?;
    Some((PgId(reader.u32()?), BlockId::from_bytes(reader.bytes16()?), reader.u8()?))
}

/// The inverse of [`dead`] and [`block`].
pub fn parse_block(key: &[u8]) -> Option<BlockId> {
    let mut reader = KeyReader(key);
    reader.u8()?;
    Some(BlockId::from_bytes(reader.bytes16()?))
}

/// A session.
pub fn session(session: SessionId) -> Vec<u8> {
    KeyBuf::tag(b'S').u64(session.0).done()
}

/// A bucket's uploads.
pub fn uploads(bucket: BucketId) -> KeyBuf {
    KeyBuf::tag(b'U').u64(bucket.0)
}

/// An upload.
pub fn upload(upload: &UploadRef) -> Vec<u8> {
    uploads(upload.bucket).name(&upload.key).raw(&upload.id.0).done()
}

/// A bucket's older versions and delete markers.
pub fn versions(bucket: BucketId) -> KeyBuf {
    KeyBuf::tag(b'V').u64(bucket.0)
}

/// An older version; a greater `order` is a newer one and comes first.
pub fn version(bucket: BucketId, key: &[u8], order: u64) -> Vec<u8> {
    versions(bucket).name(key).u64(!order).done()
}

/// Key and order of a version's row.
pub fn parse_version(row: &[u8]) -> Option<(Vec<u8>, u64)> {
    let mut reader = KeyReader(row);
    reader.u8()?;
    reader.u64()?;
    Some((reader.name()?, !reader.u64()?))
}

/// Where the null version of a key stands among its older ones.
pub fn null_version(bucket: BucketId, key: &[u8]) -> Vec<u8> {
    KeyBuf::tag(b'N').u64(bucket.0).name(key).done()
}

/// A bucket's rules about the ends of its objects.
pub fn lifecycle(bucket: BucketId) -> Vec<u8> {
    KeyBuf::tag(b'L').u64(bucket.0).done()
}

/// Those rules as the owner gave them.
pub fn lifecycle_text(bucket: BucketId) -> Vec<u8> {
    KeyBuf::tag(b'T').u64(bucket.0).done()
}

/// All walks.
pub fn walks() -> Vec<u8> {
    KeyBuf::tag(b'I').done()
}

/// A bucket that is looked through.
pub fn walk(bucket: BucketId) -> Vec<u8> {
    KeyBuf::tag(b'I').u64(bucket.0).done()
}

/// The inverse of [`walk`].
pub fn parse_walk(key: &[u8]) -> Option<BucketId> {
    let mut reader = KeyReader(key);
    reader.u8()?;
    Some(BucketId(reader.u64()?))
}

/// All keys that are to be looked at.
pub fn all_due() -> Vec<u8> {
    KeyBuf::tag(b'W').done()
}

/// Where those begin that are due after a time.
pub fn due_after(at_ms: u64) -> Vec<u8> {
    KeyBuf::tag(b'W').u64(at_ms.saturating_add(1)).done()
}

/// When to look at a key.
pub fn due(at_ms: u64, bucket: BucketId, key: &[u8]) -> Vec<u8> {
    KeyBuf::tag(b'W').u64(at_ms).u64(bucket.0).name(key).done()
}

/// The inverse of [`due`].
pub fn parse_due(row: &[u8]) -> Option<(u64, BucketId, Vec<u8>)> {
    let mut reader = KeyReader(row);
    reader.u8()?;
    Some((reader.u64()?, BucketId(reader.u64()?), reader.name()?))
}

/// Whether what lifecycle rules do in a bucket is told.
pub fn tells(bucket: BucketId) -> Vec<u8> {
    KeyBuf::tag(b'Y').u64(bucket.0).done()
}

/// All that is to be told of what lifecycle rules did.
pub fn ends() -> Vec<u8> {
    KeyBuf::tag(b'K').done()
}

/// What lifecycle rules did.
pub fn end(mark: EndMark) -> Vec<u8> {
    KeyBuf::tag(b'K').u64(mark.sequence).u32(mark.ordinal).done()
}

/// The inverse of [`end`].
pub fn parse_end(row: &[u8]) -> Option<EndMark> {
    let mut reader = KeyReader(row);
    reader.u8()?;
    Some(EndMark { sequence: reader.u64()?, ordinal: reader.u32()? })
}

/// Key and id of an upload's row.
pub fn parse_upload(key: &[u8]) -> Option<(Vec<u8>, UploadId)> {
    let mut reader = KeyReader(key);
    reader.u8()?;
    reader.u64()?;
    Some((reader.name()?, UploadId(reader.bytes16()?)))
}
