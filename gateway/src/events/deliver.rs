//! Delivers what stands in the queues.
//!
//! Each target has its own pace: a message that is not taken is tried again after a pause that
//! doubles, and those behind it wait; other targets do not. A message that nobody took for
//! [`EVENT_GIVE_UP`](crate::limits::EVENT_GIVE_UP) is given up, and so is the oldest of a queue that
//! is too long. State: pauses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use nexusgrid_env::BootInstant;
use nexusgrid_grid::GridError;
use nexusgrid_iam::Secret;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::queue::{Queue, origin};
use super::targets::{TargetId, TargetKind, Targets};
use super::{nats, webhook};
use crate::limits;
use crate::outbound::Outbound;

/// A message was not taken.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NotTaken(pub String);

/// When a target is tried again.
#[derive(Clone, Copy, Debug)]
struct Pause {
    until: BootInstant,
    length: Duration,
}

/// How a target's queue stands after a round.
enum Left {
    Nothing,
    More,
    Refused,
}

pub(crate) struct Deliverer {
    pub queue: Queue,
    pub targets: Arc<Targets>,
    pub outbound: Arc<Outbound>,
}

impl Deliverer {
    /// Delivers until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut pauses: BTreeMap<TargetId, Pause> = BTreeMap::new();
        let mut connections = nats::Connections::default();
        loop {
            let more = match self.round(&mut pauses, &mut connections).await {
                Ok(more) => more,
                Err(error) => {
                    tracing::debug!(%error, "the queues of events cannot be read");
                    false
                }
            };
            let now = self.queue.env().clock.now();
            let soonest = pauses.values().map(|pause| pause.until.since(now)).min();
            let wait = soonest.unwrap_or(limits::EVENTS_LOOK_EVERY).min(limits::EVENTS_LOOK_EVERY);
            let wait = if more { Duration::ZERO } else { wait.max(limits::EVENT_PAUSE_MIN) };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = self.queue.added() => {}
                () = self.queue.env().clock.sleep(wait) => {}
            }
        }
    }

    /// Tries all targets that are due; gives whether there is more to do at once.
    async fn round(
        &self,
        pauses: &mut BTreeMap<TargetId, Pause>,
        connections: &mut nats::Connections,
    ) -> Result<bool, GridError> {
        let waiting = self.queue.targets().await?;
        pauses.retain(|target, _| waiting.contains(target));
        if waiting.is_empty() {
            return Ok(false);
        }
        let known = self.targets.all().await?;
        let now = self.queue.env().clock.now();
        let due = waiting.into_iter().filter(|target| {
            pauses.get(target).is_none_or(|pause| pause.until.since(now).is_zero())
        });
        let mut rounds: FuturesUnordered<_> = due
            .take(limits::EVENT_TARGETS_AT_ONCE)
            .map(|target| {
                let kind = known.get(&target).cloned();
                let connections = &*connections;
                async move {
                    let left = self.of_target(&target, kind, connections).await;
                    (target, left)
                }
            })
            .collect();
        let mut more = false;
        while let Some((target, left)) = rounds.next().await {
            match left {
                Ok(Left::Nothing) => {
                    pauses.remove(&target);
                }
                Ok(Left::More) => {
                    pauses.remove(&target);
                    more = true;
                }
                Ok(Left::Refused) | Err(_) => {
                    let before = pauses.get(&target).map_or(Duration::ZERO, |it| it.length);
                    let length =
                        (before * 2).clamp(limits::EVENT_PAUSE_MIN, limits::EVENT_PAUSE_MAX);
                    let until = self.queue.env().clock.now().plus(length);
                    pauses.insert(target, Pause { until, length });
                }
            }
        }
        Ok(more)
    }

    async fn of_target(
        &self,
        target: &TargetId,
        kind: Option<TargetKind>,
        connections: &nats::Connections,
    ) -> Result<Left, GridError> {
        let store = self.queue.store();
        let keys = self.queue.first(target).await?;
        let is_long = keys.len() >= limits::EVENTS_READ_AT_ONCE as usize;
        let own = keys.iter().filter(|key| {
            // What nobody can read is whoever's.
            origin(key).is_none_or(|(_, node)| store.acts_for(node))
        });
        let mut taken = 0usize;
        for key in own {
            let Some(kind) = &kind else {
                // The target was removed.
                store.own_delete(vec![key.clone()]).await?;
                self.queue.metrics().events_lost.inc();
                continue;
            };
            let message = match store.own_get(key).await {
                Ok(message) => message,
                // Another gateway has delivered it.
                Err(GridError::NoSuchKey) => continue,
                Err(error) => return Err(error),
            };
            let secret = match kind.sealed() {
                None => None,
                Some(sealed) => {
                    let opened = Zeroizing::new(store.open_secret(&target.path(), sealed)?);
                    let text = std::str::from_utf8(&opened).unwrap_or_default();
                    Some(Secret::new(text.to_owned()))
                }
            };
            let id = key.rsplit('/').next().unwrap_or_default();
            let sent = match kind {
                TargetKind::Webhook { url, .. } => {
                    let now_s = self.queue.env().clock.wall().0 / 1000;
                    webhook::send(&self.outbound, url, secret.as_ref(), (id, now_s), message).await
                }
                TargetKind::Nats { url, subject, .. } => {
                    connections.send(&self.outbound, (url, subject), secret.as_ref(), message).await
                }
            };
            match sent {
                Ok(()) => {
                    store.own_delete(vec![key.clone()]).await?;
                    self.queue.metrics().events_delivered.inc();
                    taken += 1;
                }
                Err(error) => {
                    self.queue.metrics().events_refused.inc();
                    tracing::warn!(target_name = %target.name, %error, "an event was not taken");
                    self.give_up(target, key).await?;
                    return Ok(Left::Refused);
                }
            }
        }
        Ok(if is_long && taken > 0 { Left::More } else { Left::Nothing })
    }

    /// Buries a message that is too old, and the oldest of too many.
    async fn give_up(&self, target: &TargetId, key: &str) -> Result<(), GridError> {
        let now = self.queue.env().clock.wall().0;
        let give_up_ms = u64::try_from(limits::EVENT_GIVE_UP.as_millis()).unwrap_or(u64::MAX);
        let is_old = origin(key).is_none_or(|(then, _)| now.saturating_sub(then) > give_up_ms);
        if is_old || self.queue.is_full(target).await? {
            self.queue.bury(target, key).await?;
        }
        Ok(())
    }
}
