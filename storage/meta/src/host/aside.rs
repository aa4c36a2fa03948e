//! Raft logs that were set aside: kept while they may be wanted, then removed.
//!
//! A damaged log is renamed, never deleted (see `rot`): if a majority was to rot at once, an
//! administrator still has the files. Once every replica of this node runs again and has caught up, they
//! are of use to nobody; they stay for a week more of this agent's running time, and a few at most, or a
//! disk that rots once a month fills itself.
//!
//! *Owns* a file in each such log's directory: for how long it was of no use.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nexusgrid_env::{Disk, OpenMode};

use super::{MetaHost, ROOT_GROUP, group_dir, has_replica};
use crate::limits::{ASIDE_LOOKS, CAUGHT_UP_ENTRIES, LOGS_ASIDE_MAX};

/// Names of logs that were set aside begin so; a number follows, higher for later ones.
const PREFIX: &str = "log.damaged-";
/// In such a directory: for how many ms the log was of no use, as eight bytes, little-endian.
const AGE_FILE: &str = "age";

/// Gives the log below `dir` another name; blocks.
pub(super) fn set_aside(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    let number = all(disk, dir)?.last().map_or(1, |(number, _)| number + 1);
    disk.rename(&dir.join("log"), &dir.join(format!("{PREFIX}{number}")))?;
    disk.sync_dir(dir)
}

/// Logs set aside below `dir`, the oldest first.
fn all(disk: &dyn Disk, dir: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let number = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
        name.parse::<u32>().ok()
    };
    let listed = disk.list(dir)?.into_iter();
    let mut found: Vec<_> =
        listed.filter_map(|name| Some((number(&name)?, dir.join(&name)))).collect();
    found.sort();
    Ok(found)
}

/// Notes that for `more` nobody had use for the logs set aside below `dir`; removes those that are
/// old enough, and the oldest of too many. Blocks; gives how many went.
fn age(disk: &dyn Disk, dir: &Path, more: Duration, keep: Duration) -> io::Result<usize> {
    let found = all(disk, dir)?;
    let surplus = found.len().saturating_sub(LOGS_ASIDE_MAX);
    let mut gone = 0;
    for (at, (_, path)) in found.into_iter().enumerate() {
        let file = disk.open(&path.join(AGE_FILE), OpenMode::OpenOrCreate)?;
        let mut bytes = [0; 8];
        // Shorter: none was written yet, or it is torn, which only delays.
        let known = match file.read_at(&mut bytes, 0)? {
            8 => Duration::from_millis(u64::from_le_bytes(bytes)),
            _ => Duration::ZERO,
        };
        let age = known.saturating_add(more);
        if at < surplus || age >= keep {
            disk.remove_dir_all(&path)?;
            gone += 1;
            continue;
        }
        let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        file.write_at(&millis.to_le_bytes(), 0)?;
    }
    Ok(gone)
}

impl MetaHost {
    /// Removes logs that were set aside when nobody can want them any more; ends with the agent.
    pub(crate) async fn watch_aside(self) {
        let keep = self.inner.options.keep_damaged;
        let pause = keep / ASIDE_LOOKS;
        loop {
            self.inner.env.clock.sleep(pause).await;
            for root in [true, false] {
                let dir = if root { self.inner.dir.join("root") } else { self.inner.dir.clone() };
                if !self.has_caught_up(root).await {
                    continue;
                }
                let disk = self.inner.env.disk.clone();
                let aged = self.inner.env.exec.blocking(move || age(&*disk, &dir, pause, keep));
                match aged.await {
                    Ok(0) => {}
                    Ok(gone) => {
                        tracing::info!(gone, "damaged Raft logs removed: all is well since")
                    }
                    Err(error) => tracing::warn!(%error, "looking at damaged Raft logs"),
                }
            }
        }
    }

    /// Whether all replicas that stand on a log run, are sound, and know what their groups know.
    async fn has_caught_up(&self, root: bool) -> bool {
        let (disk, dir) = (self.inner.env.disk.clone(), self.inner.dir.clone());
        let running: Vec<_> =
            self.groups().into_iter().filter(|id| (*id == ROOT_GROUP) == root).collect();
        let here = self.inner.env.exec.blocking(move || {
            if root {
                return Ok(usize::from(has_replica(&*disk, &group_dir(&dir, ROOT_GROUP))?));
            }
            let mut count = 0;
            let groups = dir.join("groups");
            for name in disk.list(&groups)? {
                count += usize::from(has_replica(&*disk, &groups.join(name))?);
            }
            io::Result::Ok(count)
        });
        // None at all: it waits to be taken in.
        if running.is_empty() || here.await.ok() != Some(running.len()) {
            return false;
        }
        running.into_iter().all(|id| {
            let is_sound = self.running(id).is_ok_and(|group| !self.is_rotten(&group));
            is_sound
                && self.status(id).is_ok_and(|status| {
                    status.leader.leader.is_some()
                        && status.applied_index + CAUGHT_UP_ENTRIES >= status.last_index
                })
        })
    }
}

#[cfg(test)]
mod tests {
    use nexusgrid_env::sim::SimDisk;

    use super::*;

    #[test]
    fn damaged_logs_go_after_a_while_and_the_oldest_of_many_at_once() {
        let sim = SimDisk::new(1);
        let (disk, dir) = (sim.mount(), Path::new("/meta"));
        let disk = disk.as_ref();
        let day = Duration::from_secs(24 * 3600);
        let numbers = || {
            let found = all(disk, dir).unwrap();
            found.into_iter().map(|(number, _)| number).collect::<Vec<_>>()
        };
        let lose = || {
            disk.create_dir_all(&dir.join("log")).unwrap();
            set_aside(disk, dir).unwrap();
        };
        lose();
        for _ in 0..6 {
            assert_eq!(age(disk, dir, day, 7 * day).unwrap(), 0);
        }
        lose();
        assert_eq!(numbers(), [1, 2]);
        assert_eq!(age(disk, dir, day, 7 * day).unwrap(), 1);
        assert_eq!(numbers(), [2]);
        (0..LOGS_ASIDE_MAX).for_each(|_| lose());
        assert_eq!(age(disk, dir, day, 7 * day).unwrap(), 1);
        assert_eq!(numbers(), (3..3 + LOGS_ASIDE_MAX as u32).collect::<Vec<_>>());
    }
}
