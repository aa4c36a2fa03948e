//! What an agent sends over a line: answers, and news of what it has lent, in one order.

use std::convert::Infallible;
use std::sync::OnceLock;

use bytes::Bytes;
use nexusgrid_grid::Volume;
use nexusgrid_grid::volume::{Borrower, Loan, LoanNews};
use tokio::sync::mpsc;

use super::wire::{Answer, Fault, Frame, NOBODY};

/// What is sent over a line: answers, and news of what was lent.
pub(super) struct Out {
    answers: mpsc::Sender<Frame>,
    /// What is lent, and news, are put in line while this is held: so nothing is lent behind the news that end it.
    turn: tokio::sync::Mutex<()>,
    borrower: OnceLock<Borrower>,
}

impl Out {
    /// Over a line whose frames go there.
    pub(super) fn new(answers: mpsc::Sender<Frame>) -> Out {
        Out { answers, turn: tokio::sync::Mutex::default(), borrower: OnceLock::new() }
    }

    /// Lends to this line, when no other borrows any more, and has its daemon told what is lost.
    pub(super) async fn lend(&self, volume: &Volume) -> Infallible {
        let borrower = volume.borrow().await;
        let borrower = self.borrower.get_or_init(|| borrower);
        loop {
            borrower.news().await;
            let _turn = self.turn.lock().await;
            self.tell(borrower).await;
        }
    }

    /// In its turn. What is taken from the borrower is in line before anything is awaited.
    async fn tell(&self, borrower: &Borrower) {
        let Ok(place) = self.answers.reserve().await else { return };
        let Some(news) = borrower.tell() else { return };
        let all = LoanNews { lost: None, ..news.clone() };
        let frame = |news| Frame::new(&(NOBODY, Answer::News(news)), Bytes::new());
        // If it is too long to say what, all is.
        if let Ok(frame) = frame(news).or_else(|_| frame(all)) {
            place.send(frame);
        }
    }

    /// Sends an answer, and before it the news that it depends on.
    pub(super) async fn answer(
        &self,
        id: u64,
        (answer, payload, loan): (Answer, Bytes, Option<Loan>),
    ) {
        let borrower = self.borrower.get();
        let turn = match borrower {
            Some(_) => Some(self.turn.lock().await),
            None => None,
        };
        // What a change ended is forgotten by the daemon before it hears that it was done.
        if let Some(borrower) = borrower.filter(|borrower| borrower.has_lost()) {
            self.tell(borrower).await;
        }
        // A line that broke asks again.
        let Ok(place) = self.answers.reserve().await else { return };
        // What may pass is no answer.
        let loan = match &answer {
            Answer::Fault(Fault::Posix(_)) => loan,
            Answer::Fault(_) => None,
            _ => loan,
        };
        let is_lent = borrower.zip(loan).is_some_and(|(borrower, loan)| borrower.lend(&loan));
        let answer = if is_lent { Answer::Lent(Box::new(answer)) } else { answer };
        let frame = Frame::new(&(id, answer), payload).or_else(|error| {
            let fault = Fault::Failed(format!("{error:#}"));
            Frame::new(&(id, Answer::Fault(fault)), Bytes::new())
        });
        if let Ok(frame) = frame {
            place.send(frame);
        }
        drop(turn);
    }

    /// The daemon has heard news up to this number.
    pub(super) fn heard(&self, number: u64) {
        if let Some(borrower) = self.borrower.get() {
            borrower.heard(number);
        }
    }

    /// The line has ended; gives whether it borrowed anything.
    pub(super) fn end(&self, is_gone: bool) -> bool {
        let borrower = self.borrower.get();
        borrower.inspect(|borrower| borrower.end(is_gone)).is_some()
    }
}
