//! A daemon's end of the line to its agent. While the agent is away calls wait; what was under way when the
//! line broke is asked for again, under the same name. What the agent has lent is answered here.
//!
//! State: calls that wait for an answer, and which of them the agent has not been sent yet. Bounded:
//! [`limits::ASKS_AT_ONCE`] calls; only what was sent is ever told to be forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{Notify, Semaphore, oneshot, watch};

use nexusgrid_env::Env;
use nexusgrid_grid::volume::Question;

use super::borrowed::{Borrowed, Clearing, LoanId};
use super::credentials::KeyFile;
use super::limits::{self, PAUSE, PAUSE_MAX};
use super::wire::{
    Answer, Ask, Call, Fault, Frame, Greeting, Hello, NOBODY, RequestName, VERSION,
    VERSION_WITH_KEY, VERSION_WITHOUT_KEY, another, receive,
};

type Reply = (Answer, Bytes);

struct Pending {
    frame: Frame,
    /// What was asked, if the answer may be lent.
    question: Option<Question>,
    reply: oneshot::Sender<Reply>,
}

#[derive(Default)]
struct State {
    pending: BTreeMap<u64, Pending>,
    /// Of these, what the agent has not been sent over this connection.
    unsent: BTreeSet<u64>,
    /// Calls that it was sent, and whose answers nobody waits for any more; it has not been told.
    forgotten: BTreeSet<u64>,
    /// News that were heard, and what the agent has not been told of that.
    heard: Option<Ask>,
    /// The connection, for whoever has something to send while nobody sends.
    writer: Option<Arc<OwnedWriteHalf>>,
    /// Somebody sends; others put it in line.
    is_sending: bool,
    /// The rest of a frame of which there was not room for all: it is sent next.
    rest: Option<Frame>,
}

impl State {
    /// A connection broke: the agent forgets by itself, and is sent all over the next one.
    fn begin_anew(&mut self) {
        self.unsent = self.pending.keys().copied().collect();
        self.forgotten.clear();
        self.heard = None;
        (self.writer, self.rest, self.is_sending) = (None, None, false);
    }

    /// Sends a call at once, if nothing comes before it and it is short; gives whether somebody else is to send something.
    fn send_now(&mut self, id: u64) -> bool {
        let is_first = self.unsent.len() == 1 && self.forgotten.is_empty() && self.heard.is_none();
        if self.is_sending || !is_first || self.rest.is_some() {
            return true;
        }
        let (Some(writer), Some(pending)) = (&self.writer, self.pending.get(&id)) else {
            return true;
        };
        if pending.frame.len() > limits::SHORT_BYTES {
            return true;
        }
        // Whatever is wrong with the line, whoever reads from it finds out.
        let Ok(sent) = pending.frame.try_send(writer) else { return true };
        self.unsent.remove(&id);
        if sent < pending.frame.len() {
            self.rest = Some(pending.frame.clone().rest(sent));
        }
        self.rest.is_some()
    }

    /// Nobody waits for an answer any more; gives whether the agent is to be told.
    fn give_up(&mut self, id: u64) -> bool {
        self.pending.remove(&id).is_some() && !self.unsent.remove(&id) && self.forgotten.insert(id)
    }

    fn answered(&mut self, id: u64) -> Option<Pending> {
        self.forgotten.remove(&id);
        self.unsent.remove(&id);
        self.pending.remove(&id)
    }

    /// What is to be sent next.
    fn next(&mut self) -> Option<Frame> {
        let next = self.rest.take().or_else(|| self.next_whole());
        self.is_sending = next.is_some();
        next
    }

    fn next_whole(&mut self) -> Option<Frame> {
        // First: a client somewhere waits for it.
        if let Some(heard) = self.heard.take() {
            return Frame::new(&(NOBODY, heard), Bytes::new()).ok();
        }
        if let Some(id) = self.forgotten.pop_first() {
            return Frame::new(&(id, Ask::Forget), Bytes::new()).ok();
        }
        let id = self.unsent.pop_first()?;
        self.pending.get(&id).map(|pending| pending.frame.clone())
    }
}

struct Shared {
    path: PathBuf,
    hello: Mutex<Hello>,
    /// Where the access key is that the mount is made with.
    key: Option<KeyFile>,
    next: AtomicU64,
    asks: Semaphore,
    state: Mutex<State>,
    /// Something is to be sent.
    more: Notify,
    /// The mount's lease; another when the grid had ended the one before.
    lease: watch::Sender<Option<u64>>,
    /// How often the agent has greeted.
    greetings: watch::Sender<u64>,
    borrowed: Borrowed,
}

/// The line.
#[derive(Clone)]
pub struct Line(Arc<Shared>);

/// Takes a call back when nobody waits for it any more.
struct Waiter<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.shared.state.lock().give_up(self.id) {
            self.shared.more.notify_one();
        }
    }
}

impl Line {
    /// Connects, and goes on connecting; returns when the agent has said yes for the first time. Within a
    /// runtime.
    pub async fn open(
        path: PathBuf,
        hello: Hello,
        credentials: Option<PathBuf>,
    ) -> anyhow::Result<Line> {
        let shared = Shared::new(path, hello, credentials);
        let mut pause = PAUSE;
        let stream = loop {
            match shared.greet().await {
                Ok(stream) => break stream,
                Err(Away::Never(error)) => return Err(error),
                Err(Away::Now(error)) => {
                    tracing::info!(error = format!("{error:#}"), "waiting for the agent");
                    sleep(&mut pause).await;
                }
            }
        };
        tokio::spawn(keep(Arc::clone(&shared), Some(stream)));
        Ok(Line(shared))
    }

    /// Takes up the line of a daemon that is dead: calls wait until the agent is there. Within a runtime.
    pub fn resume(path: PathBuf, hello: Hello, credentials: Option<PathBuf>) -> Line {
        let shared = Shared::new(path, hello, credentials);
        tokio::spawn(keep(Arc::clone(&shared), None));
        Line(shared)
    }

    /// The mount's lease, once there is one; when it is another, nothing is held any more.
    pub fn lease(&self) -> watch::Receiver<Option<u64>> {
        self.0.lease.subscribe()
    }

    /// How often the agent has greeted: each time it may know nothing of what is open.
    pub fn greetings(&self) -> watch::Receiver<u64> {
        self.0.greetings.subscribe()
    }

    /// The loan of an answer (see [`Borrowed::loan`]).
    pub fn loan(&self, question: &Question) -> Option<LoanId> {
        self.0.borrowed.loan(question)
    }

    /// Makes a call, again and again while the grid is away; whoever stops waiting takes it back.
    pub async fn call(
        &self,
        name: Option<RequestName>,
        call: Call,
        payload: Bytes,
    ) -> anyhow::Result<Reply> {
        if name.is_none()
            && let Some(question) = call.question()
            && let Some(reply) = self.0.borrowed.recall(&question)
        {
            return Ok(reply);
        }
        let (mut pause, mut refusals) = (PAUSE, 0);
        loop {
            let named = match name {
                Some(name) if refusals > 0 => Some(another(name, refusals)),
                name => name,
            };
            match self.ask(&Ask::Call(named, call.clone()), payload.clone()).await? {
                (Answer::Fault(Fault::Away(why)), _) => {
                    tracing::debug!(why, "the grid is away");
                }
                (Answer::Fault(Fault::Refused(why)), _) => {
                    tracing::debug!(why, refusals, "the grid refuses for now");
                    refusals += 1;
                }
                reply => return Ok(reply),
            }
            sleep(&mut pause).await;
        }
    }

    async fn ask(&self, ask: &Ask, payload: Bytes) -> anyhow::Result<Reply> {
        let _slot = self.0.asks.acquire().await?;
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::new(&(id, ask), payload)?;
        let (reply, answered) = oneshot::channel();
        {
            let mut state = self.0.state.lock();
            let question = match ask {
                Ask::Call(None, call) => call.question(),
                _ => None,
            };
            state.pending.insert(id, Pending { frame, question, reply });
            state.unsent.insert(id);
            if state.send_now(id) {
                self.0.more.notify_one();
            }
        }
        let _waiter = Waiter { shared: &self.0, id };
        answered.await.context("the line has ended")
    }
}

/// Why there is no connection.
enum Away {
    Now(anyhow::Error),
    Never(anyhow::Error),
}

impl Shared {
    /// The version in `hello` says whether all calls may be made, or those that older agents know as well.
    fn new(path: PathBuf, mut hello: Hello, credentials: Option<PathBuf>) -> Arc<Shared> {
        let needs_all = hello.version >= VERSION;
        hello.version = match (needs_all, credentials.is_some()) {
            (true, _) => VERSION,
            (false, true) => VERSION_WITH_KEY,
            (false, false) => VERSION_WITHOUT_KEY,
        };
        Arc::new(Shared {
            path,
            key: credentials.map(KeyFile::new),
            lease: watch::Sender::new(hello.lease),
            greetings: watch::Sender::new(0),
            hello: Mutex::new(hello),
            next: AtomicU64::new(1),
            asks: Semaphore::new(limits::ASKS_AT_ONCE),
            state: Mutex::default(),
            more: Notify::new(),
            borrowed: Borrowed::new(Env::real().clock),
        })
    }

    async fn greet(&self) -> Result<UnixStream, Away> {
        let hello = self.hello.lock().clone();
        let key = match self.key.as_ref().map(KeyFile::key).transpose() {
            Ok(Some(key)) => {
                postcard::to_stdvec(&key).map_err(|error| Away::Never(error.into()))?
            }
            Ok(None) => Vec::new(),
            Err(error) => return Err(Away::Never(error)),
        };
        let greeted = async {
            let mut stream = nexusgrid_env::real::net::unix_connect(&self.path).await?;
            Frame::new(&hello, key.into())?.send(&mut stream).await?;
            match receive::<Greeting, _>(&mut stream).await? {
                Some((greeting, _)) => Ok((stream, greeting)),
                None => bail!("the agent broke off"),
            }
        };
        match greeted.await {
            Ok((stream, Greeting::Welcome { lease })) => {
                self.hello.lock().lease = Some(lease);
                self.lease.send_if_modified(|known| known.replace(lease) != Some(lease));
                self.greetings.send_modify(|count| *count += 1);
                Ok(stream)
            }
            Ok((_, Greeting::Away(why))) => Err(Away::Now(anyhow::anyhow!(why))),
            Ok((_, Greeting::Refused(why))) => Err(Away::Never(anyhow::anyhow!(why))),
            Err(error) => Err(Away::Now(error)),
        }
    }

    async fn write(&self, writer: &OwnedWriteHalf) -> anyhow::Result<()> {
        loop {
            let next = self.state.lock().next();
            match next {
                Some(frame) => frame.send_shared(writer).await?,
                None => self.more.notified().await,
            }
        }
    }

    /// Takes what the agent sent, in its order.
    fn take(&self, id: u64, answer: Answer, payload: Bytes) {
        let (answer, is_lent) = match answer {
            Answer::News(news) => {
                let recalled = self.borrowed.hear(&news);
                self.state.lock().heard = Some(Ask::Heard { number: news.number, recalled });
                self.more.notify_one();
                return;
            }
            Answer::Lent(answer) => (*answer, true),
            answer => (answer, false),
        };
        let pending = self.state.lock().answered(id);
        if let Some(pending) = pending {
            if let Some(question) = pending.question.filter(|_| is_lent) {
                self.borrowed.keep(question, (answer.clone(), payload.clone()));
            }
            // Whoever waited may be gone.
            let _ = pending.reply.send((answer, payload));
        }
    }

    /// Carries frames both ways until the connection breaks.
    async fn carry(&self, stream: UnixStream) -> anyhow::Result<()> {
        let (reader, writer) = stream.into_split();
        let writer = Arc::new(writer);
        self.state.lock().writer = Some(Arc::clone(&writer));
        // Dropped before the writer, whose end is what the agent sees.
        let _closing = Closing(self);
        let _clearing = Clearing(&self.borrowed);
        let writing = self.write(&writer);
        let reading = async {
            let mut reader = BufReader::with_capacity(1 << 16, reader);
            while let Some(((id, answer), payload)) =
                receive::<(u64, Answer), _>(&mut reader).await?
            {
                self.take(id, answer, payload);
            }
            bail!("the agent has closed the line")
        };
        tokio::select! {
            biased;
            ended = reading => ended,
            ended = writing => ended,
            () = self.other_key() => bail!("the mount has another access key"),
        }
    }

    /// Completes when there is another access key: the agent is to be greeted with it.
    async fn other_key(&self) {
        let Some(key) = &self.key else { return std::future::pending().await };
        while !key.has_changed() {
            tokio::time::sleep(limits::RIGHTS_LOOK).await;
        }
    }
}

/// Lets go of the connection when it is dropped.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.state.lock().writer = None;
    }
}

async fn keep(shared: Arc<Shared>, mut stream: Option<UnixStream>) {
    let mut pause = PAUSE;
    loop {
        if let Some(connected) = stream.take() {
            pause = PAUSE;
            let ended = shared.carry(connected).await;
            shared.state.lock().begin_anew();
            if let Err(error) = ended {
                tracing::warn!(error = format!("{error:#}"), "no line to the agent: calls wait");
            }
        }
        match shared.greet().await {
            Ok(connected) => {
                tracing::info!("the agent is back");
                stream = Some(connected);
            }
            Err(Away::Now(_)) => sleep(&mut pause).await,
            Err(Away::Never(error)) => {
                // The bucket is gone, or the key: it may come back as well.
                tracing::error!(error = format!("{error:#}"), "the agent refuses this mount");
                pause = PAUSE_MAX;
                sleep(&mut pause).await;
            }
        }
    }
}

async fn sleep(pause: &mut Duration) {
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(PAUSE_MAX);
}

#[cfg(test)]
mod tests {
    use nexusgrid_grid::volume::Ino;

    use super::super::agent::{Agent, hello};
    use super::*;

    const NAME: RequestName = [7; 16];

    /// What was refused is asked for under another name, since under its own it would hear the same for ever; what
    /// was not answered, or not decided, under its own, since it may have happened.
    #[tokio::test]
    async fn what_was_refused_is_asked_for_under_another_name() {
        let mut faults = vec![
            Fault::Away(String::new()),
            Fault::Refused(String::new()),
            Fault::Away(String::new()),
            Fault::Refused(String::new()),
        ]
        .into_iter();
        let agent =
            Agent::start(move |_, _| Some(faults.next().map_or(Answer::Done, Answer::Fault)));
        let line = Line::open(agent.path(), hello(), None).await.unwrap();
        let call = Call::Release(Ino(5));
        let (answer, _) = line.call(Some(NAME), call, Bytes::new()).await.unwrap();
        assert_eq!(answer, Answer::Done);
        let (first, second) = (Some(another(NAME, 1)), Some(another(NAME, 2)));
        let names: Vec<_> = agent.asked().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, [Some(NAME), Some(NAME), first, first, second]);
        assert_ne!(first, second);
    }

    /// Calls that end without an answer leave nothing behind, whatever the agent does.
    #[tokio::test]
    async fn what_nobody_waits_for_is_forgotten() {
        let agent = Agent::start(|_, _| None);
        let line = Line::open(agent.path(), hello(), None).await.unwrap();
        let payload = Bytes::from(vec![0; 100_000]);
        for _ in 0..50 {
            let call = line.call(None, Call::Space, payload.clone());
            let late = Duration::from_millis(1);
            assert!(tokio::time::timeout(late, call).await.is_err());
        }
        let is_quiet = || {
            let state = line.0.state.lock();
            state.pending.is_empty() && state.unsent.is_empty() && state.forgotten.is_empty()
        };
        let all = async {
            while !is_quiet() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
        assert_eq!(line.0.asks.available_permits(), limits::ASKS_AT_ONCE);
    }

    #[test]
    fn only_what_was_sent_is_told_to_be_forgotten() {
        let mut state = State::default();
        let ask = |state: &mut State, id: u64| {
            let frame = Frame::new(&(id, Ask::Forget), Bytes::new()).unwrap();
            let reply = oneshot::channel().0;
            state.pending.insert(id, Pending { frame, question: None, reply });
            state.unsent.insert(id);
        };
        (1..=3).for_each(|id| ask(&mut state, id));
        assert!(state.next().is_some());
        assert!(state.give_up(1), "the agent has it");
        assert!(!state.give_up(2), "it was never sent");
        assert!(!state.give_up(2));
        assert!(state.next().is_some() && state.forgotten.is_empty());
        assert!(state.next().is_some());
        assert!(state.next().is_none() && state.pending.len() == 1);
        state.begin_anew();
        assert!(state.next().is_some() && state.next().is_none(), "over the next connection again");
        assert!(state.answered(3).is_some() && !state.give_up(3));
    }
}
