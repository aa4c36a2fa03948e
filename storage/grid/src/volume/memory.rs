//! What a mount remembers of its bucket's group's answers (`nexusgrid_meta::host::Memory`): who asks, and who hears
//! the news.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use nexusgrid_meta::host::{FactId, Watched};
use nexusgrid_meta::limits::WATCH_PAUSE;

use super::lease::Lease;
use crate::core::Core;
use crate::meta_port::{Answered, MetaError};

/// Calls the group's leader for news while someone has the lease.
pub(super) async fn follow(lease: Weak<Lease>, core: Arc<Core>) {
    let upgrade = || lease.upgrade().filter(|lease| !lease.has_ended());
    loop {
        let Some(live) = upgrade() else { return };
        let called = core.env.clock.now();
        let group = live.group();
        let call = live.memory().call(live.mount().0, called, core.env.rng.as_ref());
        // Not held while the call is.
        drop(live);
        let watched = core.meta.watch(group, call).await;
        let Some(live) = upgrade() else { return };
        match watched {
            Ok(watched) => {
                let is_stranger = watched == Watched::Stranger;
                live.memory().hear(call, called, watched);
                live.delegation().look();
                // The next call says that this was heard: by whoever believes what it was lent as well.
                live.lending().settle(core.env.clock.as_ref()).await;
                drop(live);
                if is_stranger {
                    core.env.clock.sleep(WATCH_PAUSE).await;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a mount hears no news");
                drop(live);
                core.env.clock.sleep(WATCH_PAUSE).await;
            }
        }
    }
}

/// An answer.
pub(super) struct Recalled {
    /// As encoded.
    pub(super) answer: Bytes,
    /// Whether it was remembered.
    pub(super) was_known: bool,
    /// It is remembered now.
    pub(super) fact: Option<FactId>,
}

/// The answer to a question of a mount, from its memory if it can be had there.
pub(super) async fn ask(core: &Core, lease: &Lease, query: Vec<u8>) -> Result<Recalled, MetaError> {
    let memory = lease.memory();
    let asking = match memory.recall(&query, core.env.clock.now()) {
        Ok((answer, fact)) => return Ok(Recalled { answer, was_known: true, fact: Some(fact) }),
        Err(asking) => asking,
    };
    let by = asking.map(|asking| asking.by);
    let answered = core.meta.remember(lease.group(), by, query.clone()).await?;
    let Answered { answer, fact, touched } = answered;
    let answer = Bytes::from(answer);
    let fact = match asking.zip(fact) {
        Some((asking, fact)) => memory.keep(asking, query, answer.clone(), fact),
        None => None,
    };
    // Of another time of remembering these are other numbers; then all is forgotten since anyway.
    if by.is_some() && memory.by() == by {
        memory.forget(touched);
    }
    Ok(Recalled { answer, was_known: false, fact })
}
