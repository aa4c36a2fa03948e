//! Delivers what stands in the queues.
//!
//! Each target has its own pace: a message that is not taken is tried again after a pause that
//! doubles, and those behind it wait; other targets do not. A message that nobody took for
//! [`EVENT_GIVE_UP`](crate::limits::EVENT_GIVE_UP) is given up. State: pauses, and who is served now.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use nexusgrid_env::BootInstant;
use nexusgrid_grid::GridError;
use nexusgrid_iam::Secret;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::queue::{Queue, written_ms};
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

/// How a target's queues stand after they were looked at.
enum Left {
    Nothing,
    More,
    Refused,
}

type Served = (TargetId, Result<Left, GridError>);

pub(crate) struct Deliverer {
    pub queue: Queue,
    pub targets: Arc<Targets>,
    pub outbound: Arc<Outbound>,
    connections: nats::Connections,
}

#[derive(Default)]
struct Round {
    pauses: BTreeMap<TargetId, Pause>,
    busy: BTreeSet<TargetId>,
    /// Whose queue was counted since this process began.
    counted: BTreeSet<TargetId>,
    /// Who was served last: the next in order comes next.
    last: Option<TargetId>,
}

impl Deliverer {
    pub fn new(queue: Queue, targets: Arc<Targets>, outbound: Arc<Outbound>) -> Arc<Deliverer> {
        let connections = nats::Connections::default();
        Arc::new(Deliverer { queue, targets, outbound, connections })
    }

    /// Delivers until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let clock = Arc::clone(&self.queue.env().clock);
        let mut round = Round::default();
        let mut serving: FuturesUnordered<BoxFuture<'static, Served>> = FuturesUnordered::new();
        let mut look = true;
        loop {
            if look && let Err(error) = self.begin(&mut round, &mut serving).await {
                tracing::debug!(%error, "the queues of events cannot be read");
            }
            let now = clock.now();
            let soonest = round.pauses.values().map(|pause| pause.until.since(now)).min();
            let wait = soonest.unwrap_or(limits::EVENTS_LOOK_EVERY).min(limits::EVENTS_LOOK_EVERY);
            look = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some((target, left)) = serving.next(), if !serving.is_empty() => {
                    self.settle(&mut round, target, left)
                }
                () = self.queue.added() => true,
                () = clock.sleep(wait.max(limits::EVENT_PAUSE_MIN)) => true,
            };
        }
    }

    /// Begins to serve targets that are due, in turn.
    async fn begin(
        self: &Arc<Self>,
        round: &mut Round,
        serving: &mut FuturesUnordered<BoxFuture<'static, Served>>,
    ) -> Result<(), GridError> {
        let waiting = self.queue.waiting().await?;
        round.pauses.retain(|target, _| waiting.contains_key(target));
        if waiting.is_empty() {
            return Ok(());
        }
        let known = self.targets.all().await?;
        let now = self.queue.env().clock.now();
        let (before, after): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(target, _)| Some(target) <= round.last.as_ref());
        for (target, nodes) in after.into_iter().chain(before) {
            if serving.len() >= limits::EVENT_TARGETS_AT_ONCE {
                break;
            }
            let rests = round.pauses.get(&target).is_some_and(|it| !it.until.since(now).is_zero());
            if rests || round.busy.contains(&target) {
                continue;
            }
            // What nobody else does for its writer is this node's.
            let store = self.queue.store();
            let nodes: Vec<u64> = nodes.into_iter().filter(|node| store.acts_for(*node)).collect();
            if nodes.is_empty() {
                continue;
            }
            if round.counted.insert(target.clone()) {
                self.queue.count(&target).await?;
            }
            round.busy.insert(target.clone());
            round.last = Some(target.clone());
            let (own, kind) = (Arc::clone(self), known.get(&target).cloned());
            serving.push(Box::pin(async move {
                let left = own.serve(&target, kind, &nodes).await;
                (target, left)
            }));
        }
        Ok(())
    }

    /// Notes how it went; gives whether to look again at once.
    fn settle(&self, round: &mut Round, target: TargetId, left: Result<Left, GridError>) -> bool {
        round.busy.remove(&target);
        match left {
            Ok(left @ (Left::Nothing | Left::More)) => {
                round.pauses.remove(&target);
                matches!(left, Left::More)
            }
            Ok(Left::Refused) | Err(_) => {
                let before = round.pauses.get(&target).map_or(Duration::ZERO, |it| it.length);
                let length = (before * 2).clamp(limits::EVENT_PAUSE_MIN, limits::EVENT_PAUSE_MAX);
                let until = self.queue.env().clock.now().plus(length);
                round.pauses.insert(target, Pause { until, length });
                false
            }
        }
    }

    /// Sends what some nodes wrote for a target.
    async fn serve(
        &self,
        target: &TargetId,
        kind: Option<TargetKind>,
        nodes: &[u64],
    ) -> Result<Left, GridError> {
        let mut left = Left::Nothing;
        for node in nodes {
            let keys = self.queue.first(target, *node).await?;
            let Some(kind) = &kind else {
                if self.targets.is_there(target).await? {
                    // It cannot be read here; another release may.
                    return Ok(Left::Refused);
                }
                self.queue.metrics().events_lost.inc_by(keys.len() as u64);
                self.queue.remove(target, keys).await?;
                left = Left::More;
                continue;
            };
            if keys.len() >= limits::EVENTS_READ_AT_ONCE as usize {
                left = Left::More;
            }
            for key in &keys {
                if let Err(error) = self.send(target, kind, key).await? {
                    self.queue.metrics().events_refused.inc();
                    tracing::warn!(target_name = %target.name, %error, "an event was not taken");
                    self.give_up(target, &keys).await?;
                    return Ok(Left::Refused);
                }
            }
        }
        Ok(left)
    }

    /// Sends one message; takes it away if it was taken.
    async fn send(
        &self,
        target: &TargetId,
        kind: &TargetKind,
        key: &str,
    ) -> Result<Result<(), NotTaken>, GridError> {
        let store = self.queue.store();
        let message = match store.own_get(key).await {
            Ok(message) => message,
            // Another gateway has delivered it.
            Err(GridError::NoSuchKey) => return Ok(Ok(())),
            // Nobody will ever read it; those behind it go on.
            Err(GridError::DataLost(_) | GridError::Rejected(_)) => {
                self.queue.metrics().events_lost.inc();
                self.queue.remove(target, vec![key.to_owned()]).await?;
                return Ok(Ok(()));
            }
            Err(error) => return Err(error),
        };
        let secret = match kind.sealed().map(|sealed| store.open_secret(&target.path(), sealed)) {
            None => None,
            Some(Err(error)) => return Ok(Err(NotTaken(format!("its secret: {error}")))),
            Some(Ok(opened)) => {
                let opened = Zeroizing::new(opened);
                let text = std::str::from_utf8(&opened).unwrap_or_default();
                Some(Secret::new(text.to_owned()))
            }
        };
        let id = key.strip_prefix("event/").unwrap_or(key);
        let sent = match kind {
            TargetKind::Webhook { url, .. } => {
                let now_s = self.queue.env().clock.wall().0 / 1000;
                webhook::send(&self.outbound, url, secret.as_ref(), (id, now_s), message).await
            }
            TargetKind::Nats { url, subject, .. } => {
                let place = (target, url.as_str(), subject.as_str());
                self.connections.send(&self.outbound, place, secret.as_ref(), message).await
            }
        };
        if sent.is_ok() {
            self.queue.remove(target, vec![key.to_owned()]).await?;
            self.queue.metrics().events_delivered.inc();
        }
        Ok(sent)
    }

    /// Buries the messages that are too old.
    async fn give_up(&self, target: &TargetId, keys: &[String]) -> Result<(), GridError> {
        let now = self.queue.env().clock.wall().0;
        let give_up_ms = u64::try_from(limits::EVENT_GIVE_UP.as_millis()).unwrap_or(u64::MAX);
        for key in keys {
            if written_ms(key).is_none_or(|then| now.saturating_sub(then) > give_up_ms) {
                self.queue.bury(target, key).await?;
            }
        }
        Ok(())
    }
}
