//! Steps that the group has not heard of yet, in order, and what was answered to whoever asks once more.

use std::collections::{HashMap, HashSet, VecDeque};

use nexusgrid_meta::host::Mark;
use nexusgrid_meta::limits::COMMAND_ROWS_MAX;
use nexusgrid_meta::namespace::limits::POSIX_OPS_MAX;
use nexusgrid_meta::namespace::types::{
    ContentBody, DelegatedStep, NamespaceError, NewNode, PosixDone, PosixOp, Special,
};
use tokio::sync::oneshot;

use crate::limits;
use crate::meta_port::CommandId;

/// How a step went at the group.
pub(super) type Said = Result<(), NamespaceError>;

/// What the operations of a request came to.
pub(super) type Results = Vec<Result<PosixDone, NamespaceError>>;

/// A step that was taken.
pub(super) struct Taken {
    /// What is told to the group.
    pub(super) step: DelegatedStep,
    /// Rows that it changes there.
    pub(super) marks: Vec<Mark>,
    /// Who waits until the group has heard; if it refuses the step, that one deals with it.
    pub(super) waits: Option<oneshot::Sender<Said>>,
}

/// The steps.
#[derive(Default)]
pub(super) struct Log {
    steps: VecDeque<Taken>,
    bytes: usize,
    /// How many were taken, and how many of these the group has heard of, or never will.
    taken: u64,
    said: u64,
    /// Somebody waits for these.
    urgent: u64,
}

impl Log {
    pub(super) fn push(&mut self, taken: Taken) {
        if taken.waits.is_some() {
            self.urgent = self.taken + 1;
        }
        self.bytes += size_of_step(&taken.step);
        self.taken += 1;
        self.steps.push_back(taken);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether whoever takes steps is to wait until some are said.
    pub(super) fn is_full(&self) -> bool {
        self.steps.len() >= limits::DELEGATED_STEPS_MAX || self.bytes >= limits::DELEGATED_BYTES_MAX
    }

    /// Whether there is as much as one command says, or somebody waits.
    pub(super) fn is_due(&self) -> bool {
        self.urgent > self.said || self.steps.len() >= POSIX_OPS_MAX
    }

    /// Somebody waits until all that was taken up to now is said: up to which number.
    pub(super) fn hurry(&mut self) -> u64 {
        self.urgent = self.taken;
        self.taken
    }

    /// Whether what was taken up to there is said.
    pub(super) fn is_said(&self, number: u64) -> bool {
        self.said >= number
    }

    /// How many of the first steps one command may say, at most `most`: at least one, if there is one.
    pub(super) fn batch(&self, most: usize) -> usize {
        let (mut rows, mut bytes) = (HashSet::new(), 0);
        let fits = self.steps.iter().take(most.min(POSIX_OPS_MAX)).take_while(|taken| {
            rows.extend(taken.marks.iter().copied());
            bytes += size_of_step(&taken.step);
            rows.len() <= COMMAND_ROWS_MAX - limits::STEPS_ROWS_SPARE
                && bytes <= limits::STEPS_BYTES_MAX
        });
        fits.count().max(usize::from(!self.steps.is_empty()))
    }

    /// The first steps.
    pub(super) fn first(&self, count: usize) -> Vec<DelegatedStep> {
        self.steps.iter().take(count).map(|taken| taken.step.clone()).collect()
    }

    /// The group has heard of the first steps.
    pub(super) fn was_said(&mut self, count: usize) -> Vec<Taken> {
        let said: Vec<Taken> = self.steps.drain(..count.min(self.steps.len())).collect();
        self.said += said.len() as u64;
        self.bytes = self.steps.iter().map(|taken| size_of_step(&taken.step)).sum();
        said
    }
}

/// About as many bytes as a step takes in a command.
fn size_of_step(step: &DelegatedStep) -> usize {
    let rest = match &step.op {
        PosixOp::Replace { content, .. } | PosixOp::Spread { content, .. } => match &content.body {
            ContentBody::Inline { sealed, .. } => sealed.len(),
            ContentBody::Extents(extents) | ContentBody::Copies(extents) => extents.len() * 96,
            _ => 0,
        },
        PosixOp::Write { extents, .. } | PosixOp::Append { extents, .. } => extents.len() * 96,
        PosixOp::SetXattr { value, .. } => value.as_ref().map_or(0, Vec::len),
        PosixOp::Adopt { names, .. } => names.iter().map(Vec::len).sum(),
        PosixOp::Make { name, what: NewNode::Special(Special::Symlink(target)), .. } => {
            name.len() + target.len()
        }
        PosixOp::Rename { from, to, .. } => from.1.len() + to.1.len(),
        _ => 0,
    };
    512 + step.blocks.len() * 64 + step.ids.len() * 9 + rest
}

/// What requests came to, for those that are made again.
#[derive(Default)]
pub(super) struct Answers {
    by_request: HashMap<CommandId, Results>,
    order: VecDeque<CommandId>,
}

impl Answers {
    pub(super) fn note(&mut self, request: CommandId, results: Results) {
        if self.by_request.insert(request, results).is_none() {
            self.order.push_back(request);
        }
        while self.order.len() > limits::DELEGATED_ANSWERS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.by_request.remove(&oldest);
            }
        }
    }

    pub(super) fn of(&self, request: CommandId) -> Option<Results> {
        self.by_request.get(&request).cloned()
    }
}
