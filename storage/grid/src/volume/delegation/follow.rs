//! Who asks for a mount's bucket, says what the mount did there, and gives it back.

use std::sync::{Arc, Weak};

use nexusgrid_meta::host::Touched;
use nexusgrid_meta::namespace::speculate;
use nexusgrid_meta::namespace::types::{
    NamespaceAnswer, NamespaceCommand, NamespaceError, NamespaceOk, NamespaceQuery,
    decode_query_reply,
};

use super::{Delegation, Phase, is_ours, is_sure};
use crate::core::Core;
use crate::limits;
use crate::meta_port::{CommandId, MetaError, PortError};
use crate::volume::lease::Lease;
use crate::volume::memory;

/// Works while someone has the lease, and until all is said.
pub(in super::super) async fn follow(lease: Weak<Lease>, core: Arc<Core>) {
    loop {
        let Some(live) = lease.upgrade() else { return };
        let delegation = live.delegation();
        if live.has_ended() {
            delegation.begin_leaving();
        }
        let goes_on = delegation.work_once(&live, &core).await;
        if live.has_ended() && !goes_on {
            return;
        }
        if goes_on {
            continue;
        }
        let work = delegation.work.notified();
        tokio::pin!(work);
        work.as_mut().enable();
        // Looked at in steps, so that a mount that has ended does not stay for long.
        tokio::select! {
            biased;
            () = work => {}
            () = core.env.clock.sleep(limits::DELEGATION_LOOK) => {}
        }
    }
}

impl Delegation {
    /// A program has changed something through the group: perhaps the bucket is worth having.
    pub(in super::super) fn note_change(&self, lease: &Lease) {
        if !self.is_wanted() {
            return;
        }
        let now = lease.now();
        let mut state = self.state.lock();
        let is_close = now.since(state.used) < limits::DELEGATION_PAUSE_MAX;
        state.changes = if is_close { state.changes.saturating_add(1) } else { 1 };
        state.used = now;
        if state.changes >= limits::DELEGATION_AFTER && now >= state.not_before {
            self.work.notify_one();
        }
    }

    fn begin_leaving(&self) {
        let mut state = self.state.lock();
        if let Phase::Held(grant) = state.phase {
            state.phase = Phase::Leaving(grant);
        }
    }

    /// One piece of work; whether there is more.
    async fn work_once(&self, lease: &Lease, core: &Core) -> bool {
        let phase = self.state.lock().phase;
        match phase {
            Phase::Without => {
                let now = lease.now();
                let is_due = {
                    let state = self.state.lock();
                    state.changes >= limits::DELEGATION_AFTER && now >= state.not_before
                };
                if is_due && self.is_wanted() && !lease.has_ended() {
                    self.begin(lease, core).await;
                }
                false
            }
            Phase::Held(grant) if !is_sure(lease, grant) => {
                self.verify(lease, grant).await;
                let phase = self.state.lock().phase;
                phase == Phase::Leaving(grant) || self.is_still(grant) && is_sure(lease, grant)
            }
            Phase::Held(grant) => {
                let (is_empty, is_due, idle) = {
                    let state = self.state.lock();
                    let idle = lease.now().since(state.used);
                    (state.log.is_empty(), state.log.is_due(), idle)
                };
                if is_empty {
                    if idle < limits::DELEGATION_IDLE {
                        return false;
                    }
                    self.begin_leaving();
                    return true;
                }
                if !is_due {
                    self.linger(core).await;
                }
                self.say(lease, core, grant, limits::STEPS_AT_ONCE).await
            }
            Phase::Leaving(grant) => self.say(lease, core, grant, limits::STEPS_AT_ONCE).await,
        }
    }

    fn is_still(&self, grant: u64) -> bool {
        self.state.lock().phase == Phase::Held(grant)
    }

    /// More may come that is said with what there is.
    async fn linger(&self, core: &Core) {
        let until = core.env.clock.now().plus(limits::STEPS_LINGER);
        loop {
            let work = self.work.notified();
            tokio::pin!(work);
            work.as_mut().enable();
            {
                let state = self.state.lock();
                if state.log.is_due() || !matches!(state.phase, Phase::Held(_)) {
                    return;
                }
            }
            let left = until.since(core.env.clock.now());
            if left.is_zero() {
                return;
            }
            tokio::select! {
                biased;
                () = work => {}
                () = core.env.clock.sleep(left) => {}
            }
        }
    }

    /// Asks for the bucket.
    async fn begin(&self, lease: &Lease, core: &Core) {
        // What goes to the group as it is must have come back: what is known from now on is not older.
        let _all = self.gate.write().await;
        if let Err(error) = self.begin_now(lease, core).await {
            // Perhaps it was given, and nobody here knows.
            while !matches!(error, MetaError::Namespace(_)) && !lease.has_ended() {
                match lease.take_back().await {
                    Ok(()) => break,
                    Err(error) => tracing::debug!(%error, "a bucket cannot be given back"),
                }
                lease.sleep(limits::DELEGATION_LOOK).await;
            }
            let mut state = self.state.lock();
            state.changes = 0;
            state.not_before = lease.now().plus(state.backoff);
            state.backoff = (state.backoff * 2).min(limits::DELEGATION_BACKOFF_MAX);
            tracing::debug!(%error, "the bucket is not this mount's alone");
        }
    }

    async fn begin_now(&self, lease: &Lease, core: &Core) -> Result<(), MetaError> {
        let mount = lease.mount();
        let command = NamespaceCommand::Delegate { mount };
        let NamespaceOk::Delegated(grant) = lease.command_by(None, &command).await? else {
            return Err(MetaError::Reply("a delegation"));
        };
        lease.drop_numbers();
        {
            let mut state = self.state.lock();
            state.phase = Phase::Held(grant);
            state.used = lease.now();
            state.held_since = lease.now();
            state.figures.given += 1;
        }
        let query = NamespaceQuery::Delegation { bucket: lease.bucket() }.encode();
        let recalled = memory::ask(core, lease, query).await;
        let is_ours = recalled.is_ok_and(|recalled| is_ours(lease, grant, &recalled.answer));
        if !is_ours || !is_sure(lease, grant) || !self.is_wanted() {
            self.give_way(lease, grant);
        }
        Ok(())
    }

    /// Asks the group whether the bucket is the mount's still, so that it remembers that it is.
    pub(super) async fn verify(&self, lease: &Lease, grant: u64) {
        let _one = self.verifying.lock().await;
        if !self.is_still(grant) || is_sure(lease, grant) {
            return;
        }
        let query = NamespaceQuery::Delegation { bucket: lease.bucket() };
        let Ok(recalled) = memory::ask(lease.core(), lease, query.encode()).await else {
            lease.sleep(limits::DELEGATION_LOOK).await;
            return;
        };
        match decode_query_reply(&recalled.answer) {
            Ok(Ok(NamespaceAnswer::Delegation(Some((mount, held, is_recalled)))))
                if mount == lease.mount() && held == grant =>
            {
                if is_recalled {
                    self.give_way(lease, grant);
                } else if !is_sure(lease, grant) {
                    // No leader knows this mount at this moment.
                    lease.sleep(limits::DELEGATION_LOOK).await;
                }
            }
            Ok(Ok(_)) => self.begin_leaving_of(grant),
            _ => lease.sleep(limits::DELEGATION_LOOK).await,
        }
    }

    /// Others need it: it is asked for again some time later.
    fn give_way(&self, lease: &Lease, grant: u64) {
        {
            let mut state = self.state.lock();
            let now = lease.now();
            if now.since(state.held_since) > limits::DELEGATION_BACKOFF_MAX {
                state.backoff = limits::DELEGATION_BACKOFF_MIN;
            }
            state.not_before = now.plus(state.backoff);
            state.backoff = (state.backoff * 2).min(limits::DELEGATION_BACKOFF_MAX);
        }
        self.begin_leaving_of(grant);
    }

    /// Says the first steps, at most so many, and gives the bucket back with the last ones if it is to be; whether there is
    /// more to be said.
    async fn say(&self, lease: &Lease, core: &Core, grant: u64, most: usize) -> bool {
        let mut most = most;
        loop {
            let (count, steps, gives_back) = {
                let state = self.state.lock();
                let count = state.log.batch(most);
                let is_last = count == state.log.len();
                let gives_back = is_last && state.phase == Phase::Leaving(grant);
                (count, state.log.first(count), gives_back)
            };
            if gives_back {
                // Nothing that rests on its being the mount's is believed when it is not.
                let mark = speculate::delegation_mark(lease.bucket());
                lease.memory().forget(Touched::Marks(vec![mark]));
                lease.lending().settle(core.env.clock.as_ref()).await;
            }
            let mount = lease.mount();
            let command = NamespaceCommand::Steps { mount, grant, steps, gives_back };
            match self.say_once(lease, core, &command).await {
                Ok(NamespaceOk::Stepped(refused)) => {
                    self.was_said(lease, (grant, count), refused, gives_back);
                    return !gives_back && !self.state.lock().log.is_empty();
                }
                Err(NamespaceError::TooLarge) if count > 1 => most = count / 2,
                Err(NamespaceError::TooLarge) if count == 1 => {
                    let refused = vec![(0, NamespaceError::TooLarge)];
                    self.was_said(lease, (grant, 1), refused, false);
                    return true;
                }
                // It is not the mount's any more, or there is no such mount.
                other => {
                    tracing::error!(?other, "what a mount did alone is refused");
                    self.lose(lease, grant);
                    return false;
                }
            }
        }
    }

    /// Says something until its outcome is known: under one name, so that it happens once.
    async fn say_once(
        &self,
        lease: &Lease,
        core: &Core,
        command: &NamespaceCommand,
    ) -> Result<NamespaceOk, NamespaceError> {
        let mut id = [0; 16];
        core.env.rng.fill(&mut id);
        loop {
            match lease.command_by(Some(CommandId(id)), command).await {
                Ok(done) => return Ok(done),
                Err(MetaError::Namespace(error)) => return Err(error),
                // Too long for whoever carries it.
                Err(MetaError::Port(PortError::Refused(why))) => {
                    tracing::warn!(why, "what a mount did cannot be said at once");
                    return Err(NamespaceError::TooLarge);
                }
                Err(error) => {
                    tracing::warn!(%error, "what a mount did cannot be said to the group");
                    core.env.clock.sleep(limits::DELEGATION_LOOK).await;
                }
            }
        }
    }

    fn was_said(
        &self,
        lease: &Lease,
        (grant, count): (u64, usize),
        refused: Vec<(u32, NamespaceError)>,
        gives_back: bool,
    ) {
        let mut state = self.state.lock();
        state.figures.commands += 1;
        let mut refused = refused.into_iter().peekable();
        for (at, taken) in (0u32..).zip(state.log.was_said(count)) {
            let error = refused.next_if(|(place, _)| *place == at).map(|(_, error)| error);
            let Some(waits) = taken.waits else {
                if let Some(error) = error {
                    let op = std::mem::discriminant(&taken.step.op);
                    tracing::error!(%error, ?op, "a step was answered and is refused");
                    state.figures.lost += 1;
                    state.lost_at = Some(lease.now());
                    self.begin_anew(&mut state, grant);
                }
                continue;
            };
            if error.is_some() {
                // What is known here rests on it.
                self.begin_anew(&mut state, grant);
            }
            // Fine if nobody waits any more.
            drop(waits.send(error.map_or(Ok(()), Err)));
        }
        if gives_back {
            self.is_without(&mut state);
        }
        self.changed.notify_waiters();
    }

    fn begin_anew(&self, state: &mut super::State, grant: u64) {
        if state.phase == Phase::Held(grant) {
            state.phase = Phase::Leaving(grant);
            self.work.notify_one();
        }
    }
}
