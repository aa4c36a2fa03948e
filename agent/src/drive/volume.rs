//! What a mount's daemon does itself: which files are open, what of them waits to be stored, and what
//! programs are told of files that are being written.
//!
//! ```text
//!   write ─▶ bytes wait in the supervisor's memory ─┬─ close, fsync, unlock ─▶ stored, then answered
//!                                                   ├─ a lot of a file, or some seconds ─▶ stored meanwhile
//!                                                   └─ read, stat: laid over what the volume has
//!   O_APPEND ─▶ stored at once, where the file ends by then
//! ```
//!
//! Everything else is one call to the agent, made under the kernel's name for it. A file that is open here
//! is held, so that its bytes stay when its last name goes, wherever that is done.
//!
//! The kernel keeps no names and no attributes: what another mount or a client of S3 did is seen by the next
//! call. It keeps pages of a file while it is open, and when it is opened anew if nobody changed it since: if what the agent
//! lent of it is lent still. Locked, a file is read anew.

mod calls;
mod convert;
mod files;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nexusgrid_env::{Env, Rng};
use nexusgrid_fuse::dirty::Dirty;
use nexusgrid_fuse::owners::Owners;
use nexusgrid_fuse::volume::{
    Attributes, Caller, Cookie, Entry, Handle, Ino, Known, OpenFlags, Opened, Timestamp,
};
use nexusgrid_fuse::{Notice, Notices, Outcome, VolumeError};
use nexusgrid_grid::volume as grid;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::limits::SHOWN_MAX;
use super::line::Line;
use super::options::DriveOptions;
use super::wire::{Answer, Call, RequestName};
use convert::{attributes, fault, moment};
use files::Files;
use store::detached;

/// Bytes of a file that wait before they are stored without being asked for.
const LOT_BYTES: u64 = 8 << 20;

/// How often a node or a listing is asked for again because bytes were stored meanwhile.
const ASKED_AGAIN_MAX: usize = 8;

/// No change but of the size.
const NOTHING: grid::AttrsChange =
    grid::AttrsChange { mode: None, uid: None, gid: None, accessed: None, modified: None };

/// Bits of a name; the first two bytes are the grid's, for what it makes anew.
const NAME_BITS: u128 = u128::MAX >> 16;

/// Nothing is believed unasked.
const NOT_AT_ALL: Duration = Duration::ZERO;

/// But what a snapshot shows: so long after it was dropped the kernel may show it still.
const PAST_VALID: Duration = Duration::from_secs(10);

/// Which step of a request a name is for: a request may be several calls.
#[derive(Clone, Copy, Debug)]
enum Step {
    Only = 0,
    Then = 1,
}

/// The volume of a daemon.
pub struct Drive(Arc<Inner>);

struct Inner {
    line: Line,
    dirty: Arc<Dirty>,
    files: Files,
    options: DriveOptions,
    notices: OnceLock<Notices>,
    /// What programs were shown last.
    shown: Mutex<Shown>,
    /// The lease under which the daemon before held what is open.
    lease: Option<u64>,
    /// Names what this daemon stores by itself: no other daemon gives the same names.
    own: OwnNames,
}

/// Attributes that were shown last: of between [`SHOWN_MAX`] and twice as many nodes.
#[derive(Default)]
struct Shown {
    young: HashMap<Ino, Attributes>,
    old: HashMap<Ino, Attributes>,
}

impl Shown {
    fn note(&mut self, attributes: Attributes) {
        if self.young.len() >= SHOWN_MAX && !self.young.contains_key(&attributes.ino) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(attributes.ino, attributes);
    }

    fn of(&self, ino: Ino) -> Option<Attributes> {
        self.young.get(&ino).or_else(|| self.old.get(&ino)).copied()
    }
}

/// Names of requests that the kernel has none for.
struct OwnNames {
    first: u128,
    given: AtomicU64,
}

impl OwnNames {
    fn new(rng: &dyn Rng) -> OwnNames {
        let first = u128::from(rng.u64()) << 64 | u128::from(rng.u64());
        OwnNames { first, given: AtomicU64::new(0) }
    }

    /// One that was not given before.
    fn next(&self) -> RequestName {
        let number = u128::from(self.given.fetch_add(1, Ordering::Relaxed));
        ((self.first ^ number << 32) & NAME_BITS).to_be_bytes()
    }
}

impl Drive {
    /// A volume over a line, with what the daemon before left; `lease`: the one that it had. Within a runtime.
    pub fn new(
        line: Line,
        (dirty, owners): (Arc<Dirty>, Owners),
        options: DriveOptions,
        lease: Option<u64>,
    ) -> Drive {
        let (files, notices) = (Files::new(owners), OnceLock::new());
        let own = OwnNames::new(Env::real().rng.as_ref());
        let shown = Mutex::default();
        let inner = Inner { line, dirty, files, options, notices, shown, own, lease };
        let drive = Drive(Arc::new(inner));
        // One that follows another says what is open when it knows.
        if drive.0.lease.is_none() {
            drive.0.say_open();
        }
        if drive.0.options.delegate {
            let mut greetings = drive.0.line.greetings();
            greetings.mark_changed();
            tokio::spawn(may_be_alone(Arc::downgrade(&drive.0), greetings));
        }
        tokio::spawn(store::keep(Arc::downgrade(&drive.0), drive.0.options.write_delay));
        tokio::spawn(follow(Arc::downgrade(&drive.0), drive.0.line.lease()));
        drive
    }
}

/// Says what is open whenever the agent has greeted: it may be another, or another daemon's before. What else is held
/// is held for nothing.
async fn say_open(volume: Weak<Inner>, mut greetings: watch::Receiver<u64>) {
    while greetings.changed().await.is_ok() {
        let Some(inner) = volume.upgrade() else { return };
        greetings.borrow_and_update();
        let open = inner.files.all_open();
        let call = Call::Opens(open.iter().map(|ino| at(*ino)).collect());
        if let Err(error) = inner.done(None, call).await {
            tracing::warn!(%error, "the agent does not hear what is open");
            continue;
        }
        // Of these some may have been closed, and given back, before the agent took them for open.
        for ino in open {
            let _turn = inner.files.holding(ino).await;
            if !inner.files.is_open(ino) {
                inner.give_back(ino).await;
            }
        }
    }
}

/// Says whenever the agent has greeted that the mount may have its bucket to itself.
async fn may_be_alone(volume: Weak<Inner>, mut greetings: watch::Receiver<u64>) {
    while greetings.changed().await.is_ok() {
        let Some(inner) = volume.upgrade() else { return };
        greetings.borrow_and_update();
        if let Err(error) = inner.done(None, Call::Alone).await {
            tracing::warn!(%error, "the agent does not hear that it may do things by itself");
        }
    }
}

/// Notes the mount's lease for the next daemon. When it is another, the grid had given up this mount: what is
/// open is held anew, as far as it is still there; locks are lost.
async fn follow(volume: Weak<Inner>, mut leases: watch::Receiver<Option<u64>>) {
    let Some(mut before) = volume.upgrade().map(|inner| inner.lease) else { return };
    loop {
        let lease = *leases.borrow_and_update();
        let Some(inner) = volume.upgrade() else { return };
        if let Some(lease) = lease.filter(|lease| before != Some(*lease)) {
            if before.is_some() {
                inner.hold_again().await;
            }
            if let Err(error) = inner.dirty.note(lease) {
                tracing::error!(%error, "the mount's lease cannot be noted");
            }
            before = Some(lease);
        }
        drop(inner);
        if leases.changed().await.is_err() {
            return;
        }
    }
}

/// The name of a step of a request.
fn name(caller: &Caller, step: Step) -> Option<RequestName> {
    let request = caller.request;
    let number = u128::from(request.number) << 32;
    let mixed = (request.mount ^ number ^ (step as u128) << 28) & NAME_BITS;
    Some(mixed.to_be_bytes())
}

fn now() -> Timestamp {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    Timestamp { seconds: time.tv_sec, nanoseconds: u32::try_from(time.tv_nsec).unwrap_or(0) }
}

fn unexpected(what: &str) -> VolumeError {
    tracing::error!(what, "the agent gave another kind of answer");
    VolumeError::Io
}

/// How long the kernel may believe what it hears of a node, and of the name that led to it.
fn valid(ino: Ino) -> Duration {
    if grid::is_past(at(ino)) { PAST_VALID } else { NOT_AT_ALL }
}

fn at(ino: Ino) -> grid::Ino {
    grid::Ino(ino.0)
}

impl Inner {
    async fn call(
        &self,
        name: Option<RequestName>,
        call: Call,
        payload: Bytes,
    ) -> Outcome<(Answer, Bytes)> {
        match self.line.call(name, call, payload).await {
            Ok((Answer::Fault(why), _)) => Err(fault(why)),
            Ok(reply) => Ok(reply),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "a call cannot be made");
                Err(VolumeError::Io)
            }
        }
    }

    /// Returns when all that was answered is durable.
    async fn sync(&self) -> Outcome<()> {
        match self.options.delegate {
            true => self.done(None, Call::Sync).await,
            false => Ok(()),
        }
    }

    async fn done(&self, name: Option<RequestName>, call: Call) -> Outcome<()> {
        self.call(name, call, Bytes::new()).await.map(drop)
    }

    /// A node as the volume has it, so that what waits can be laid over it: asked again if bytes were stored
    /// meanwhile, since then it may be from before that.
    async fn fresh(&self, call: Call) -> Outcome<grid::Node> {
        for _ in 0..ASKED_AGAIN_MAX {
            let epoch = self.dirty.epoch();
            let node = self.node(None, call.clone()).await?;
            if self.dirty.epoch() == epoch || !matches!(node.kind, grid::NodeKind::File { .. }) {
                return Ok(node);
            }
        }
        self.node(None, call).await
    }

    async fn node(&self, name: Option<RequestName>, call: Call) -> Outcome<grid::Node> {
        match self.call(name, call, Bytes::new()).await? {
            (Answer::Node(node), _) => Ok(*node),
            _ => Err(unexpected("for a node")),
        }
    }

    /// Attributes as programs are to see them: with what waits.
    fn known(&self, node: &grid::Node) -> Outcome<Known> {
        let mut attributes = attributes(node, &self.options)?;
        if let Some(waiting) = self.dirty.waiting(attributes.ino) {
            attributes.size = attributes.size.max(waiting.end);
            attributes.blocks = attributes.blocks.max(attributes.size.div_ceil(512));
            attributes.modified = attributes.modified.max(waiting.modified);
            attributes.changed = attributes.changed.max(waiting.modified);
        }
        let valid = valid(attributes.ino);
        self.shown.lock().note(attributes);
        Ok(Known { attributes, valid })
    }

    /// As [`Inner::known`], of a node that is asked for by its number. The kernel has just looked it up by name, or has
    /// had it for long; if its last name went since, it is shown as it was, without names, like on a local disk.
    async fn known_by_number(&self, ino: Ino) -> Outcome<Known> {
        match self.fresh(Call::Node(at(ino))).await {
            Ok(node) => self.known(&node),
            Err(error @ (VolumeError::Stale | VolumeError::NotFound)) => {
                let was = self.shown.lock().of(ino).ok_or(error)?;
                Ok(Known { attributes: Attributes { links: 0, ..was }, valid: NOT_AT_ALL })
            }
            Err(error) => Err(error),
        }
    }

    fn entry(&self, node: &grid::Node) -> Outcome<Entry> {
        let known = self.known(node)?;
        Ok(Entry { known, generation: 0, name_valid: known.valid })
    }

    async fn listed(
        &self,
        dir: Ino,
        after: Cookie,
        max: usize,
    ) -> Outcome<Vec<(Vec<u8>, grid::Node, u64)>> {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let (mut after, mut again) = (after.0, 0);
        loop {
            let epoch = self.dirty.epoch();
            let call = Call::List(at(dir), after, max);
            let (Answer::Listed(mut entries), _) = self.call(None, call, Bytes::new()).await?
            else {
                return Err(unexpected("for a listing"));
            };
            if self.dirty.epoch() != epoch && again < ASKED_AGAIN_MAX {
                again += 1;
                continue;
            }
            let Some(last) = entries.last().map(|(_, _, cookie)| *cookie) else {
                return Ok(entries);
            };
            // What was removed before it had a number is left out; the listing goes on behind it.
            entries.retain(|(_, node, _)| node.ino.is_some());
            if !entries.is_empty() {
                return Ok(entries);
            }
            after = last;
        }
    }

    /// Has the kernel read a file's pages anew: another mount may have written what is locked from now on. What
    /// programs changed in those pages, through `mmap`, it writes here first.
    async fn forget_pages(&self, ino: Ino, offset: u64) {
        if let Some(notices) = self.notices.get() {
            notices.tell(Notice::Data { ino, offset, length: None }).await;
        }
    }

    async fn read(&self, ino: Ino, offset: u64, length: u64) -> Outcome<Bytes> {
        // Copied first: what is stored meanwhile is then read below, or was copied here.
        let (over, end) = self.dirty.overlay(ino, offset, length)?;
        if let [(first, bytes)] = over.as_slice()
            && *first == offset
            && bytes.len() as u64 == length
        {
            return Ok(bytes.clone());
        }
        let (_, stored) =
            self.call(None, Call::Read(at(ino), offset, length), Bytes::new()).await?;
        if over.is_empty() && end <= offset + stored.len() as u64 {
            return Ok(stored);
        }
        let shown = end.saturating_sub(offset).min(length).max(stored.len() as u64);
        let mut bytes = BytesMut::from(stored.as_ref());
        bytes.resize(usize::try_from(shown).map_err(|_| VolumeError::Invalid)?, 0);
        for (first, piece) in over {
            let from = (first - offset) as usize;
            if let Some(place) = bytes.get_mut(from..from + piece.len()) {
                place.copy_from_slice(&piece);
            }
        }
        Ok(bytes.freeze())
    }

    /// Sets attributes and size, all or none.
    async fn set(
        self: &Arc<Self>,
        name: Option<RequestName>,
        ino: Ino,
        change: grid::AttrsChange,
        size: Option<u64>,
    ) -> Outcome<Known> {
        let call = Call::SetAttrs(at(ino), change, size);
        let has_times = change.modified.is_some() || change.accessed.is_some();
        if size.is_none() && !has_times {
            let before = self.dirty.epoch();
            let node = self.node(name, call).await?;
            return match self.dirty.epoch() == before {
                true => self.known(&node),
                false => self.known(&self.fresh(Call::Node(at(ino))).await?),
            };
        }
        let inner = Arc::clone(self);
        detached(async move {
            let _turn = inner.files.storing(ino).await;
            if has_times {
                // Bytes that are stored later would set times anew.
                inner.store_alone(ino).await?;
            }
            let node = inner.node(name, call).await?;
            if let Some(size) = size {
                inner.dirty.cut(ino, size)?;
            }
            inner.known(&node)
        })
        .await
    }

    /// From now on the agent is told what is open when it greets; of a daemon that follows another at once.
    fn say_open(self: &Arc<Self>) {
        let mut greetings = self.line.greetings();
        if self.lease.is_some() {
            greetings.mark_changed();
        }
        tokio::spawn(say_open(Arc::downgrade(self), greetings));
    }

    async fn hold_again(&self) {
        tracing::error!(
            "the grid had given up this mount: locks are lost, files that are open may be"
        );
        for ino in self.files.all_open() {
            let _turn = self.files.holding(ino).await;
            if let Err(error) = self.node(None, Call::Hold(at(ino))).await {
                tracing::error!(ino = ino.0, %error, "an open file is lost");
            }
        }
    }

    /// Notes that a file is open, and holds it.
    async fn opened(
        self: &Arc<Self>,
        ino: Ino,
        handle: Handle,
        flags: OpenFlags,
        is_held: bool,
    ) -> Outcome<Opened> {
        let mut opening = Opening { inner: Arc::clone(self), handle, is_open: false };
        let turn = self.files.holding(ino).await;
        if self.files.open(ino, handle, flags) && !is_held {
            self.node(None, Call::Hold(at(ino))).await?;
        }
        opening.is_open = true;
        drop(turn);
        let loan = self.line.loan(&grid::Question::Node(at(ino)));
        let keep_pages = self.files.may_keep_pages(ino, handle, loan) || grid::is_past(at(ino));
        Ok(Opened { keep_pages, direct: false })
    }
}

/// An open file that is let go again if its program was killed meanwhile, or it cannot be held.
struct Opening {
    inner: Arc<Inner>,
    handle: Handle,
    is_open: bool,
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.is_open {
            let (inner, handle) = (Arc::clone(&self.inner), self.handle);
            tokio::spawn(async move { inner.let_go(handle).await });
        }
    }
}
