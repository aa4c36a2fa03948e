//! The agent's end of the daemons' lines: who connects is root of this machine, as file permissions say. A mount that
//! brings an access key does what that may (`pass`); one that brings none does all.
//!
//! A mount outlives its daemon and its line: its volume and its lease are kept for [`limits::KEPT`] after the last line
//! of it broke, so that the next daemon goes on with it; after an agent's death, the lease lasts as long as the
//! grid lets it, and the next agent goes on with that.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures_util::future::{AbortHandle, Abortable};
use nexusgrid_env::Env;
use nexusgrid_gateway::mounts::{MountRefusal, MountRights, Mounts};
use nexusgrid_grid::volume::{MountId, VolumeError};
use nexusgrid_grid::{Grid, GridError};
use parking_lot::Mutex;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};

use super::limits;
pub use super::mounted::MountReport;
use super::mounted::{Mounted, OneLine};
use super::out::Out;
use super::pass::Pass;
use super::turns::Turns;
use super::wire::{
    Answer, Ask, Call, Fault, Frame, Greeting, Hello, Kind, VERSION, VERSION_OLDEST,
    VERSION_WITH_KEY, receive,
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
        let has_none = hello.version > VERSION_WITH_KEY && payload.is_empty();
        if hello.version < VERSION_WITH_KEY || has_none {
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
        mounted.values().map(|mount| mount.report(now)).collect()
    }

    /// Returns when no mount has its bucket to itself any more; none will.
    pub async fn give_back(&self) {
        let mounted: Vec<_> = self.mounted.lock().values().cloned().collect();
        let all = mounted.iter().map(|mount| mount.volume.work_with_others());
        futures_util::future::join_all(all).await;
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
                    // Whoever comes says whether it may be alone.
                    let alone = line.mount.volume.work_with_others();
                    if tokio::time::timeout(limits::ENDING, alone).await.is_err() {
                        let why = "what the mount did is being stored".to_owned();
                        return Err(Greeting::Away(why));
                    }
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
        let mount = Arc::new(Mounted::new(hello, volume, self.env.clock.now()));
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
                let is_short = payload.len() <= limits::SHORT_BYTES;
                let (abort, registration) = AbortHandle::new_pair();
                let is_idle = is_idle(&call);
                if is_idle {
                    running.lock().insert(id, abort);
                }
                let (mount, out) = (Arc::clone(mount), Arc::clone(&out));
                let (running, pass) = (Arc::clone(&running), pass.clone());
                let mut work = Box::pin(async move {
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
                // What needs nobody else is done here: to wake another thread costs more.
                if !is_short || futures_util::poll!(work.as_mut()).is_pending() {
                    self.env.exec.spawn(work);
                }
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

/// Whether a call changes nothing, or waits and changes nothing until it is done: it may end at any time.
fn is_idle(call: &Call) -> bool {
    match call {
        Call::Hold(_) | Call::Lock { wait: false, .. } => false,
        call => call.kind() == Kind::Looks,
    }
}
