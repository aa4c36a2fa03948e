//! Whether anything may be deleted from this node's drives.
//!
//! ```text
//!   no map read yet ──map of incarnation 1──▶ may delete
//!        │                                        │ a restore raised the incarnation
//!        └──map of a higher one──▶ frozen ◀───────┘
//!                                     └──thawed by the root group──▶ may delete
//! ```
//! After a restore metadata may be older than the drives: what it does not know, or holds dead, may be
//! all that is left of an object. So tombstones, sweeping and the purge of trash wait until an
//! administrator has looked. Anything in doubt is a no.
//!
//! State: the highest incarnation seen, and up to which deletes were allowed, in a small file of each
//! drive's directory: a node that restarts does not believe a map of an older incarnation.

use std::io;
use std::path::Path;
use std::sync::Arc;

use nexusgrid_drive::DriveStore;
use nexusgrid_env::{Disk, OpenMode};
use nexusgrid_meta::root::topology::Topology;
use nexusgrid_meta::root::types::{Restores, RootAnswer, RootQuery};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::shard::ShardService;
use crate::shard::wire::{decode, encode};

/// Its name in a drive's directory.
const FILE_NAME: &str = "incarnation";

/// Longest such file that is read, in bytes.
const FILE_LEN_MAX: u64 = 64;

/// What a drive's file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Kept {
    /// The highest incarnation seen.
    incarnation: u64,
    /// Deletes were allowed up to this one.
    thawed: u64,
}

#[derive(Default)]
struct State {
    kept: Kept,
    /// Whether the drives' files were read.
    loaded: bool,
    /// Whether a map was read that is not older than what is kept.
    confirmed: bool,
}

/// Whether this node may delete.
#[derive(Default)]
pub struct Deletions {
    state: Mutex<State>,
}

impl Deletions {
    /// Whether tombstones, orphans and trash may go now.
    pub fn may_delete(&self) -> bool {
        let state = self.state.lock();
        state.confirmed && !is_frozen(state.kept)
    }

    /// Whether a restore froze deletes, as far as this node knows.
    pub fn is_frozen(&self) -> bool {
        is_frozen(self.state.lock().kept)
    }

    /// The highest incarnation seen.
    pub fn incarnation(&self) -> u64 {
        self.state.lock().kept.incarnation
    }

    /// [`Deletions::may_delete`], by a map read after this call: for whoever is about to delete on
    /// other nodes.
    pub(crate) async fn confirm(&self, core: &Core) -> bool {
        match core.map.refresh().await {
            // A grid that was never restored keeps no file: it is of the first incarnation.
            Ok(map) => map.incarnation.max(1) == self.incarnation().max(1) && self.may_delete(),
            Err(_) => false,
        }
    }

    /// Learns from a map that was just read; makes it durable and tells the drives.
    pub(crate) async fn follow(&self, core: &Core, shards: &ShardService, map: &Topology) {
        let stores: Vec<DriveStore> = shards.drives().into_iter().map(|(_, store)| store).collect();
        if !self.state.lock().loaded {
            let (disk, at) = (Arc::clone(&core.env.disk), stores.clone());
            let kept = core.env.exec.blocking(move || {
                at.iter().map(|store| load(disk.as_ref(), store.dir())).max().unwrap_or_default()
            });
            let kept = kept.await;
            let mut state = self.state.lock();
            state.kept = state.kept.max(kept);
            state.loaded = true;
        }
        let before = self.state.lock().kept;
        let now = match self.learn(core, map, before).await {
            Some(now) => now,
            None => {
                self.state.lock().confirmed = false;
                return hold(&stores, true);
            }
        };
        if now != before {
            // A freeze holds at once, and whatever the disks say.
            if is_frozen(now) {
                hold(&stores, true);
                self.state.lock().kept = now;
            }
            let (disk, at) = (Arc::clone(&core.env.disk), stores.clone());
            let stored = core.env.exec.blocking(move || {
                at.iter().try_for_each(|one| store(disk.as_ref(), one.dir(), now))
            });
            if let Err(error) = stored.await {
                // Asked again with the next map; a thaw that is not durable is none.
                tracing::warn!(%error, "cannot write down whether deletes are frozen");
                return;
            }
            tracing::warn!(
                incarnation = now.incarnation,
                frozen = is_frozen(now),
                "metadata was restored: deletes are frozen until `nexusgrid metadata thaw`"
            );
        }
        {
            let mut state = self.state.lock();
            state.kept = now;
            state.confirmed = true;
        }
        hold(&stores, is_frozen(now));
    }

    /// What a map, and the root group about it, say; `None`: nothing that may be believed.
    async fn learn(&self, core: &Core, map: &Topology, before: Kept) -> Option<Kept> {
        if map.incarnation < before.incarnation {
            tracing::error!(
                known = before.incarnation,
                map = map.incarnation,
                "a map of an older incarnation of the metadata is not believed"
            );
            return None;
        }
        // As long as nothing was ever restored there is nothing to ask, and no file.
        if map.incarnation <= 1 && before.incarnation <= 1 {
            return Some(before);
        }
        let settled = before.incarnation == map.incarnation && !is_frozen(before);
        if settled {
            return Some(before);
        }
        match core.meta.root_ask(&RootQuery::Restores).await {
            Ok(RootAnswer::Restores(restores)) if restores.incarnation >= map.incarnation => {
                let Restores { incarnation, thawed, .. } = restores;
                Some(Kept { incarnation, thawed })
            }
            _ => None,
        }
    }
}

fn is_frozen(kept: Kept) -> bool {
    kept.incarnation > 1 && kept.thawed < kept.incarnation
}

fn hold(stores: &[DriveStore], held: bool) {
    for store in stores {
        store.hold_purge(held);
    }
}

/// What a drive's file says; one that is missing or torn says nothing.
fn load(disk: &dyn Disk, dir: &Path) -> Kept {
    let read = || -> io::Result<Vec<u8>> {
        let file = disk.open(&dir.join(FILE_NAME), OpenMode::Read)?;
        let mut bytes = vec![0; usize::try_from(file.len()?.min(FILE_LEN_MAX)).unwrap_or(0)];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    };
    read().ok().and_then(|bytes| decode(&bytes).ok()).unwrap_or_default()
}

fn store(disk: &dyn Disk, dir: &Path, kept: Kept) -> io::Result<()> {
    let fresh = dir.join(format!("{FILE_NAME}.new"));
    let file = disk.open(&fresh, OpenMode::OpenOrCreate)?;
    file.set_len(0)?;
    file.write_at(&encode(&kept), 0)?;
    file.sync()?;
    disk.rename(&fresh, &dir.join(FILE_NAME))?;
    disk.sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_drives_file() {
        assert_eq!(encode(&Kept { incarnation: 300, thawed: 1 }), [1, 0xac, 2, 1]);
    }

    #[test]
    fn nothing_may_go_before_a_map_was_read_nor_while_frozen() {
        let deletions = Deletions::default();
        assert!(!deletions.may_delete());
        deletions.state.lock().confirmed = true;
        assert!(deletions.may_delete());
        deletions.state.lock().kept = Kept { incarnation: 2, thawed: 1 };
        assert!(!deletions.may_delete() && deletions.is_frozen());
        deletions.state.lock().kept = Kept { incarnation: 2, thawed: 2 };
        assert!(deletions.may_delete());
    }
}
