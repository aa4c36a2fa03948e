//! The queues of events: objects of the grid's own, one per message, in order of key.
//!
//! `event/ACCOUNT/TARGET/NODE/TIME-NUMBER` waits; `event-dead/ACCOUNT/TARGET/TIME-NODE-NUMBER` was
//! given up. What is told at once is written at once: whoever comes while a message is being written
//! shares the next one. State: who waits for an answer; how long this node's queues are, so that a
//! target which is gone for good does not fill the grid.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use nexusgrid_env::Env;
use nexusgrid_grid::GridError;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, oneshot};

use super::targets::TargetId;
use crate::limits;
use crate::metrics::Metrics;
use crate::store::SharedStore;

/// Messages that wait.
pub(super) const WAITING: &str = "event/";
/// Messages that nobody took.
pub(super) const DEAD: &str = "event-dead/";

/// A message that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its target.
    pub target: TargetId,
    /// Names it among those of its target.
    pub id: String,
    /// What was not taken: JSON; `None`: it cannot be read, now or any more.
    pub message: Option<Bytes>,
}

type Answer = oneshot::Sender<Result<(), GridError>>;

#[derive(Default)]
struct State {
    is_writing: bool,
    entries: Vec<(TargetId, Value, Answer)>,
    /// Messages of this node that wait for a target, as far as it was counted.
    lengths: BTreeMap<TargetId, u64>,
}

/// The queues, as one gateway writes them; cheap to clone.
#[derive(Clone)]
pub(crate) struct Queue {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    store: SharedStore,
    metrics: Metrics,
    state: Mutex<State>,
    added: Notify,
}

/// When the message of this key was written, ms since 1970.
pub(super) fn written_ms(key: &str) -> Option<u64> {
    key.rsplit('/').next()?.split('-').next()?.parse().ok()
}

/// Where messages that a node wrote for a target wait.
fn place(target: &TargetId, node: u64) -> String {
    format!("{WAITING}{}{node}/", target.queue())
}

impl Queue {
    pub fn new(env: Env, store: SharedStore, metrics: Metrics) -> Queue {
        let (state, added) = Default::default();
        Queue { inner: Arc::new(Inner { env, store, metrics, state, added }) }
    }

    /// Waits until something was added.
    pub async fn added(&self) {
        self.inner.added.notified().await;
    }

    pub(super) fn store(&self) -> &SharedStore {
        &self.inner.store
    }

    pub(super) fn env(&self) -> &Env {
        &self.inner.env
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Adds records; comes back when all of them stand in the grid.
    pub async fn add(&self, records: Vec<(TargetId, Value)>) -> Result<(), GridError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut answers = Vec::with_capacity(records.len());
        {
            let mut state = self.inner.state.lock();
            if state.entries.len() + records.len() > limits::EVENTS_UNWRITTEN_MAX {
                return Err(GridError::SlowDown);
            }
            for (target, record) in records {
                let (answer, answered) = oneshot::channel();
                state.entries.push((target, record, answer));
                answers.push(answered);
            }
            if !state.is_writing {
                state.is_writing = true;
                let queue = self.clone();
                drop(self.inner.env.exec.spawn(async move { queue.write_all().await }));
            }
        }
        for answer in join_all(answers).await {
            let lost = || GridError::Unavailable("the queue of events has ended".to_owned());
            answer.map_err(|_| lost())??;
        }
        Ok(())
    }

    /// Adds a message of its own form.
    pub async fn add_alone(&self, target: &TargetId, message: &Value) -> Result<(), GridError> {
        self.put(target, Bytes::from(message.to_string())).await?;
        self.inner.added.notify_one();
        Ok(())
    }

    /// Writes until nobody waits.
    async fn write_all(&self) {
        loop {
            let entries = {
                let mut state = self.inner.state.lock();
                if state.entries.is_empty() {
                    state.is_writing = false;
                    return;
                }
                std::mem::take(&mut state.entries)
            };
            let mut by_target: BTreeMap<TargetId, Vec<(Value, Answer)>> = BTreeMap::new();
            for (target, record, answer) in entries {
                by_target.entry(target).or_default().push((record, answer));
            }
            let mut writes = Vec::new();
            for (target, mut records) in by_target {
                while !records.is_empty() {
                    let rest = records.split_off(records.len().min(limits::EVENTS_PER_MESSAGE_MAX));
                    writes.push(self.write(target.clone(), std::mem::replace(&mut records, rest)));
                }
            }
            join_all(writes).await;
            self.inner.added.notify_one();
        }
    }

    async fn write(&self, target: TargetId, records: Vec<(Value, Answer)>) {
        let (records, answers): (Vec<Value>, Vec<Answer>) = records.into_iter().unzip();
        let message = Bytes::from(json!({ "Records": records }).to_string());
        let outcome = self.put(&target, message).await;
        for answer in answers {
            // Whoever does not wait any more was told nothing.
            let _ = answer.send(outcome.clone());
        }
    }

    async fn put(&self, target: &TargetId, message: Bytes) -> Result<(), GridError> {
        let inner = &*self.inner;
        {
            let mut state = inner.state.lock();
            let length = state.lengths.entry(target.clone()).or_default();
            if *length >= limits::EVENTS_WAITING_MAX {
                // Whoever does not listen for so long is not waited for.
                inner.metrics.events_lost.inc();
                return Ok(());
            }
            *length += 1;
        }
        let now = inner.env.clock.wall().0;
        let number = inner.env.rng.u64() as u32;
        let node = inner.store.own_node();
        let key = format!("{}{now:013}-{number:08x}", place(target, node));
        let mut pause = Duration::from_millis(100);
        loop {
            match inner.store.own_put(&key, message.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) if pause > limits::EVENT_WRITE_PAUSE_MAX => {
                    // It does not wait: else failures would fill the count, and then events be dropped.
                    self.shorten(target, 1);
                    return Err(error);
                }
                Err(error) => tracing::debug!(%error, "an event is written again"),
            }
            inner.env.clock.sleep(pause).await;
            pause *= 2;
        }
    }

    /// Targets for which something waits, and the nodes that wrote it.
    pub(super) async fn waiting(&self) -> Result<BTreeMap<TargetId, Vec<u64>>, GridError> {
        let mut found: BTreeMap<TargetId, Vec<u64>> = BTreeMap::new();
        let mut after = None;
        for _ in 0..limits::EVENT_QUEUES_MAX {
            let keys = self.inner.store.own_list(WAITING, after, 1).await?;
            let Some(key) = keys.first() else { break };
            let rest = key.strip_prefix(WAITING).unwrap_or_default();
            let node = rest.split('/').nth(2).and_then(|node| node.parse().ok());
            match TargetId::of_queue(rest).zip(node) {
                Some((target, node)) => {
                    // '0' follows '/': all keys of this queue are passed over.
                    after = Some(format!("{}0", place(&target, node).trim_end_matches('/')));
                    found.entry(target).or_default().push(node);
                }
                None => after = Some(key.clone()),
            }
        }
        Ok(found)
    }

    /// The first messages that a node wrote for a target: their keys.
    pub(super) async fn first(
        &self,
        target: &TargetId,
        node: u64,
    ) -> Result<Vec<String>, GridError> {
        let max = limits::EVENTS_READ_AT_ONCE;
        self.inner.store.own_list(&place(target, node), None, max).await
    }

    /// Takes messages away that are done with.
    pub(super) async fn remove(
        &self,
        target: &TargetId,
        keys: Vec<String>,
    ) -> Result<(), GridError> {
        let many = keys.len() as u64;
        self.inner.store.own_delete(keys).await?;
        self.shorten(target, many);
        Ok(())
    }

    /// So many messages wait no more.
    fn shorten(&self, target: &TargetId, many: u64) {
        if let Some(length) = self.inner.state.lock().lengths.get_mut(target) {
            *length = length.saturating_sub(many);
        }
    }

    /// Counts what this node wrote for a target and what still waits: at its start it does not know.
    pub(super) async fn count(&self, target: &TargetId) -> Result<(), GridError> {
        let prefix = place(target, self.inner.store.own_node());
        let (mut length, mut after) = (0u64, None);
        while length < limits::EVENTS_WAITING_MAX {
            let page = self.inner.store.own_list(&prefix, after, limits::LIST_PAGE_MAX).await?;
            let Some(last) = page.last() else { break };
            length += page.len() as u64;
            after = Some(last.clone());
        }
        self.inner.state.lock().lengths.insert(target.clone(), length);
        Ok(())
    }

    /// Moves a message to those that were given up, of which a target has so many. One that cannot be
    /// read any more is gone.
    pub(super) async fn bury(&self, target: &TargetId, key: &str) -> Result<(), GridError> {
        let store = &self.inner.store;
        let mut parts = key.rsplit('/');
        let (id, node) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let id = id.replacen('-', &format!("-{node}-"), 1);
        let grave = format!("{DEAD}{}", target.queue());
        match store.own_get(key).await {
            Ok(message) => {
                store.own_put(&format!("{grave}{id}"), message).await?;
                self.inner.metrics.events_dead.inc();
            }
            Err(GridError::NoSuchKey) => return Ok(()),
            Err(GridError::DataLost(_) | GridError::Rejected(_)) => {
                self.inner.metrics.events_lost.inc();
            }
            Err(error) => return Err(error),
        }
        self.remove(target, vec![key.to_owned()]).await?;
        let all = store.own_list(&grave, None, limits::EVENTS_DEAD_MAX + 1).await?;
        let excess = all.len().saturating_sub(limits::EVENTS_DEAD_MAX as usize);
        let oldest: Vec<String> = all.into_iter().take(excess).collect();
        if !oldest.is_empty() {
            self.inner.metrics.events_lost.inc_by(oldest.len() as u64);
            store.own_delete(oldest).await?;
        }
        Ok(())
    }

    async fn graves(&self, target: &TargetId) -> Result<Vec<String>, GridError> {
        let grave = format!("{DEAD}{}", target.queue());
        self.inner.store.own_list(&grave, None, limits::EVENTS_DEAD_MAX).await
    }

    /// What was given up of a target, oldest first. One that cannot be read hides no others.
    pub async fn dead(&self, target: &TargetId) -> Result<Vec<DeadLetter>, GridError> {
        let mut found = Vec::new();
        for key in self.graves(target).await? {
            let id = key.rsplit('/').next().unwrap_or_default().to_owned();
            let message = match self.inner.store.own_get(&key).await {
                Ok(message) => Some(message),
                Err(GridError::NoSuchKey) => continue,
                Err(error) => {
                    tracing::warn!(target_name = %target.name, %id, %error, "a dead letter is unreadable");
                    None
                }
            };
            found.push(DeadLetter { target: target.clone(), id, message });
        }
        Ok(found)
    }

    /// Tries again what was given up of a target, or forgets it. Gives how many there were; what
    /// cannot be read is forgotten only.
    pub async fn raise(&self, target: &TargetId, again: bool) -> Result<usize, GridError> {
        if !again {
            let graves = self.graves(target).await?;
            let many = graves.len();
            if many > 0 {
                self.inner.store.own_delete(graves).await?;
            }
            return Ok(many);
        }
        let mut raised = 0;
        for DeadLetter { id, message, .. } in self.dead(target).await? {
            let Some(message) = message else { continue };
            self.put(target, message).await?;
            let key = format!("{DEAD}{}{id}", target.queue());
            self.inner.store.own_delete(vec![key]).await?;
            raised += 1;
        }
        self.inner.added.notify_one();
        Ok(raised)
    }
}
