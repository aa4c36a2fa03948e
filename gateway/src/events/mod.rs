//! Events: what happens to objects is told to whom their buckets' owners name, as S3 does.
//!
//! An operation that is told of is answered only when its event stands in the grid, in a queue of
//! its target ([`queue`]); from there it is delivered ([`deliver`]), again and again until the target
//! says yes, by the gateway that took it or, if that is gone, by another. So what was acknowledged
//! is told at least once; it may be told twice, and out of order across gateways. State: events
//! whose operations wait for their answer.

mod deliver;
mod ends;
mod message;
mod nats;
mod queue;
mod rules;
mod targets;
mod webhook;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nexusgrid_env::Env;
use nexusgrid_grid::GridError;
use serde_json::Value;

pub(crate) use deliver::Deliverer;
pub(crate) use ends::Teller;
pub(crate) use message::Happened;
use message::Scene;
pub use queue::DeadLetter;
use queue::Queue;
pub(crate) use rules::{Rule, read};
pub use targets::{TargetError, TargetId, TargetKind, Targets};

use crate::metrics::Metrics;
use crate::rules::BucketRules;
use crate::store::SharedStore;

/// Who did it, and how it was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doer {
    /// The caller's id.
    pub principal: String,
    /// The other end of the connection.
    pub source: Option<String>,
    /// The request's id.
    pub request_id: String,
}

/// Events as administrators see them: targets, and what was given up.
#[derive(Clone)]
pub struct EventAdmin {
    /// Where events go.
    pub targets: Arc<Targets>,
    queue: Queue,
}

impl EventAdmin {
    /// Of the grid behind `store`.
    pub fn of(env: Env, store: SharedStore) -> EventAdmin {
        let targets = Arc::new(Targets::new(env.clone(), Arc::clone(&store)));
        EventAdmin { targets, queue: Queue::new(env, store, Metrics::default()) }
    }

    /// Messages to a target that were given up, oldest first.
    pub async fn dead(&self, target: &TargetId) -> Result<Vec<DeadLetter>, GridError> {
        self.queue.dead(target).await
    }

    /// Tries the messages to a target that were given up `again`, or forgets them; gives how many
    /// there were.
    pub async fn raise(&self, target: &TargetId, again: bool) -> Result<usize, GridError> {
        self.queue.raise(target, again).await
    }
}

/// The events of one gateway; cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    region: Arc<str>,
    queue: Queue,
    sequence: AtomicU64,
}

impl Events {
    pub fn new(env: Env, store: SharedStore, region: Arc<str>, metrics: Metrics) -> Events {
        let queue = Queue::new(env.clone(), store, metrics);
        Events { inner: Arc::new(Inner { env, region, queue, sequence: AtomicU64::new(0) }) }
    }

    /// The queues.
    pub fn queue(&self) -> &Queue {
        &self.inner.queue
    }

    fn scene<'a>(
        &'a self,
        rules: &'a BucketRules,
        owner: &'a str,
        doer: &'a Doer,
        at_ms: Option<u64>,
    ) -> Scene<'a> {
        Scene {
            region: &self.inner.region,
            bucket: &rules.info.name,
            owner,
            principal: &doer.principal,
            source: doer.source.as_deref(),
            request_id: &doer.request_id,
            unix_ms: at_ms.unwrap_or_else(|| self.inner.env.clock.wall().0),
            sequence: self.inner.sequence.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Tells of what happened; comes back when that cannot be lost any more.
    pub async fn tell(
        &self,
        rules: &BucketRules,
        happened: &[Happened],
        doer: &Doer,
    ) -> Result<(), GridError> {
        let owner = rules.owner.canonical_id();
        let mut messages: Vec<(TargetId, Value)> = Vec::new();
        for one in happened {
            let wanted = rules.events().iter().filter(|rule| rule.covers(one.event, &one.key));
            for rule in wanted {
                let scene = self.scene(rules, &owner, doer, one.at_ms);
                messages.push((rule.target.clone(), message::record(one, &rule.id, &scene)));
            }
        }
        self.inner.queue.add(messages).await
    }

    /// Sends a target the message by which it sees that it will be told.
    pub async fn tell_test(
        &self,
        rules: &BucketRules,
        targets: &[TargetId],
        doer: &Doer,
    ) -> Result<(), GridError> {
        let owner = rules.owner.canonical_id();
        let scene = self.scene(rules, &owner, doer, None);
        for target in targets {
            self.inner.queue.add_alone(target, &message::test(&scene)).await?;
        }
        Ok(())
    }
}
