//! Tells of what lifecycle rules did.
//!
//! It happens below the gateways, where it is noted by the very command that does it (`Grid::ends`). One
//! gateway for each metadata group reads that, puts it into the queues, and has it forgotten when it stands
//! there: what is cut off in between is told twice, and never not at all.

use std::sync::Arc;
use std::time::Duration;

use nexusgrid_env::Env;
use nexusgrid_grid::{EndKind, Ends, GridError, ObjectEnd};
use tokio_util::sync::CancellationToken;

use super::{Doer, Events, Happened};
use crate::limits;
use crate::rules::Rules;
use crate::store::SharedStore;

/// In whose name lifecycle rules act.
const SERVICE: &str = "s3.amazonaws.com";

/// See the module.
pub(crate) struct Teller {
    pub env: Env,
    pub store: SharedStore,
    pub rules: Arc<Rules>,
    pub events: Events,
}

fn happened(end: &ObjectEnd) -> Happened {
    let version = end.version.map(|version| version.to_string());
    let (event, class) = match &end.kind {
        EndKind::Deleted => ("s3:LifecycleExpiration:Delete", None),
        EndKind::Marked => ("s3:LifecycleExpiration:DeleteMarkerCreated", None),
        EndKind::Moved(class) => {
            let class = nexusgrid_grid::storage_class::name(class).to_owned();
            ("s3:LifecycleTransition", Some(class))
        }
    };
    let stays = class.is_some();
    Happened {
        event,
        key: end.key.clone(),
        size: stays.then_some(end.size),
        etag: stays.then(|| end.etag.clone()),
        version,
        class,
        at_ms: Some(end.at.0),
    }
}

impl Teller {
    /// Tells until `shutdown`.
    pub async fn run(&self, every: Duration, shutdown: CancellationToken) {
        loop {
            let pause = match self.round().await {
                Ok(true) => Duration::ZERO,
                Ok(false) => every,
                Err(error) => {
                    tracing::info!(%error, "what lifecycle rules did is told later");
                    every
                }
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = self.env.clock.sleep(pause) => {}
            }
        }
    }

    /// Tells a page of each group; whether there was any.
    pub async fn round(&self) -> Result<bool, GridError> {
        let pages = self.store.ends().await?;
        let mut was_any = false;
        for page in &pages {
            let told = match self.tell(page).await {
                Ok(()) => self.store.forget_ends(page.group, page.through).await,
                Err(error) => Err(error),
            };
            match told {
                Ok(()) => was_any = true,
                // The other groups' are told all the same; these are in the next round.
                Err(error) => {
                    tracing::warn!(group = page.group, %error, "what lifecycle rules did is not told yet");
                }
            }
        }
        Ok(was_any)
    }

    async fn tell(&self, page: &Ends) -> Result<(), GridError> {
        let of_one_bucket = |a: &ObjectEnd, b: &ObjectEnd| a.bucket == b.bucket;
        for ends in page.ends.chunk_by(of_one_bucket) {
            let Some(bucket) = ends.first().and_then(|end| end.bucket.as_ref()) else { continue };
            // As of now: what this node has heard may be older than what its owner laid down.
            let found = match self.store.head_bucket(bucket).await {
                Ok(_) => self.rules.of(bucket).await,
                Err(error) => Err(error),
            };
            let rules = match found {
                Ok(rules) => rules,
                Err(GridError::NoSuchBucket) => continue,
                Err(error) => return Err(error),
            };
            let doer = Doer {
                principal: SERVICE.to_owned(),
                source: Some(SERVICE.to_owned()),
                request_id: format!("{:016X}", page.through.sequence),
            };
            for ends in ends.chunks(limits::ENDS_AT_ONCE) {
                let happened: Vec<Happened> = ends.iter().map(happened).collect();
                self.events.tell(&rules, &happened, &doer).await?;
            }
        }
        Ok(())
    }
}
