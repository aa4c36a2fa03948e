//! What a mount that was made with an access key may do, as long as its line lasts.
//!
//! ```text
//!   greeted ──▶ writes ◀──looked at each [RIGHTS_LOOK]──▶ reads
//!                  └──────────────┬───────────────────────┘
//!                 nothing ◀── refused (the line ends, and what was lent with it)
//!                    └── looked at on the next line: calls are EACCES until it may again
//! ```
//! While rights cannot be looked up they are believed for [`limits::RIGHTS_KEPT`]; then calls wait.

use std::sync::Arc;

use nexusgrid_env::{Clock, Env};
use nexusgrid_gateway::mounts::{MountKey, MountRefusal, MountRights, Mounts};
use nexusgrid_grid::volume::PosixError;
use parking_lot::Mutex;

use super::limits;
use super::wire::{Call, Kind};

/// The rights of a line.
pub struct Pass {
    mounts: Arc<Mounts>,
    clock: Arc<dyn Clock>,
    bucket: String,
    key: MountKey,
    /// `None`: nothing.
    rights: Mutex<Option<MountRights>>,
}

impl Pass {
    /// Looks what the key may do. `resumes`: programs use the mount already, so that it is admitted though it may do
    /// nothing any more; they hear EACCES.
    pub async fn of(
        (mounts, env): (Arc<Mounts>, &Env),
        bucket: &str,
        key: MountKey,
        resumes: bool,
    ) -> Result<Pass, MountRefusal> {
        let rights = match mounts.rights(bucket, &key).await {
            Ok(rights) => Some(rights),
            Err(refusal @ MountRefusal::Away(_)) => return Err(refusal),
            Err(refusal) if resumes => {
                tracing::warn!(%bucket, key = %key.id, %refusal, "a mount may do nothing any more");
                None
            }
            Err(refusal) => return Err(refusal),
        };
        let (clock, bucket) = (Arc::clone(&env.clock), bucket.to_owned());
        Ok(Pass { mounts, clock, bucket, key, rights: Mutex::new(rights) })
    }

    /// The id of the key.
    pub fn key(&self) -> &str {
        &self.key.id
    }

    /// Whether a call may be made.
    pub fn admit(&self, call: &Call) -> Result<(), PosixError> {
        match (*self.rights.lock(), call.kind()) {
            (_, Kind::GivesBack) | (Some(_), Kind::Looks) | (Some(MountRights::Write), _) => Ok(()),
            (Some(MountRights::Read), Kind::Changes) => Err(PosixError::ReadOnly),
            (None, Kind::Looks | Kind::Changes) => Err(PosixError::Denied),
        }
    }

    /// Looks again and again; returns when what was allowed is not any more, or nobody could say for too long: then
    /// nothing that was answered may be believed.
    pub async fn watch(&self) {
        let mut known = self.clock.now();
        loop {
            self.clock.sleep(limits::RIGHTS_LOOK).await;
            let found = match self.mounts.rights(&self.bucket, &self.key).await {
                Ok(rights) => Some(rights),
                Err(MountRefusal::Away(why)) => {
                    if self.clock.now().since(known) >= limits::RIGHTS_KEPT {
                        tracing::warn!(bucket = %self.bucket, why, "a mount's rights are not known");
                        return;
                    }
                    continue;
                }
                Err(refusal) => {
                    tracing::debug!(%refusal, "a mount may do nothing");
                    None
                }
            };
            known = self.clock.now();
            let before = std::mem::replace(&mut *self.rights.lock(), found);
            if before.is_some() && found.is_none() {
                return;
            }
        }
    }
}
