//! The agent's end of the daemons' lines: who connects is root of this machine, as file permissions say. A mount that
//! brings an access key does what that may (`pass`); one that brings none does all.
//!
//! A mount outlives its daemon and its line: its volume and its lease are kept for [`limits::KEPT`] after the last line
//! of it broke, so that the next daemon goes on with it; after an agent's death, the lease lasts as long as the
//! grid lets it, and the next agent goes on with that.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures_util::future::{AbortHandle, Abortable};
use nexusgrid_env::{BootInstant, Env};
use nexusgrid_gateway::mounts::{MountRefusal, MountRights, Mounts};
use nexusgrid_grid::volume::{
    Borrower, Cookie, FileRange, Ino, Loan, LoanNews, Lock, MountId, Seek, VolumeError,
};
use nexusgrid_grid::{CommandId, Grid, GridError, Volume};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};

use super::limits;
use super::pass::{Admitted, Pass};
use super::turns::Turns;
use super::wire::{
    Answer, Ask, Call, Fault, Frame, Greeting, Hello, Kind, NOBODY, PAYLOAD_MAX, RequestName,
    VERSION, VERSION_OLDEST, VERSION_WITHOUT_KEY, receive,
};
use super::{Credentials, SOCKET_NAME};

/// Makes mounts of this machine possible.
pub struct Door {
    env: Env,
    grid: Grid,
    /// Says what access keys may; `None`: this node has none.
    rights: Option<Arc<Mounts>>,
    mounted: Mutex<BTreeMap<u64, Arc<Mounted>>>,
    /// Two lines of one mount, by its lease, come one after the other, so that they share its volume.
    greeting: Turns<u64>,
}

struct Mounted {
    volume: Volume,
    dir: PathBuf,
    read_only: bool,
    /// The id of the access key that its daemon brought last.
    key: Mutex<Option<String>>,
    /// Changes that its keys were allowed.
    admitted: Mutex<Admitted>,
    since: BootInstant,
    lines: AtomicUsize,
    /// Held by each call that changes something, until it has ended.
    changes: tokio::sync::RwLock<()>,
    left: Mutex<BootInstant>,
    calls: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    /// Questions that its daemons answered from what they were lent: those before, and the one that serves it now.
    recalled: Mutex<(u64, u64)>,
}

/// One line of a mount, counted while it lasts.
struct OneLine {
    mount: Arc<Mounted>,
    env: Env,
}

impl OneLine {
    fn of(mount: Arc<Mounted>, env: &Env) -> OneLine {
        mount.lines.fetch_add(1, Ordering::Relaxed);
        OneLine { mount, env: env.clone() }
    }
}

impl Drop for OneLine {
    fn drop(&mut self) {
        *self.mount.left.lock() = self.env.clock.now();
        self.mount.lines.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a call changes nothing, or waits and changes nothing until it is done: it may end at any time.
fn is_idle(call: &Call) -> bool {
    match call {
        Call::Hold(_) | Call::Lock { wait: false, .. } => false,
        call => call.kind() == Kind::Looks,
    }
}

/// A mount, as `nexusgrid mounts` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct MountReport {
    /// The bucket.
    pub bucket: String,
    /// Where it is mounted.
    pub dir: String,
    /// Its lease in the grid.
    pub lease: u64,
    /// Whether nothing can be written.
    pub read_only: bool,
    /// The id of the access key that it is made with; `None`: it does what this machine may.
    pub key: Option<String>,
    /// Whether its daemon is there.
    pub connected: bool,
    /// Since when this agent serves it, in seconds.
    pub seconds: u64,
    /// Calls so far.
    pub calls: u64,
    /// Bytes read so far.
    pub bytes_read: u64,
    /// Bytes written so far.
    pub bytes_written: u64,
    /// Answers of the grid that it remembers.
    pub remembered: usize,
    /// Whether the grid tells it of changes at this moment: if not, it asks each time.
    pub told: bool,
    /// Questions so far that it answered from memory.
    pub recalled: u64,
    /// Questions so far that it asked the grid.
    pub asked: u64,
}

impl Door {
    /// A door to a grid.
    pub fn new(env: Env, grid: Grid, rights: Option<Arc<Mounts>>) -> Arc<Door> {
        let (mounted, greeting) = (Mutex::default(), Turns::default());
        Arc::new(Door { env, grid, rights, mounted, greeting })
    }

    /// What a key may do with a bucket that is mounted with it.
    pub async fn rights(&self, bucket: &str, key: Credentials) -> anyhow::Result<MountRights> {
        let rights = self.rights.as_ref().context(NO_KEYS)?;
        Ok(rights.rights(bucket, &key.into()).await?)
    }

    /// What the key that came with a greeting may do; none came: all.
    async fn pass(&self, hello: &Hello, payload: &[u8]) -> Result<Option<Pass>, Greeting> {
        if hello.version <= VERSION_WITHOUT_KEY {
            return Ok(None);
        }
        let Ok(key) = postcard::from_bytes::<Credentials>(payload) else {
            return Err(Greeting::Refused("an access key was to follow".to_owned()));
        };
        let rights = self.rights.clone().ok_or_else(|| Greeting::Refused(NO_KEYS.to_owned()))?;
        let resumes = hello.lease.is_some();
        match Pass::of((rights, &self.env), &hello.bucket, key.into(), resumes).await {
            Ok(pass) => Ok(Some(pass)),
            Err(refusal @ MountRefusal::Away(_)) => Err(Greeting::Away(refusal.to_string())),
            Err(refusal) => Err(Greeting::Refused(format!("{}: {refusal}", hello.bucket))),
        }
    }

    /// Mounts of this machine.
    pub fn list(&self) -> Vec<MountReport> {
        let now = self.env.clock.now();
        let mounted = self.mounted.lock();
        let report = |(_, mount): (&u64, &Arc<Mounted>)| {
            let memory = mount.volume.memory();
            let recalled = {
                let (before, now) = *mount.recalled.lock();
                before + now
            };
            MountReport {
                bucket: mount.volume.name().to_owned(),
                dir: mount.dir.display().to_string(),
                lease: mount.volume.mount().0,
                read_only: mount.read_only,
                key: mount.key.lock().clone(),
                connected: mount.lines.load(Ordering::Relaxed) > 0,
                seconds: now.since(mount.since).as_secs(),
                calls: mount.calls.load(Ordering::Relaxed),
                bytes_read: mount.bytes_read.load(Ordering::Relaxed),
                bytes_written: mount.bytes_written.load(Ordering::Relaxed),
                remembered: memory.facts,
                told: memory.is_believed,
                recalled: memory.hits + recalled,
                asked: memory.misses,
            }
        };
        mounted.iter().map(report).collect()
    }

    /// Serves the daemons' socket in `node_dir` until the agent stops.
    pub fn serve(self: &Arc<Self>, node_dir: &Path) -> anyhow::Result<()> {
        let path = node_dir.join(SOCKET_NAME);
        // Left behind by a killed agent; a running one holds the directory's lock, so this is stale.
        if self.env.disk.exists(&path)? {
            self.env.disk.remove_file(&path)?;
        }
        let listener = nexusgrid_env::real::net::unix_listen(&path)
            .with_context(|| format!("cannot listen on {}", path.display()))?;
        let lines = Arc::new(Semaphore::new(limits::LINES_MAX));
        let door = Arc::clone(self);
        self.env.exec.spawn(async move {
            loop {
                let Ok(slot) = Arc::clone(&lines).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let line = Arc::clone(&door);
                        door.env.exec.spawn(async move {
                            if let Err(error) = line.line(stream).await {
                                tracing::warn!(
                                    error = format!("{error:#}"),
                                    "the line of a mount broke"
                                );
                            }
                            drop(slot);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept on the mounts' socket");
                        door.env.clock.sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        });
        let door = Arc::clone(self);
        self.env.exec.spawn(async move {
            loop {
                door.env.clock.sleep(limits::KEPT / 4).await;
                door.forget();
            }
        });
        Ok(())
    }

    /// Ends what no daemon came back to: what it held is given back.
    fn forget(&self) {
        let now = self.env.clock.now();
        let is_left = |mount: &Arc<Mounted>| {
            mount.lines.load(Ordering::Relaxed) == 0
                && now.since(*mount.left.lock()) >= limits::KEPT
        };
        let mut mounted = self.mounted.lock();
        let left: Vec<u64> =
            mounted.iter().filter(|(_, mount)| is_left(mount)).map(|(lease, _)| *lease).collect();
        for mount in left.into_iter().filter_map(|lease| mounted.remove(&lease)) {
            self.env.exec.spawn(async move {
                let dir = mount.dir.display();
                tracing::info!(%dir, "nobody serves this mount any more: its lease ends");
                if let Err(error) = mount.volume.close().await {
                    // It is renewed no more, and runs out by itself.
                    tracing::info!(%error, "its lease could not be ended");
                }
            });
        }
    }

    async fn line(self: Arc<Self>, mut stream: UnixStream) -> anyhow::Result<()> {
        let hello = tokio::time::timeout(limits::HELLO_TIMEOUT, receive::<Hello, _>(&mut stream))
            .await
            .context("no word from it")??;
        let Some((hello, payload)) = hello else { return Ok(()) };
        let greeted = match self.pass(&hello, &payload).await {
            Ok(pass) => self.greet(&hello).await.map(|line| (line, pass)),
            Err(greeting) => Err(greeting),
        };
        // From before the lease is told: a change of it is not missed.
        let leases = greeted.as_ref().ok().map(|(line, _)| line.mount.volume.mounts());
        let greeting = match &greeted {
            Ok((line, _)) => Greeting::Welcome { lease: line.mount.volume.mount().0 },
            Err(greeting) => greeting.clone(),
        };
        Frame::new(&greeting, Bytes::new())?.send(&mut stream).await?;
        match (greeted, leases) {
            (Ok((line, pass)), Some(leases)) => {
                let borrows = hello.version > VERSION_OLDEST;
                *line.mount.key.lock() = pass.as_ref().map(|pass| pass.key().to_owned());
                let pass = pass.map(Arc::new);
                self.serve_line(stream, (&line.mount, pass), leases, borrows).await
            }
            _ => Ok(()),
        }
    }

    /// Finds the volume that a daemon serves; one more line has it then.
    async fn greet(&self, hello: &Hello) -> Result<OneLine, Greeting> {
        if !(VERSION_OLDEST..=VERSION).contains(&hello.version) {
            let why = "this agent is of another version: mount the bucket anew";
            return Err(Greeting::Refused(why.to_owned()));
        }
        let _alone = match hello.lease {
            Some(lease) => Some(self.greeting.wait(lease).await),
            None => None,
        };
        let known = hello.lease.and_then(|lease| {
            let mounted = self.mounted.lock();
            // The grid may have ended it while its daemon was away; then the volume has another by now.
            let is_it = |(known, mount): &(&u64, &Arc<Mounted>)| {
                (**known == lease || mount.volume.mount().0 == lease)
                    && mount.volume.name() == hello.bucket
            };
            let known = mounted.iter().find(is_it);
            // While the table is locked: what has a line is not forgotten.
            known.map(|(_, mount)| OneLine::of(Arc::clone(mount), &self.env))
        });
        if let Some(line) = known {
            // What the daemon before asked for and was not told of ends first: nothing of it may come after
            // what this one asks for.
            let ending = line.mount.changes.write();
            let have_ended = tokio::time::timeout(limits::ENDING, ending).await.is_ok();
            return match have_ended {
                true => {
                    line.mount.volume.begin_anew();
                    Ok(line)
                }
                false => Err(Greeting::Away("calls of the daemon before go on".to_owned())),
            };
        }
        let volume = match self.grid.volume_of(&hello.bucket, hello.lease.map(MountId)).await {
            Ok(volume) => volume,
            Err(VolumeError::Grid(
                error @ (GridError::NoSuchBucket | GridError::InvalidBucketName(_)),
            )) => return Err(Greeting::Refused(format!("{}: {error}", hello.bucket))),
            Err(VolumeError::Posix(error)) => {
                return Err(Greeting::Refused(format!("{}: {error}", hello.bucket)));
            }
            Err(error) => return Err(Greeting::Away(error.to_string())),
        };
        let now = self.env.clock.now();
        let mount = Arc::new(Mounted {
            dir: hello.dir.clone(),
            read_only: hello.read_only,
            key: Mutex::default(),
            admitted: Mutex::default(),
            since: now,
            lines: AtomicUsize::new(0),
            changes: tokio::sync::RwLock::default(),
            left: Mutex::new(now),
            calls: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            recalled: Mutex::default(),
            volume,
        });
        let lease = mount.volume.mount().0;
        tracing::info!(bucket = %hello.bucket, dir = %hello.dir.display(), lease, "mounted");
        let line = OneLine::of(Arc::clone(&mount), &self.env);
        self.mounted.lock().insert(lease, mount);
        Ok(line)
    }

    async fn serve_line(
        &self,
        stream: UnixStream,
        (mount, pass): (&Arc<Mounted>, Option<Arc<Pass>>),
        mut leases: watch::Receiver<MountId>,
        borrows: bool,
    ) -> anyhow::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let (answers, mut waiting) = mpsc::channel::<Frame>(limits::ANSWERS_WAITING);
        let out = Arc::new(Out::new(answers));
        let running: Arc<Mutex<BTreeMap<u64, AbortHandle>>> = Arc::default();
        let writing = async {
            while let Some(frame) = waiting.recv().await {
                frame.send(&mut writer).await?;
            }
            anyhow::Ok(())
        };
        let lending = async {
            match borrows {
                true => out.lend(&mount.volume).await,
                false => std::future::pending().await,
            }
        };
        let watching = async {
            match &pass {
                Some(pass) => pass.watch().await,
                None => std::future::pending().await,
            }
        };
        let reading = async {
            let mut reader = BufReader::with_capacity(1 << 16, reader);
            let slots = Arc::new(Semaphore::new(limits::CALLS_AT_ONCE));
            while let Some(((id, ask), payload)) = receive::<(u64, Ask), _>(&mut reader).await? {
                let (name, call) = match ask {
                    Ask::Call(name, call) => (name, call),
                    Ask::Forget => {
                        if let Some(call) = running.lock().remove(&id) {
                            call.abort();
                        }
                        continue;
                    }
                    Ask::Heard { number, recalled } => {
                        out.heard(number);
                        mount.recalled.lock().1 = recalled;
                        continue;
                    }
                };
                let slot = Arc::clone(&slots).acquire_owned().await?;
                let (abort, registration) = AbortHandle::new_pair();
                let is_idle = is_idle(&call);
                if is_idle {
                    running.lock().insert(id, abort);
                }
                let (mount, out) = (Arc::clone(mount), Arc::clone(&out));
                let (running, pass) = (Arc::clone(&running), pass.clone());
                self.env.exec.spawn(async move {
                    let work = async {
                        let admit = |pass: Arc<Pass>| pass.admit(&call, name, &mount.admitted);
                        if let Some(Err(why)) = pass.map(admit) {
                            let refused = Answer::Fault(Fault::Posix(why));
                            out.answer(id, (refused, Bytes::new(), None)).await;
                            return;
                        }
                        let _change = match is_idle {
                            true => None,
                            false => Some(mount.changes.read().await),
                        };
                        let answered = mount.answer(name, call, payload).await;
                        out.answer(id, answered).await;
                    };
                    let _ = Abortable::new(work, registration).await;
                    running.lock().remove(&id);
                    drop(slot);
                });
            }
            anyhow::Ok(())
        };
        let (ended, is_gone) = tokio::select! {
            biased;
            // What it was lent it is to forget; what it may it hears on its next line.
            () = watching => (Ok(()), false),
            ended = reading => {
                let is_gone = ended.as_ref().err().is_none_or(is_of_line);
                (ended, is_gone)
            }
            ended = writing => {
                let is_gone = ended.as_ref().err().is_some_and(is_of_line);
                (ended, is_gone)
            }
            never = lending => match never {},
            // The daemon hears of the other lease as it comes again.
            _ = leases.changed() => (Ok(()), false),
        };
        if out.end(is_gone) {
            let mut recalled = mount.recalled.lock();
            *recalled = (recalled.0 + recalled.1, 0);
        }
        // Whoever waits for a lock waits on the next line. What changes something ends by itself, and is told
        // when it is asked for again.
        for (_, call) in std::mem::take(&mut *running.lock()) {
            call.abort();
        }
        ended
    }
}

/// Why there are no mounts with keys.
const NO_KEYS: &str = "this node knows no access keys: mount on a gateway node";

/// Whether the other end has closed, or died: it believes nothing then that it was lent.
fn is_of_line(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<std::io::Error>())
}

/// What is sent over a line: answers, and news of what was lent.
struct Out {
    answers: mpsc::Sender<Frame>,
    /// What is lent, and news, are put in line while this is held: so nothing is lent behind the news that end it.
    turn: tokio::sync::Mutex<()>,
    borrower: OnceLock<Borrower>,
}

impl Out {
    fn new(answers: mpsc::Sender<Frame>) -> Out {
        Out { answers, turn: tokio::sync::Mutex::default(), borrower: OnceLock::new() }
    }

    /// Lends to this line, when no other borrows any more, and has its daemon told what is lost.
    async fn lend(&self, volume: &Volume) -> Infallible {
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

    async fn answer(&self, id: u64, (answer, payload, loan): (Answer, Bytes, Option<Loan>)) {
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

    fn heard(&self, number: u64) {
        if let Some(borrower) = self.borrower.get() {
            borrower.heard(number);
        }
    }

    /// Whether it borrowed anything.
    fn end(&self, is_gone: bool) -> bool {
        let borrower = self.borrower.get();
        borrower.inspect(|borrower| borrower.end(is_gone)).is_some()
    }
}

impl Mounted {
    async fn answer(
        &self,
        name: Option<RequestName>,
        call: Call,
        payload: Bytes,
    ) -> (Answer, Bytes, Option<Loan>) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.bytes_written.fetch_add(payload.len() as u64, Ordering::Relaxed);
        let mut loan = None;
        let done = self.run(name.map(CommandId), call, payload, &mut loan).await;
        match done {
            Ok((answer, payload)) => {
                self.bytes_read.fetch_add(payload.len() as u64, Ordering::Relaxed);
                (answer, payload, loan)
            }
            Err(error) => (Answer::Fault(fault(error)), Bytes::new(), loan),
        }
    }

    async fn run(
        &self,
        name: Option<CommandId>,
        call: Call,
        payload: Bytes,
        loan: &mut Option<Loan>,
    ) -> Result<(Answer, Bytes), VolumeError> {
        let volume = &self.volume;
        let node = |node| Answer::Node(Box::new(node));
        let answer = match call {
            Call::Lookup(parent, child) => {
                let (found, lent) = volume.lookup_loan(parent, &child).await;
                *loan = lent;
                node(found?)
            }
            Call::Node(ino) => {
                let (found, lent) = volume.node_loan(ino).await;
                *loan = lent;
                node(found?)
            }
            Call::Make(parent, child, creation) => {
                node(volume.make(parent, &child, creation, name).await?)
            }
            Call::Unlink(parent, child) => {
                volume.unlink(parent, &child, name).await?;
                Answer::Done
            }
            Call::Rmdir(parent, child) => {
                volume.rmdir(parent, &child, name).await?;
                Answer::Done
            }
            Call::Rename(from, to, mode) => {
                let (from, to) = ((from.0, from.1.as_slice()), (to.0, to.1.as_slice()));
                volume.rename(from, to, mode, name).await?;
                Answer::Done
            }
            Call::Link(ino, parent, child) => node(volume.link(ino, parent, &child, name).await?),
            Call::SetAttrs(ino, change, size) => {
                node(volume.set_attrs(ino, change, size, name).await?)
            }
            Call::Read(ino, offset, len) => {
                let len = len.min(PAYLOAD_MAX as u64);
                return Ok((Answer::Done, volume.read(ino, offset, len).await?));
            }
            Call::Write(ino, ranges, modified) => {
                let ranges = ranges_of(ranges, payload)?;
                node(volume.write(ino, ranges, Some(modified), name).await?)
            }
            Call::Append(ino) => {
                let (made, offset) = volume.append(ino, vec![payload], name).await?;
                Answer::Appended(Box::new(made), offset)
            }
            Call::Punch(ino, offset, len) => node(volume.punch(ino, offset, len, name).await?),
            Call::Lengthen(ino, size) => node(volume.lengthen(ino, size, name).await?),
            Call::CopyRange(from, to, len) => {
                Answer::Offset(volume.copy_range(from, to, len, name).await?)
            }
            Call::Seek(ino, offset, data) => {
                let what = if data { Seek::Data } else { Seek::Hole };
                Answer::Offset(volume.seek(ino, offset, what).await?)
            }
            Call::List(dir, after, max) => {
                let max = usize::try_from(max).unwrap_or(usize::MAX);
                let listed = volume.list(dir, Cookie(after), max).await?;
                let one = |one: nexusgrid_grid::volume::Listed| (one.name, one.node, one.cookie.0);
                Answer::Listed(listed.into_iter().map(one).collect())
            }
            Call::Xattr(ino, xattr) => {
                let (found, lent) = volume.xattr_loan(ino, &xattr).await;
                *loan = lent;
                return Ok((Answer::Done, found?.into()));
            }
            Call::Xattrs(ino) => Answer::Names(volume.xattrs(ino).await?),
            Call::SetXattr(ino, xattr, when) => {
                volume.set_xattr(ino, &xattr, Some(payload.to_vec()), when, name).await?;
                Answer::Done
            }
            Call::RemoveXattr(ino, xattr) => {
                let when = nexusgrid_grid::volume::XattrWhen::Replace;
                volume.set_xattr(ino, &xattr, None, when, name).await?;
                Answer::Done
            }
            Call::Hold(ino) => node(volume.hold(ino).await?),
            Call::Release(ino) => {
                volume.release(ino);
                Answer::Done
            }
            Call::Lock { ino, owner, pid, range, kind, wait } => {
                self.lock(ino, owner, pid, range, kind, wait, name).await?;
                Answer::Done
            }
            Call::Conflict(ino, owner, range, kind) => {
                let held = volume.conflict(ino, owner, range, kind).await?;
                // A process of another mount is none here.
                let own = volume.mount();
                let pid = |lock: &Lock| if lock.mount == own { lock.pid } else { 0 };
                Answer::Conflict(held.map(|lock| Lock { pid: pid(&lock), ..lock }))
            }
            Call::UnlockAll(ino, owner) => {
                volume.unlock_all(ino, owner).await?;
                Answer::Done
            }
            Call::Opens(open) => {
                volume.opens(&open).await?;
                Answer::Done
            }
            Call::Space => {
                let space = volume.space().await?;
                Answer::Space {
                    bytes: space.bytes,
                    free: space.free,
                    nodes: space.nodes,
                    nodes_free: space.nodes_free,
                }
            }
            Call::Close => {
                volume.close().await?;
                Answer::Done
            }
        };
        Ok((answer, Bytes::new()))
    }

    #[expect(clippy::too_many_arguments, reason = "a lock of POSIX has these")]
    async fn lock(
        &self,
        ino: Ino,
        owner: u64,
        pid: u32,
        range: nexusgrid_grid::volume::LockRange,
        kind: Option<nexusgrid_grid::volume::LockKind>,
        wait: bool,
        name: Option<CommandId>,
    ) -> Result<(), VolumeError> {
        match kind {
            Some(kind) if wait => self.volume.lock_wait(ino, (owner, pid), range, kind).await,
            kind => self.volume.lock(ino, (owner, pid), range, kind, name).await,
        }
    }
}

/// Cuts what follows a message into its ranges.
fn ranges_of(ranges: Vec<(u64, u64)>, mut payload: Bytes) -> Result<Vec<FileRange>, VolumeError> {
    let mut cut = Vec::with_capacity(ranges.len());
    for (offset, len) in ranges {
        let len = usize::try_from(len).ok().filter(|len| *len > 0 && *len <= payload.len());
        let len = len.ok_or(nexusgrid_grid::volume::PosixError::Invalid)?;
        cut.push(FileRange { offset, pieces: vec![payload.split_to(len)] });
    }
    Ok(cut)
}

fn fault(error: VolumeError) -> Fault {
    match error {
        VolumeError::Posix(error) => Fault::Posix(error),
        VolumeError::Refused(error) => Fault::Refused(error.to_string()),
        VolumeError::Grid(error) => match error {
            GridError::Unavailable(_)
            | GridError::Unreadable(_)
            | GridError::SlowDown
            | GridError::Conflict
            | GridError::Stopping => Fault::Away(error.to_string()),
            GridError::Full => Fault::Full,
            GridError::QuotaExceeded => Fault::Quota,
            error => Fault::Failed(error.to_string()),
        },
    }
}
