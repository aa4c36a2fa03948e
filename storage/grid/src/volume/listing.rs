//! Listings of directories, and the cookies by which they go on.
//!
//! An entry's cookie is a digest of its name: the same whoever lists, and after a restart. Where a listing
//! goes on is looked up among the names that were listed last; if it is not there any more, the directory is
//! looked through for it once.

use std::collections::{BTreeMap, VecDeque};

use nexusgrid_meta::namespace::types::{DirEntry, Ino, NamespaceAnswer, PosixQuery};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::{Node, PosixError, Volume, VolumeError};
use crate::core::internal;
use crate::limits;

/// Where a listing goes on: behind the entry that has it. 0: at its beginning. Never 1 or 2, and never
/// negative as a signed number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cookie(pub u64);

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: Vec<u8>,
    /// What it leads to; it has a number.
    pub node: Node,
    /// Where the listing goes on behind it.
    pub cookie: Cookie,
}

/// Names that were listed last, by directory and cookie.
#[derive(Default)]
pub(super) struct Cookies(Mutex<Known>);

#[derive(Default)]
struct Known {
    names: BTreeMap<(Ino, u64), Vec<u8>>,
    order: VecDeque<(Ino, u64)>,
}

fn cookie(stored: &[u8]) -> u64 {
    let digest = Sha256::digest(stored);
    let mut first = [0; 8];
    first.copy_from_slice(digest.get(..8).unwrap_or(&[0; 8]));
    (u64::from_be_bytes(first) >> 1).max(3)
}

impl Cookies {
    fn note(&self, dir: Ino, stored: &[u8]) -> Cookie {
        let cookie = cookie(stored);
        let mut known = self.0.lock();
        if known.names.insert((dir, cookie), stored.to_vec()).is_none() {
            known.order.push_back((dir, cookie));
            if known.order.len() > limits::COOKIES_KEPT_MAX
                && let Some(oldest) = known.order.pop_front()
            {
                known.names.remove(&oldest);
            }
        }
        Cookie(cookie)
    }

    fn name(&self, dir: Ino, cookie: Cookie) -> Option<Vec<u8>> {
        self.0.lock().names.get(&(dir, cookie.0)).cloned()
    }
}

impl Volume {
    /// Up to `max` entries of a directory behind a cookie; none at its end. Without `.` and `..`.
    pub async fn list(
        &self,
        dir: Ino,
        after: Cookie,
        max: usize,
    ) -> Result<Vec<Listed>, VolumeError> {
        let limit = u32::try_from(max.clamp(1, limits::LISTED_MAX)).unwrap_or(1);
        let after = match after {
            Cookie(0) => None,
            after => match self.cookies.name(dir, after) {
                Some(name) => Some(name),
                None => Some(self.search(dir, after).await?),
            },
        };
        let (mut entries, _) = self.entries(dir, after, limit).await?;
        self.adopt_all(dir, &mut entries).await?;
        let listed = entries.into_iter().map(|entry| Listed {
            cookie: self.cookies.note(dir, &entry.stored),
            name: entry.name,
            node: entry.node,
        });
        Ok(listed.collect())
    }

    async fn entries(
        &self,
        ino: Ino,
        after: Option<Vec<u8>>,
        limit: u32,
    ) -> Result<(Vec<DirEntry>, bool), VolumeError> {
        match self.ask(PosixQuery::Entries { ino, after, limit }).await? {
            NamespaceAnswer::Entries { entries, more } => Ok((entries, more)),
            _ => Err(internal("answer to a listing").into()),
        }
    }

    /// The name that a cookie stood for. If nothing has it, the entry is gone and so is the place.
    async fn search(&self, dir: Ino, wanted: Cookie) -> Result<Vec<u8>, VolumeError> {
        let mut after = None;
        loop {
            let (entries, more) = self.entries(dir, after, limits::LISTED_MAX as u32).await?;
            for entry in &entries {
                if cookie(&entry.stored) == wanted.0 {
                    return Ok(entry.stored.clone());
                }
            }
            match entries.into_iter().last() {
                Some(last) if more => after = Some(last.stored),
                _ => return Err(PosixError::Stale.into()),
            }
        }
    }

    /// Gives numbers to those that have none.
    async fn adopt_all(&self, parent: Ino, entries: &mut [DirEntry]) -> Result<(), VolumeError> {
        let mut unknown: Vec<&mut DirEntry> =
            entries.iter_mut().filter(|entry| entry.node.ino.is_none()).collect();
        for lot in unknown.chunks_mut(limits::ADOPTED_AT_ONCE) {
            let names = lot.iter().map(|entry| entry.name.clone()).collect();
            let nodes = self.adopted(parent, names).await?;
            for (entry, node) in lot.iter_mut().zip(nodes) {
                if let Some(node) = node {
                    entry.node = node;
                }
            }
        }
        Ok(())
    }
}
