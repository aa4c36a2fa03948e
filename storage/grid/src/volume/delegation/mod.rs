//! A bucket that this mount has to itself: what programs do is decided here, at once, and said to the group in order, many
//! things in one command.
//!
//! ```text
//!   without ──[it changes much, nobody else looks]──▶ Delegate ──▶ held ──[recalled, idle, full]──▶ leaving ──▶ without
//!                                                                   │                                  (all is said)
//!                                                                   └─[the group took it away]──▶ lost
//!   step:  rows known? ──no──▶ asked for, tried again         fsync: waits until all is said
//!           └─yes─▶ what it comes to ─▶ logged, answered ─▶ said within a moment
//! ```
//! What a step comes to is found out by the group's own code ([`nexusgrid_meta::namespace::speculate`]) over the rows that
//! are known here ([`known`]). It is the same that the group will decide, because whoever else asks the group about the bucket
//! is refused until this mount has given it back: they ask for it, and this mount hears of that as of any change of a row that it
//! remembers.
//!
//! *Invariant*: nothing is answered from here unless the mount remembers, and believes, that the bucket is its own. What it did
//! and did not say is lost with the machine, and when the group has given it up: a beginning of all that it did stays, what
//! was synced is in it.
//!
//! State: in memory; bounds [`limits::DELEGATED_STEPS_MAX`], [`limits::DELEGATED_BYTES_MAX`],
//! [`limits::DELEGATED_ROWS_BYTES_MAX`], [`limits::DELEGATED_ANSWERS_MAX`].

mod follow;
mod known;
mod log;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use nexusgrid_codec::SessionId;
use nexusgrid_env::BootInstant;
use nexusgrid_meta::host::{Fact, FactId, Touched};
use nexusgrid_meta::namespace::rows::sequence_of;
use nexusgrid_meta::namespace::speculate;
use nexusgrid_meta::namespace::types::{
    DelegatedStep, Moment, NamespaceAnswer, NamespaceError, NamespaceQuery, NewBlock, PosixDone,
    PosixOp, PosixQuery, RowsWanted, decode_query_reply,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, RwLock, RwLockReadGuard, oneshot};

use super::lease::Lease;
use super::{Ino, NewNode, VolumeError};
use crate::limits;
use crate::meta_port::{CommandId, MetaError, PortError};
pub(super) use follow::follow;
use known::Known;
use log::{Answers, Log, Results, Said, Taken};

/// How a mount stands to its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// As others do.
    Without,
    /// It has it to itself, under this delegation.
    Held(u64),
    /// It says what it did, and gives it back.
    Leaving(u64),
}

struct State {
    phase: Phase,
    known: Known,
    log: Log,
    answers: Answers,
    /// Of those that the mount reserved.
    spare_ids: Vec<u64>,
    /// For rows that the group has not decided yet.
    steps: u64,
    /// When it was last used.
    used: BootInstant,
    /// Changes in a row without a pause, while it is not held.
    changes: u32,
    /// It is not asked for before this.
    not_before: BootInstant,
    backoff: Duration,
    /// Something that was answered was lost at that time.
    lost_at: Option<BootInstant>,
    /// Requests that went to the group and of which it is not known what they came to; the oldest first.
    under_way: VecDeque<CommandId>,
    held_since: BootInstant,
    /// How often it was held, steps that were said, and how often they were said.
    figures: DelegationFigures,
}

/// How a mount uses delegations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DelegationFigures {
    /// Whether it has its bucket to itself.
    pub is_held: bool,
    /// How often it was given it.
    pub given: u64,
    /// Steps that were decided here.
    pub steps: u64,
    /// Commands that said them.
    pub commands: u64,
    /// Steps that were answered and are lost.
    pub lost: u64,
}

/// A mount's delegation.
pub(super) struct Delegation {
    wanted: AtomicBool,
    /// Held by all that goes to the group as it is; whoever begins to hold the bucket waits for that.
    gate: RwLock<()>,
    state: Mutex<State>,
    /// There is something to say, or to look at.
    work: Notify,
    /// Something was said, or it is held no more.
    changed: Notify,
    /// One looks whether it still is.
    verifying: tokio::sync::Mutex<()>,
}

/// What an attempt came to.
enum Attempt<T> {
    Done(T),
    /// These rows are not known.
    Missing(u64, Vec<RowsWanted>),
    /// It is not sure that the bucket is the mount's.
    Unsure(u64),
    /// Another attempt is made when something has changed.
    Wait,
    /// It is not held.
    Without,
}

/// What an operation came to, and who hears when the group has.
type Decided = (Result<PosixDone, NamespaceError>, Option<oneshot::Receiver<Said>>);

/// Operations as they are asked for.
pub(super) struct Asked<'a> {
    pub(super) now: Moment,
    pub(super) writer: SessionId,
    pub(super) blocks: &'a [NewBlock],
    pub(super) ops: &'a [PosixOp],
    pub(super) request: Option<CommandId>,
}

impl Default for Delegation {
    fn default() -> Delegation {
        let never = BootInstant(Duration::ZERO);
        Delegation {
            wanted: AtomicBool::new(false),
            gate: RwLock::default(),
            state: Mutex::new(State {
                phase: Phase::Without,
                known: Known::default(),
                log: Log::default(),
                answers: Answers::default(),
                spare_ids: Vec::new(),
                steps: 0,
                used: never,
                changes: 0,
                not_before: never,
                backoff: limits::DELEGATION_BACKOFF_MIN,
                lost_at: None,
                under_way: VecDeque::new(),
                held_since: never,
                figures: DelegationFigures::default(),
            }),
            work: Notify::new(),
            changed: Notify::new(),
            verifying: tokio::sync::Mutex::default(),
        }
    }
}

/// How many ids an operation may use.
fn ids_for(op: &PosixOp) -> usize {
    use PosixOp as O;
    match op {
        O::Make { what: NewNode::File, .. }
        | O::Write { .. }
        | O::Replace { .. }
        | O::Resize { .. }
        | O::Punch { .. }
        | O::Lengthen { .. }
        | O::Clear { .. }
        | O::CopyRange { .. } => 1,
        O::Adopt { names, .. } => names.len(),
        _ => 0,
    }
}

/// Whether an operation can only be decided by the group: it compares sequences that are the group's; or it must not be
/// done twice by whoever repeats it to another agent.
fn is_the_groups(op: &PosixOp) -> bool {
    matches!(op, PosixOp::Spread { .. } | PosixOp::Root | PosixOp::Append { .. })
}

/// As the group is to do it: what it is compared with was compared here.
fn as_decided(op: PosixOp) -> PosixOp {
    match op {
        PosixOp::Replace { ino, content, .. } => PosixOp::Replace { ino, content, over: None },
        op => op,
    }
}

impl Delegation {
    /// From now on it is asked for when it is worth it.
    pub(super) fn want(&self, lease: &Lease) {
        // What programs asked of an agent before is asked for again first.
        let mut state = self.state.lock();
        let soon = lease.now().plus(limits::DELEGATION_BACKOFF_MIN);
        state.not_before = state.not_before.max(soon);
        drop(state);
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// It is not asked for any more; returns when the mount does not have it, and what it did is said.
    pub(super) async fn want_no_more(&self) {
        self.wanted.store(false, Ordering::Relaxed);
        // One who asks for it has asked then.
        drop(self.gate.read().await);
        self.leave().await;
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Something of what the mount remembers changed: perhaps somebody asks for the bucket.
    pub(super) fn look(&self) {
        if self.state.lock().phase != Phase::Without {
            self.work.notify_one();
        }
    }

    pub(super) fn figures(&self) -> DelegationFigures {
        let state = self.state.lock();
        DelegationFigures { is_held: state.phase != Phase::Without, ..state.figures }
    }

    /// The mount has numbers of another lot; if it has the bucket to itself, nobody has ever used these.
    pub(super) fn has_reserved(&self, first: Ino) {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Held(_)) {
            state.known.begin_ids(sequence_of(first.0));
        }
    }

    /// What was reserved is another mount's, or nobody's.
    pub(super) fn forget_ids(&self) {
        self.state.lock().spare_ids.clear();
    }

    /// A request goes to the group as it is.
    pub(super) fn is_under_way(&self, request: CommandId) {
        let mut state = self.state.lock();
        state.under_way.push_back(request);
        if state.under_way.len() > limits::UNDER_WAY_MAX {
            state.under_way.pop_front();
        }
    }

    /// It is known what that came to.
    pub(super) fn is_decided(&self, request: CommandId) {
        self.state.lock().under_way.retain(|other| *other != request);
    }

    /// Something goes to the group as it is, for as long as this is kept. `None`: the mount has the bucket to itself.
    pub(super) async fn pass(&self) -> Option<RwLockReadGuard<'_, ()>> {
        let gate = self.gate.read().await;
        (self.state.lock().phase == Phase::Without).then_some(gate)
    }

    /// Returns when the mount does not have the bucket to itself; what it did is said then.
    pub(super) async fn leave(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.state.lock();
                match state.phase {
                    Phase::Without => return,
                    Phase::Held(grant) => state.phase = Phase::Leaving(grant),
                    Phase::Leaving(_) => {}
                }
            }
            self.work.notify_one();
            changed.await;
        }
    }

    /// Returns when all that was done up to now is said, or lost.
    pub(super) async fn settle(&self) {
        let number = self.state.lock().log.hurry();
        self.work.notify_one();
        self.is_said(number).await;
    }

    /// Likewise, within the time that a call may take.
    pub(super) async fn settle_in_time(&self) -> Result<(), MetaError> {
        let settled = tokio::time::timeout(limits::DELEGATED_PATIENCE, self.settle()).await;
        settled.map_err(|_| PortError::Unavailable("the mount's bucket".to_owned()).into())
    }

    /// As [`Delegation::leave`], within the time that a call may take.
    pub(super) async fn leave_in_time(&self) -> Result<(), MetaError> {
        let left = tokio::time::timeout(limits::DELEGATED_PATIENCE, self.leave()).await;
        left.map_err(|_| PortError::Unavailable("the mount's bucket".to_owned()).into())
    }

    async fn is_said(&self, number: u64) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.state.lock().log.is_said(number) {
                return;
            }
            changed.await;
        }
    }

    /// Returns when all that was done up to now is durable. An error: some of what was done lately is not, and never will be;
    /// whoever asks within [`limits::LOSS_TOLD`] hears of it.
    pub(super) async fn sync(&self, lease: &Lease) -> Result<(), VolumeError> {
        self.settle().await;
        let lost_at = self.state.lock().lost_at;
        match lost_at {
            Some(at) if lease.now().since(at) < limits::LOSS_TOLD => Err(lost().into()),
            _ => Ok(()),
        }
    }

    /// What a request came to that was decided here, and is made again.
    pub(super) fn answered(&self, request: Option<CommandId>) -> Option<Results> {
        self.state.lock().answers.of(request?)
    }

    /// Decides operations here. `None`: the group is to.
    pub(super) async fn run(
        &self,
        lease: &Lease,
        asked: &Asked<'_>,
    ) -> Result<Option<Results>, MetaError> {
        let is_under_way = |id: CommandId| self.state.lock().under_way.contains(&id);
        if asked.ops.iter().any(is_the_groups) || asked.request.is_some_and(is_under_way) {
            self.leave_in_time().await?;
            return Ok(None);
        }
        let mut results = Results::with_capacity(asked.ops.len());
        for op in asked.ops {
            let decided = match self.decide(lease, asked, op).await {
                // What was done of the request stays done.
                Err(error) if results.is_empty() => return Err(error),
                Err(_) | Ok(None) => None,
                Ok(Some((done, None))) => Some(done),
                Ok(Some((done, Some(waits)))) => match waits.await {
                    Ok(Ok(())) => Some(done),
                    // It was not done, and will not be: the group is asked.
                    Ok(Err(NamespaceError::NotDelegated)) | Err(_) => None,
                    Ok(Err(error)) => Some(Err(error)),
                },
            };
            match decided {
                Some(done) => results.push(done),
                None if results.is_empty() => return Ok(None),
                // The rest is the group's, as a command of its own.
                None => {
                    let rest = asked.ops.get(results.len()..).unwrap_or_default().to_vec();
                    let blocks = (asked.writer, asked.blocks.to_vec());
                    results.extend(Box::pin(lease.run(blocks, rest, None)).await?);
                    break;
                }
            }
        }
        if let Some(request) = asked.request {
            self.state.lock().answers.note(request, results.clone());
        }
        Ok(Some(results))
    }

    async fn decide(
        &self,
        lease: &Lease,
        asked: &Asked<'_>,
        op: &PosixOp,
    ) -> Result<Option<Decided>, MetaError> {
        if self.state.lock().phase == Phase::Without {
            return Ok(None);
        }
        let ids = self.ids(lease, ids_for(op)).await?;
        let step = DelegatedStep {
            now: asked.now,
            ids,
            writer: asked.writer,
            blocks: asked.blocks.to_vec(),
            op: op.clone(),
        };
        self.until_done(lease, || self.take(lease, &step)).await
    }

    /// Takes a step.
    fn take(&self, lease: &Lease, step: &DelegatedStep) -> Attempt<Decided> {
        let mut state = self.state.lock();
        let grant = match self.may(lease, &state) {
            Ok(grant) => grant,
            Err(attempt) => return attempt,
        };
        if state.log.is_full() {
            self.work.notify_one();
            return Attempt::Wait;
        }
        let view = state.known.view();
        let at = (lease.group(), speculate::SEQUENCES_FROM + state.steps);
        let found = speculate::step(&view, at, (lease.mount(), lease.bucket()), step.clone());
        let outcome = match (found, view.missing()) {
            (Ok(outcome), _) => outcome,
            (Err(error), missing) if missing.is_empty() => {
                tracing::error!(%error, "what a step comes to cannot be found out");
                return self.give_up(&mut state, grant);
            }
            (Err(_), missing) => return Attempt::Missing(grant, missing),
        };
        // More than one command may change is the group's to refuse.
        if matches!(outcome.done, Err(NamespaceError::TooLarge)) {
            return self.give_up(&mut state, grant);
        }
        state.used = lease.now();
        if outcome.done.is_err() {
            state.spare_ids.extend(&step.ids);
            return Attempt::Done((outcome.done, None));
        }
        state.steps += 1;
        state.figures.steps += 1;
        state.known.change(outcome.changes);
        lease.memory().forget(Touched::Marks(outcome.marks.clone()));
        // What lies in blocks may be refused for what only the group knows: then its writer stores it anew.
        let (waits, waiting) = match step.blocks.is_empty() {
            true => (None, None),
            false => {
                let (waits, waiting) = oneshot::channel();
                (Some(waits), Some(waiting))
            }
        };
        let op = as_decided(step.op.clone());
        // All ids go with it: the group may need one more, where what it has was freed meanwhile.
        let step = DelegatedStep { op, ..step.clone() };
        let was_empty = state.log.is_empty();
        state.log.push(Taken { step, marks: outcome.marks, waits });
        if was_empty || state.log.is_due() {
            self.work.notify_one();
        }
        let is_old = lease.now().since(state.held_since) > limits::DELEGATION_HELD_MAX;
        if is_old || state.known.bytes() > limits::DELEGATED_ROWS_BYTES_MAX {
            // It begins anew with what it needs next.
            state.not_before = state.used;
            state.phase = Phase::Leaving(grant);
            self.work.notify_one();
        }
        Attempt::Done((outcome.done, waiting))
    }

    /// Answers a question here. `None`: the group is to. What may be remembered is.
    pub(super) async fn ask(
        &self,
        lease: &Lease,
        query: &PosixQuery,
    ) -> Result<Option<(Bytes, Option<FactId>)>, MetaError> {
        if self.state.lock().phase == Phase::Without {
            return Ok(None);
        }
        self.until_done(lease, || {
            let mut state = self.state.lock();
            match self.may(lease, &state) {
                Err(attempt) => attempt,
                Ok(grant) => match recall(&state.known, lease, query) {
                    Ok(answer) => Attempt::Done(answer),
                    Err(missing) if missing.is_empty() => self.give_up(&mut state, grant),
                    Err(missing) => Attempt::Missing(grant, missing),
                },
            }
        })
        .await
    }

    /// Likewise, if all that it takes is known.
    pub(super) fn peek(&self, lease: &Lease, query: &PosixQuery) -> Option<Bytes> {
        let state = self.state.lock();
        self.may::<()>(lease, &state).ok()?;
        recall(&state.known, lease, query).ok().map(|(answer, _)| answer)
    }

    /// Whether it is held, for certain, at this moment; under which delegation.
    fn may<T>(&self, lease: &Lease, state: &State) -> Result<u64, Attempt<T>> {
        match state.phase {
            Phase::Without => Err(Attempt::Without),
            Phase::Leaving(_) => Err(Attempt::Wait),
            Phase::Held(grant) if is_sure(lease, grant) => Ok(grant),
            Phase::Held(grant) => Err(Attempt::Unsure(grant)),
        }
    }

    fn give_up<T>(&self, state: &mut State, grant: u64) -> Attempt<T> {
        state.phase = Phase::Leaving(grant);
        self.work.notify_one();
        Attempt::Wait
    }

    /// Tries until it is done; `None`: it is not held.
    async fn until_done<T>(
        &self,
        lease: &Lease,
        mut attempt: impl FnMut() -> Attempt<T>,
    ) -> Result<Option<T>, MetaError> {
        let until = lease.now().plus(limits::DELEGATED_PATIENCE);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match attempt() {
                Attempt::Done(done) => return Ok(Some(done)),
                Attempt::Without => return Ok(None),
                Attempt::Missing(grant, missing) => self.fetch(lease, grant, missing).await?,
                Attempt::Unsure(grant) => self.verify(lease, grant).await,
                Attempt::Wait => tokio::select! {
                    () = changed => {}
                    () = lease.sleep(limits::DELEGATION_LOOK) => {}
                },
            }
            if lease.now() >= until {
                return Err(PortError::Unavailable("the mount's bucket".to_owned()).into());
            }
        }
    }

    /// Ids that the mount reserved.
    async fn ids(&self, lease: &Lease, count: usize) -> Result<Vec<u64>, MetaError> {
        let mut ids = Vec::with_capacity(count);
        while ids.len() < count {
            let spare = self.state.lock().spare_ids.pop();
            match spare {
                Some(id) => ids.push(id),
                None => match lease.number().await {
                    Ok(Ino(id)) => ids.push(id),
                    Err(error) => return Err(PortError::Unavailable(error.to_string()).into()),
                },
            }
        }
        Ok(ids)
    }

    /// Asks for rows.
    async fn fetch(
        &self,
        lease: &Lease,
        grant: u64,
        mut wanted: Vec<RowsWanted>,
    ) -> Result<(), MetaError> {
        self.state.lock().known.look_ahead(&mut wanted);
        let query = NamespaceQuery::Rows { mount: lease.mount(), grant, wanted: wanted.clone() };
        match lease.ask_once(&query).await {
            Ok(NamespaceAnswer::Rows(found)) if found.len() == wanted.len() => {
                let mut state = self.state.lock();
                if state.phase == Phase::Held(grant) {
                    for (wanted, found) in wanted.into_iter().zip(found) {
                        state.known.learn(wanted, found);
                    }
                }
                Ok(())
            }
            Ok(_) => Err(MetaError::Reply("rows")),
            // Whoever says what was done finds out what became of it.
            Err(MetaError::Namespace(NamespaceError::NotDelegated | NamespaceError::Posix(_))) => {
                self.begin_leaving_of(grant);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn begin_leaving_of(&self, grant: u64) {
        let mut state = self.state.lock();
        if state.phase == Phase::Held(grant) {
            state.phase = Phase::Leaving(grant);
            self.work.notify_one();
        }
    }

    /// The group has taken it away: what was not said is lost. Only for whoever says it, and knows what was.
    fn lose(&self, lease: &Lease, grant: u64) {
        let mut state = self.state.lock();
        if !matches!(state.phase, Phase::Held(held) | Phase::Leaving(held) if held == grant) {
            return;
        }
        let count = state.log.len();
        let mut lost = 0;
        for taken in state.log.was_said(count) {
            match taken.waits {
                // Fine if nobody waits any more.
                Some(waits) => drop(waits.send(Err(NamespaceError::NotDelegated))),
                None => lost += 1,
            }
        }
        if lost > 0 {
            tracing::error!(
                lost,
                "the bucket was taken from this mount before it had said what it did"
            );
            state.figures.lost += lost;
            state.lost_at = Some(lease.now());
        }
        self.is_without(&mut state);
    }

    fn is_without(&self, state: &mut State) {
        state.phase = Phase::Without;
        state.known = Known::default();
        state.spare_ids.clear();
        state.changes = 0;
        self.changed.notify_waiters();
    }
}

fn lost() -> MetaError {
    PortError::Refused("what was done before is lost: the bucket was taken away".to_owned()).into()
}

/// Whether the mount remembers, and believes, that the bucket is its own.
fn is_sure(lease: &Lease, grant: u64) -> bool {
    let query = NamespaceQuery::Delegation { bucket: lease.bucket() }.encode();
    let Ok((answer, _)) = lease.memory().recall(&query, lease.now()) else { return false };
    is_ours(lease, grant, &answer)
}

fn is_ours(lease: &Lease, grant: u64, answer: &[u8]) -> bool {
    decode_query_reply(answer)
        == Ok(Ok(NamespaceAnswer::Delegation(Some((lease.mount(), grant, false)))))
}

/// What is remembered, or what comes of the rows that are known; an error: these rows are not. Steps are not taken meanwhile.
fn recall(
    known: &Known,
    lease: &Lease,
    query: &PosixQuery,
) -> Result<(Bytes, Option<FactId>), Vec<RowsWanted>> {
    let (bucket, memory) = (lease.bucket(), lease.memory());
    let encoded = NamespaceQuery::Posix { bucket, query: query.clone() }.encode();
    let asking = match memory.recall(&encoded, lease.now()) {
        Ok((answer, fact)) => return Ok((answer, Some(fact))),
        Err(asking) => asking,
    };
    let view = known.view();
    let (answer, marks) = match speculate::ask_noting(&view, bucket, query.clone()) {
        Ok(answered) => answered,
        Err(error) => {
            let missing = view.missing();
            if missing.is_empty() {
                tracing::error!(%error, "a question cannot be answered from what is known");
            }
            return Err(missing);
        }
    };
    let answer = Bytes::from(answer);
    // No leader tells of these rows: they are the mount's, as long as the row is that says so.
    let fact = asking.zip(marks).and_then(|(asking, marks)| {
        memory.keep(asking, encoded, answer.clone(), Fact { marks, number: 0 })
    });
    Ok((answer, fact))
}
