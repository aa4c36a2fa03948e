//! What the agent has lent a daemon: answers that it promises to tell the end of.
//!
//! *Invariant:* nothing is believed that the agent does not vouch for: not before its first news, not behind the time
//! they name, not when the line broke. It is cleared before the line is let go, so an agent that sees its end
//! need not wait for anybody.
//!
//! State: in memory; bounds [`BORROWED_MAX`], and in bytes the agent's, which remembers all of it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_env::{BootInstant, Clock};
use nexusgrid_grid::volume::{LoanNews, Question};
use parking_lot::Mutex;

use super::limits::BORROWED_MAX;
use super::wire::Answer;

type Reply = (Answer, Bytes);

/// One loan: of the same question there is another when it was lost and lent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoanId(u64);

#[derive(Default)]
struct Inner {
    until: Option<BootInstant>,
    answers: HashMap<Question, (LoanId, Reply)>,
    recalled: u64,
    /// Never begins anew.
    loans: u64,
}

/// Borrowed answers.
pub struct Borrowed {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
}

impl Borrowed {
    /// None yet.
    pub fn new(clock: Arc<dyn Clock>) -> Borrowed {
        Borrowed { clock, inner: Mutex::default() }
    }

    /// The answer to a question, if it may be believed.
    pub fn recall(&self, question: &Question) -> Option<Reply> {
        let mut inner = self.inner.lock();
        let now = self.clock.now();
        inner.until.filter(|until| now < *until)?;
        let (_, reply) = inner.answers.get(question).cloned()?;
        inner.recalled += 1;
        Some(reply)
    }

    /// The loan of an answer, if that may be believed: while it is the same, so is the answer, and all that must not
    /// change without it.
    pub fn loan(&self, question: &Question) -> Option<LoanId> {
        let inner = self.inner.lock();
        inner.until.filter(|until| self.clock.now() < *until)?;
        inner.answers.get(question).map(|(loan, _)| *loan)
    }

    /// Keeps an answer, in the order in which they and news came.
    pub fn keep(&self, question: Question, reply: Reply) {
        let mut inner = self.inner.lock();
        if inner.answers.len() >= BORROWED_MAX && !inner.answers.contains_key(&question) {
            inner.answers.clear();
        }
        inner.loans += 1;
        let loan = LoanId(inner.loans);
        inner.answers.insert(question, (loan, reply));
    }

    /// Does as news say; gives how many questions were answered since it was cleared.
    pub fn hear(&self, news: &LoanNews) -> u64 {
        let mut inner = self.inner.lock();
        match &news.lost {
            None => inner.answers.clear(),
            Some(questions) => {
                for question in questions {
                    inner.answers.remove(question);
                }
            }
        }
        inner.until = news.until.map(BootInstant);
        inner.recalled
    }

    /// Believes nothing any more.
    pub fn clear(&self) {
        let mut inner = self.inner.lock();
        *inner = Inner { loans: inner.loans, ..Inner::default() };
    }
}

/// Clears when it is dropped.
pub struct Clearing<'a>(pub &'a Borrowed);

impl Drop for Clearing<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nexusgrid_env::Env;
    use nexusgrid_grid::volume::Ino;

    use super::*;

    fn news(lost: Option<Vec<Question>>, until: Option<BootInstant>) -> LoanNews {
        LoanNews { number: 1, lost, until: until.map(|until| until.0) }
    }

    #[test]
    fn it_believes_what_is_vouched_for_as_long_as_it_is() {
        let clock = Env::real().clock;
        let borrowed = Borrowed::new(Arc::clone(&clock));
        let (one, other) = (Question::Node(Ino(1)), Question::Lookup(Ino(1), b"x".to_vec()));
        let reply = || (Answer::Done, Bytes::new());
        let knows = |question| borrowed.recall(question).is_some();
        let later = Some(clock.now().plus(Duration::from_secs(3_600)));
        borrowed.keep(one.clone(), reply());
        assert!(!knows(&one), "nothing was vouched for yet");
        borrowed.hear(&news(Some(vec![]), later));
        borrowed.keep(other.clone(), reply());
        assert!(knows(&one) && knows(&other));
        assert_eq!(borrowed.hear(&news(Some(vec![one.clone()]), later)), 2);
        assert!(!knows(&one) && knows(&other));
        borrowed.hear(&news(Some(vec![]), Some(clock.now())));
        assert!(!knows(&other), "its time is over");
        borrowed.hear(&news(None, later));
        assert!(!knows(&other), "all is lost");
        borrowed.keep(one.clone(), reply());
        assert!(knows(&one));
        let loan = borrowed.loan(&one);
        assert!(loan.is_some() && loan == borrowed.loan(&one));
        drop(Clearing(&borrowed));
        assert!(!knows(&one) && borrowed.loan(&one).is_none(), "the line broke");
        borrowed.hear(&news(Some(vec![]), later));
        borrowed.keep(one.clone(), reply());
        assert!(borrowed.loan(&one).is_some() && borrowed.loan(&one) != loan, "another loan");
    }

    #[test]
    fn it_keeps_no_more_than_it_may() {
        let clock = Env::real().clock;
        let borrowed = Borrowed::new(Arc::clone(&clock));
        for number in 0..=BORROWED_MAX as u64 {
            borrowed.keep(Question::Node(Ino(number)), (Answer::Done, Bytes::new()));
        }
        assert_eq!(borrowed.inner.lock().answers.len(), 1);
    }
}
