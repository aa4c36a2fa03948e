//! What a mount that was made with an access key may do, as long as its line lasts.
//!
//! ```text
//!   greeted ──▶ writes ◀──looked at each [RIGHTS_LOOK]──▶ reads
//!                  └──────────────┬───────────────────────┘
//!                 nothing ◀── refused (the line ends, and what was lent with it)
//!                    └── looked at on the next line: calls are EACCES until it may again
//! ```
//! While rights cannot be looked up they are believed for [`limits::RIGHTS_KEPT`]; then calls wait.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use nexusgrid_env::{Clock, Env};
use nexusgrid_gateway::mounts::{MountKey, MountRefusal, MountRights, Mounts};
use nexusgrid_grid::volume::PosixError;
use parking_lot::Mutex;

use super::limits;
use super::wire::{Call, Kind, RequestName};

/// Names of changes that were admitted lately: who asks again for one that was under way when its line ended hears what
/// came of it, whatever is allowed by then.
#[derive(Default)]
pub struct Admitted {
    names: BTreeSet<RequestName>,
    order: VecDeque<RequestName>,
}

impl Admitted {
    fn note(&mut self, name: RequestName) {
        if !self.names.insert(name) {
            return;
        }
        self.order.push_back(name);
        if self.order.len() > limits::ADMITTED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.names.remove(&oldest);
        }
    }
}

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

    /// Whether a call may be made, under a name if it has one.
    pub fn admit(
        &self,
        call: &Call,
        name: Option<RequestName>,
        admitted: &Mutex<Admitted>,
    ) -> Result<(), PosixError> {
        let rights = *self.rights.lock();
        let decided = decide(rights, call.kind());
        let Some(name) = name.filter(|_| call.kind() == Kind::Changes) else { return decided };
        let mut admitted = admitted.lock();
        if decided.is_ok() {
            admitted.note(name);
        }
        if admitted.names.contains(&name) { Ok(()) } else { decided }
    }

    /// Looks again and again; returns when what was allowed is not any more, or nobody could say for too long: then
    /// nothing that was answered may be believed.
    pub async fn watch(&self) {
        let mut known = self.clock.now();
        loop {
            let asked = self.clock.now();
            let looked = async { Some(self.mounts.rights(&self.bucket, &self.key).await) };
            let late = async {
                self.clock.sleep(limits::RIGHTS_TIMEOUT).await;
                None
            };
            let found = tokio::select! {
                biased;
                looked = looked => looked,
                late = late => late,
            };
            let found = match found {
                Some(Ok(rights)) => Some(rights),
                None | Some(Err(MountRefusal::Away(_))) => {
                    if self.clock.now().since(known) >= limits::RIGHTS_KEPT {
                        tracing::warn!(bucket = %self.bucket, "a mount's rights are not known");
                        return;
                    }
                    self.clock.sleep(limits::RIGHTS_LOOK).await;
                    continue;
                }
                Some(Err(refusal)) => {
                    tracing::debug!(%refusal, "a mount may do nothing");
                    None
                }
            };
            known = asked;
            let before = std::mem::replace(&mut *self.rights.lock(), found);
            if before.is_some() && found.is_none() {
                return;
            }
            self.clock.sleep(limits::RIGHTS_LOOK).await;
        }
    }
}

fn decide(rights: Option<MountRights>, kind: Kind) -> Result<(), PosixError> {
    match (rights, kind) {
        (_, Kind::GivesBack) | (Some(_), Kind::Looks) | (Some(MountRights::Write), _) => Ok(()),
        (Some(MountRights::Read), Kind::Changes) => Err(PosixError::ReadOnly),
        (None, Kind::Looks | Kind::Changes) => Err(PosixError::Denied),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_looked_at_changed_and_given_back() {
        let may = |rights| {
            [Kind::Looks, Kind::Changes, Kind::GivesBack].map(|kind| decide(rights, kind).err())
        };
        assert_eq!(may(Some(MountRights::Write)), [None, None, None]);
        assert_eq!(may(Some(MountRights::Read)), [None, Some(PosixError::ReadOnly), None]);
        assert_eq!(may(None), [Some(PosixError::Denied), Some(PosixError::Denied), None]);
    }

    #[test]
    fn names_of_changes_are_bounded() {
        let mut admitted = Admitted::default();
        let name = |number: usize| (number as u128).to_be_bytes();
        for number in 0..limits::ADMITTED_MAX + 2 {
            admitted.note(name(number));
            admitted.note(name(number));
        }
        assert_eq!(
            (admitted.names.len(), admitted.order.len()),
            (limits::ADMITTED_MAX, limits::ADMITTED_MAX)
        );
        assert!(!admitted.names.contains(&name(1)) && admitted.names.contains(&name(2)));
    }
}
