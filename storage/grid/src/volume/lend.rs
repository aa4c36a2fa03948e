//! What a mount remembers, lent to the daemon that serves it, so that most questions of programs never leave that.
//!
//! ```text
//!   recalled ──lend──▶ with the answer ─────────▶ kept there, and believed until ...
//!   forgotten here ──▶ lost ──tell, in order──▶ forgotten there ──heard──▶ the leader hears that it is
//! ```
//!
//! *Invariant:* what the borrower believes is remembered here, or the news that it is not are on their way to it; and
//! the leader is not told that news were heard before the borrower has heard them, or believes nothing any more. So
//! whoever waits for this mount waits for its borrower, too.
//!
//! One borrower at a time. One that hears nothing any more is lent nothing until it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nexusgrid_env::{BootInstant, Clock};
use nexusgrid_meta::host::{FactId, Lost as LostFacts};
use nexusgrid_meta::namespace::types::{NamespaceQuery, PosixQuery};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::lease::Lease;
use super::{Ino, Volume};

/// A question whose answer can be lent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Question {
    /// [`Volume::lookup`].
    Lookup(Ino, Vec<u8>),
    /// [`Volume::node`].
    Node(Ino),
    /// [`Volume::xattr`].
    Xattr(Ino, Vec<u8>),
}

/// An answer that may be lent.
#[derive(Clone, Debug)]
pub struct Loan {
    pub(super) query: Vec<u8>,
    pub(super) fact: FactId,
}

/// What a borrower is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoanNews {
    /// To be told back when it is done.
    pub number: u64,
    /// What is to be forgotten; `None`: all.
    pub lost: Option<Vec<Question>>,
    /// Until when the rest may be believed, as time since boot; `None`: not at all.
    pub until: Option<Duration>,
}

#[derive(Default)]
struct State {
    borrower: bool,
    /// Rounds of news so far, and those that the borrower has heard.
    told: u64,
    heard: u64,
    /// Until when it believes what it was lent.
    until: Option<BootInstant>,
    /// It did not hear in time: nothing is lent until it has heard this round.
    deaf: Option<u64>,
}

/// The lender's side.
#[derive(Default)]
pub(super) struct Lending {
    state: Mutex<State>,
    /// For the borrower's line: there are news.
    news: Notify,
    /// For who waits for the borrower.
    heard: Notify,
    /// For the next borrower.
    free: Notify,
}

impl Lending {
    /// Returns when the borrower has heard all that was lost up to now, or believes nothing any more.
    pub(super) async fn settle(&self, clock: &dyn Clock) {
        let number = {
            let mut state = self.state.lock();
            state.told += 1;
            state.told
        };
        self.news.notify_one();
        loop {
            let heard = self.heard.notified();
            let until = {
                let mut state = self.state.lock();
                let now = clock.now();
                let until = state.until.filter(|until| now < *until);
                if state.borrower && state.heard >= number {
                    return;
                }
                match until {
                    Some(until) => until.since(now),
                    None => {
                        // A borrower that was told of nothing to believe is not waited for.
                        if state.borrower && state.until.is_some() {
                            state.deaf = Some(number);
                        }
                        state.until = None;
                        return;
                    }
                }
            };
            tokio::select! {
                () = heard => {}
                () = clock.sleep(until) => {}
            }
        }
    }
}

/// Who borrows, until it ends.
pub struct Borrower {
    lease: Arc<Lease>,
    clock: Arc<dyn Clock>,
    has_ended: AtomicBool,
}

impl Volume {
    /// Returns when nobody borrows any more, and this one does.
    pub async fn borrow(&self) -> Borrower {
        let lending = self.lease.lending();
        loop {
            let free = lending.free.notified();
            let is_free = {
                let mut state = lending.state.lock();
                let is_free = !state.borrower;
                if is_free {
                    // Whoever serves a mount anew has forgotten what it was lent before, or is another.
                    *state = State { borrower: true, told: state.told, ..State::default() };
                    self.lease.memory().set_lending(true);
                }
                is_free
            };
            if is_free {
                lending.news.notify_one();
                let clock = Arc::clone(&self.core.env.clock);
                let lease = Arc::clone(&self.lease);
                return Borrower { lease, clock, has_ended: AtomicBool::new(false) };
            }
            free.await;
        }
    }
}

impl Borrower {
    /// Returns when there is something to tell.
    pub async fn news(&self) {
        self.lease.lending().news.notified().await;
    }

    /// Whether something was lost that was not told.
    pub fn has_lost(&self) -> bool {
        self.lease.memory().has_lost()
    }

    /// What is to be told, in the order of calls of this and of [`Borrower::lend`]; `None`: it has ended.
    pub fn tell(&self) -> Option<LoanNews> {
        let memory = self.lease.memory();
        let until = memory.until(self.clock.now());
        // Held: nobody else borrows meanwhile. Who settles after this waits for what is believed from now on, under a
        // later number; what was lost before is told now.
        let mut state = self.lease.lending().state.lock();
        if self.has_ended() {
            return None;
        }
        let until = until.filter(|_| state.deaf.is_none());
        state.until = state.until.max(until);
        let number = state.told;
        let lost = match memory.take_lost() {
            LostFacts::All => None,
            LostFacts::Some(queries) => queries.iter().map(|query| question(query)).collect(),
        };
        drop(state);
        Some(LoanNews { number, lost, until: until.map(|until| until.0) })
    }

    /// It has forgotten what news up to this number told it to.
    pub fn heard(&self, number: u64) {
        let lending = self.lease.lending();
        {
            let mut state = lending.state.lock();
            state.heard = state.heard.max(number);
            if state.deaf.is_some_and(|deaf| number >= deaf) {
                state.deaf = None;
            }
        }
        lending.heard.notify_waiters();
    }

    /// Whether an answer is lent: then it must be kept from being overtaken by what is told next.
    pub fn lend(&self, loan: &Loan) -> bool {
        let is_deaf = self.lease.lending().state.lock().deaf.is_some();
        !is_deaf
            && !self.has_ended()
            && self.lease.memory().lend(&loan.query, loan.fact, self.clock.now())
    }

    /// It borrows no more. `is_gone`: and believes nothing that it was lent.
    pub fn end(&self, is_gone: bool) {
        if self.has_ended.swap(true, Ordering::Relaxed) {
            return;
        }
        let lending = self.lease.lending();
        {
            let mut state = lending.state.lock();
            let until = state.until.filter(|_| !is_gone);
            *state = State { until, told: state.told, ..State::default() };
            self.lease.memory().set_lending(false);
        }
        lending.heard.notify_waiters();
        lending.free.notify_one();
    }

    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }
}

impl Drop for Borrower {
    fn drop(&mut self) {
        self.end(false);
    }
}

/// `None`: it is none that is lent.
fn question(query: &[u8]) -> Option<Question> {
    let Ok(NamespaceQuery::Posix { query, .. }) = NamespaceQuery::decode(query) else {
        return None;
    };
    match query {
        PosixQuery::Lookup { parent, name } => Some(Question::Lookup(parent, name)),
        PosixQuery::Node { ino } => Some(Question::Node(ino)),
        PosixQuery::Xattr { ino, name } => Some(Question::Xattr(ino, name)),
        _ => None,
    }
}
