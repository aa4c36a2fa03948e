//! Sealed frames that readers of this node fetched from others, kept nearer: a port, whose other side is whoever
//! runs the node.
//!
//! A frame is kept as it was sealed, and opened anew by each reader: who can read the cache's disk reads nothing, and what
//! rots there is noticed like what rots on a drive. A block's bytes never change under its id (I3), so that nothing in a
//! cache is ever out of date, and nothing has to be told to leave: what was deleted is asked for by nobody.
//!
//! Frames that a drive of this node holds are not kept a second time.

use async_trait::async_trait;
use bytes::Bytes;
use nexusgrid_codec::BlockId;

/// Which frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId {
    /// Its block.
    pub block: BlockId,
    /// Where its region begins in the block, in bytes.
    pub region: u32,
    /// Its number in the region.
    pub frame: u32,
}

/// Keeps sealed frames, as many as it likes and as long as it likes.
#[async_trait]
pub trait FrameCache: Send + Sync {
    /// A frame as it was kept; `None`: there is none, or it cannot be read. What it gives may be wrong: it is proved by
    /// whoever asked.
    async fn get(&self, id: FrameId) -> Option<Bytes>;

    /// Keeps a frame, if it likes. Neither waits nor fails.
    fn put(&self, id: FrameId, sealed: Bytes);

    /// What of it is not what was put there.
    fn remove(&self, id: FrameId);

    /// The process ends: what was put so far is to be there after it, if that takes a moment only.
    async fn close(&self);
}
