//! Write sessions: one per process and metadata group, leased; and the pins of running reads.
//!
//! ```text
//!            open                     renew every lease/3
//!  (none) ─────────▶ Open{id, until} ─────────────────────▶ Open{id, later}
//!     ▲                    │ lease over · suspend jump · group says closed · counter used up
//!     └────────────────────┘
//! ```
//!
//! What a failed write leaves behind is garbage only once its session is closed, and what a drive must
//! remember of deleted blocks shrinks only below the oldest open one. So a session is followed by
//! another after a while, if anybody asks for one; it is closed when the last write of it has ended.
//!
//! Block ids are session ‖ counter: never reused, because sessions never are (I14) and the counter
//! only grows in memory; a process that restarts opens another session. A lease is counted from
//! *before* the group was asked, on a clock that counts suspend, so that this side never believes
//! longer than the group does. No correctness rests on it: the group decides at commit (I4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nexusgrid_codec::{BlockId, GroupId, SessionId};
use nexusgrid_env::{BootInstant, Env, NodeId};
use nexusgrid_meta::namespace::types::{NamespaceCommand, NamespaceOk};
use parking_lot::Mutex;

use crate::error::GridError;
use crate::meta_port::{MetaClient, MetaError};

/// How sessions are leased.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// A session that is not renewed for so long is closed by its group; default 60 s.
    pub lease: Duration,
    /// A read that lasts longer than this is reported as a pin, so that what it reads is kept
    /// beyond the reader horizon; default 2 min.
    pub pin_after: Duration,
    /// A session is followed by another after so long; default 1 h.
    pub rotate_after: Duration,
}

impl Default for SessionOptions {
    fn default() -> SessionOptions {
        SessionOptions {
            lease: Duration::from_secs(60),
            pin_after: Duration::from_secs(120),
            rotate_after: Duration::from_secs(3600),
        }
    }
}

/// An open session.
pub(crate) struct Session {
    pub(crate) group: GroupId,
    pub(crate) id: SessionId,
    counter: AtomicU32,
    jumps: u64,
    opened: BootInstant,
    until: Mutex<BootInstant>,
}

impl Session {
    /// A block id that nobody has; `None` when the session's are used up.
    pub(crate) fn next_block(&self) -> Option<BlockId> {
        let next = |counter: u32| counter.checked_add(1);
        let counter = self.counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok()?;
        Some(BlockId { group: self.group, session: self.id, counter })
    }

    fn used_up(&self) -> bool {
        self.counter.load(Ordering::Relaxed) == u32::MAX
    }
}

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Renewed {
    /// Its group says that it holds.
    Heard,
    /// It holds, as far as is known.
    Held,
    /// Its group closed it.
    Lost,
}

/// All sessions and pins of one process.
pub(crate) struct Sessions {
    env: Env,
    meta: MetaClient,
    node: NodeId,
    options: SessionOptions,
    open: Mutex<BTreeMap<GroupId, Arc<Session>>>,
    /// Followed by another, but writes of it may be under way.
    retiring: Mutex<Vec<Arc<Session>>>,
    opening: tokio::sync::Mutex<()>,
    pins: Arc<Mutex<Pins>>,
    next_pin: Mutex<u64>,
}

/// Reads in progress: group, begin in ms of this process's clock, and a number of their own.
type Pins = BTreeMap<(GroupId, u64, u64), ()>;

/// A read in progress; ends when dropped.
pub(crate) struct Pin {
    pins: Arc<Mutex<Pins>>,
    key: (GroupId, u64, u64),
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.lock().remove(&self.key);
    }
}

impl Sessions {
    pub(crate) fn new(
        env: Env,
        meta: MetaClient,
        node: NodeId,
        options: SessionOptions,
    ) -> Arc<Sessions> {
        Arc::new(Sessions {
            env,
            meta,
            node,
            options,
            open: Mutex::default(),
            retiring: Mutex::default(),
            opening: tokio::sync::Mutex::new(()),
            pins: Arc::default(),
            next_pin: Mutex::new(0),
        })
    }

    /// The session with a group; opens one if there is none that still holds.
    pub(crate) async fn get(&self, group: GroupId) -> Result<Arc<Session>, GridError> {
        if let Some(session) = self.held(group) {
            return Ok(session);
        }
        let _opening = self.opening.lock().await;
        if let Some(session) = self.held(group) {
            return Ok(session);
        }
        let jumps = self.jumps();
        let asked_at = self.env.clock.now();
        let command = NamespaceCommand::OpenSession {
            node: self.node,
            lease_ms: millis(self.options.lease),
            now_ms: self.meta.now_ms(),
        };
        let NamespaceOk::Session(row) = self.meta.command(group, &command).await? else {
            return Err(GridError::Internal("open session".to_owned()));
        };
        let session = Arc::new(Session {
            group,
            id: row.id,
            counter: AtomicU32::new(0),
            jumps,
            opened: asked_at,
            until: Mutex::new(asked_at.plus(self.options.lease)),
        });
        self.open.lock().insert(group, Arc::clone(&session));
        Ok(session)
    }

    /// Gives a session up: its group, or a drive, says that it is closed.
    pub(crate) fn forget(&self, session: &Session) {
        self.open.lock().retain(|_, open| open.group != session.group || open.id != session.id);
    }

    fn held(&self, group: GroupId) -> Option<Arc<Session>> {
        let mut open = self.open.lock();
        let session = open.get(&group)?;
        let holds = session.jumps == self.jumps()
            && self.env.clock.now() < *session.until.lock()
            && !session.used_up();
        if !holds {
            open.remove(&group);
            return None;
        }
        Some(Arc::clone(session))
    }

    fn jumps(&self) -> u64 {
        *self.env.clock.suspend_jumps().borrow()
    }

    /// Notes that a read of a group's contents begins.
    pub(crate) fn pin(&self, group: GroupId) -> Pin {
        let mut next = self.next_pin.lock();
        *next += 1;
        let key = (group, millis(self.env.clock.now().0), *next);
        self.pins.lock().insert(key, ());
        Pin { pins: Arc::clone(&self.pins), key }
    }

    /// When the oldest read of a group began, if the wall clock was then what it is now.
    fn oldest_pin(&self, group: GroupId, now_ms: u64) -> Option<u64> {
        let pins = self.pins.lock();
        let (first, _) = pins.range((group, 0, 0)..).next()?;
        let age = millis(self.env.clock.now().0).saturating_sub(first.1);
        (first.0 == group).then_some(now_ms.saturating_sub(age))
    }

    /// Renews sessions and reports pins, until the agent stops.
    pub(crate) async fn keep(self: Arc<Sessions>) {
        let mut jumps = self.env.clock.suspend_jumps();
        loop {
            tokio::select! {
                biased;
                changed = jumps.changed() => if changed.is_err() { return },
                () = self.env.clock.sleep(self.options.lease / 3) => {}
            }
            self.rotate();
            let pinned = self.pin_long_reads().await;
            let open: Vec<Arc<Session>> = self.open.lock().values().cloned().collect();
            let mut renewed = BTreeSet::new();
            for session in open {
                if self.renew(&session).await {
                    renewed.insert(session.group);
                }
            }
            self.retire(&renewed, &pinned).await;
        }
    }

    /// Takes sessions that were used long enough out of use: also those that only deleted, for the
    /// floor below which all are closed (R6) stays below every open one.
    fn rotate(&self) {
        let now = self.env.clock.now();
        let is_due = |session: &Session| now.since(session.opened) >= self.options.rotate_after;
        let mut open = self.open.lock();
        let due: Vec<GroupId> =
            open.iter().filter(|(_, session)| is_due(session)).map(|(group, _)| *group).collect();
        let rotated = due.into_iter().filter_map(|group| open.remove(&group));
        self.retiring.lock().extend(rotated);
    }

    /// Closes retired sessions that nobody writes in any more, and renews the others. Where long
    /// reads are `pinned`, it stays until another session, of `renewed`, has reported them.
    async fn retire(&self, renewed: &BTreeSet<GroupId>, pinned: &BTreeSet<GroupId>) {
        let retiring = std::mem::take(&mut *self.retiring.lock());
        for session in retiring {
            // Nobody can get hold of it again: it is in no map.
            let is_idle = Arc::strong_count(&session) == 1
                && (renewed.contains(&session.group) || !pinned.contains(&session.group));
            let is_gone = if is_idle {
                self.close(&session).await.is_ok()
            } else {
                self.renew_now(&session).await == Renewed::Lost
            };
            if !is_gone {
                self.retiring.lock().push(session);
            }
        }
    }

    async fn close(&self, session: &Session) -> Result<(), MetaError> {
        let command =
            NamespaceCommand::CloseSession { session: session.id, now_ms: self.meta.now_ms() };
        self.meta.command(session.group, &command).await.map(drop)
    }

    /// A pin needs a session to be reported with. Gives the groups with long reads.
    async fn pin_long_reads(&self) -> BTreeSet<GroupId> {
        let long_ago =
            millis(self.env.clock.now().0).saturating_sub(millis(self.options.pin_after));
        let groups: BTreeSet<GroupId> = {
            let pins = self.pins.lock();
            pins.keys().filter(|(_, since, _)| *since < long_ago).map(|key| key.0).collect()
        };
        for group in &groups {
            // Failing, it is tried again in a third of a lease, long before the horizon.
            let _ = self.get(*group).await;
        }
        groups
    }

    /// Whether its group has heard of the pins.
    async fn renew(&self, session: &Arc<Session>) -> bool {
        if self.held(session.group).is_none() {
            return false;
        }
        let renewed = self.renew_now(session).await;
        if renewed == Renewed::Lost {
            self.forget(session);
        }
        renewed == Renewed::Heard
    }

    async fn renew_now(&self, session: &Arc<Session>) -> Renewed {
        let asked_at = self.env.clock.now();
        let now_ms = self.meta.now_ms();
        let command = NamespaceCommand::RenewSession {
            session: session.id,
            oldest_pin_ms: self.oldest_pin(session.group, now_ms),
            now_ms,
        };
        match self.meta.command(session.group, &command).await {
            Ok(_) => {
                *session.until.lock() = asked_at.plus(self.options.lease);
                Renewed::Heard
            }
            Err(MetaError::Namespace(error)) => {
                tracing::warn!(group = session.group.0, session = session.id.0, %error, "write session lost");
                Renewed::Lost
            }
            // Unavailable: the lease still holds; the next round tries again.
            Err(_) => Renewed::Held,
        }
    }

    /// Closes all sessions, for a clean shutdown.
    pub(crate) async fn close_all(&self) {
        let open = std::mem::take(&mut *self.open.lock());
        let retiring = std::mem::take(&mut *self.retiring.lock());
        for session in open.into_values().chain(retiring) {
            let _ = self.close(&session).await;
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
