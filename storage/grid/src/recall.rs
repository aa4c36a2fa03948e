//! A bucket that a mount has to itself is asked for, by whoever needs it.
//!
//! ```text
//!   command, query ──Delegated──▶ Recall (its reply comes when the mount has heard) ──▶ given back? ──▶ once more
//!                                                                          └─[DELEGATION_YIELD]──▶ Revoke
//! ```
//! Who has it says all that was done, and gives it back, within milliseconds; one that is gone, or hangs, loses what it did not
//! say.

use std::time::Duration;

use nexusgrid_codec::GroupId;
use nexusgrid_meta::namespace::types::{
    BucketId, NamespaceAnswer, NamespaceCommand, NamespaceError, NamespaceQuery,
};

use crate::limits;
use crate::meta_port::{MetaClient, MetaError, PortError};

/// Which delegation is in the way, if that is why something was refused.
fn in_the_way(error: &MetaError) -> Option<(BucketId, u64)> {
    match error {
        MetaError::Namespace(NamespaceError::Delegated(bucket, grant)) => Some((*bucket, *grant)),
        _ => None,
    }
}

impl MetaClient {
    /// Does something of a group; while a mount has the bucket to itself, asks for it and does it again. `attempt` is told how
    /// often it was refused for that.
    pub(crate) async fn unless_delegated<T, F>(
        &self,
        group: GroupId,
        mut attempt: impl FnMut(usize) -> F,
    ) -> Result<T, MetaError>
    where
        F: Future<Output = Result<T, MetaError>>,
    {
        let mut refused = 0;
        loop {
            let done = attempt(refused).await;
            let delegation = done.as_ref().err().and_then(in_the_way);
            let Some((bucket, grant)) = delegation else { return done };
            refused += 1;
            if refused >= limits::RECALLS_MAX {
                return Err(
                    PortError::Unavailable("a mount has the bucket to itself".into()).into()
                );
            }
            self.get_back(group, bucket, grant).await?;
        }
    }

    /// Returns when a delegation is over.
    async fn get_back(
        &self,
        group: GroupId,
        bucket: BucketId,
        grant: u64,
    ) -> Result<(), MetaError> {
        let until = self.now().plus(limits::DELEGATION_YIELD);
        let recall = NamespaceCommand::Recall { bucket, grant };
        self.command_once(group, &recall).await?;
        let mut pause = limits::RECALL_LOOK_MIN;
        loop {
            let query = NamespaceQuery::Delegation { bucket };
            match self.ask_once(group, &query).await? {
                NamespaceAnswer::Delegation(Some((_, held, _))) if held == grant => {}
                NamespaceAnswer::Delegation(_) => return Ok(()),
                _ => return Err(MetaError::Reply("a delegation")),
            }
            if self.now() >= until {
                tracing::warn!(bucket = bucket.0, "a mount does not give its bucket back");
                let revoke = NamespaceCommand::Revoke { bucket, grant };
                self.command_once(group, &revoke).await?;
                return Ok(());
            }
            self.sleep(pause).await;
            pause = (pause * 2).min(limits::RECALL_LOOK_MAX);
        }
    }

    async fn sleep(&self, pause: Duration) {
        self.env().clock.sleep(pause).await;
    }

    fn now(&self) -> nexusgrid_env::BootInstant {
        self.env().clock.now()
    }
}
