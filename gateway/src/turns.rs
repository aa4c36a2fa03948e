//! Whose turn it is: slots for requests, shared fairly among those who ask.
//!
//! While slots are free everybody gets one at once. When there are none, requests wait in line with
//! those of their own tenant, and each slot that comes free goes to the tenant that has waited
//! longest for its turn: whoever asks a thousand times waits for itself. A tenant is a key that signed
//! a request here lately, with the address that says it is that key's: who knows another's key id
//! stands in a line of its own. All others share one line, so that made-up names win nothing.
//!
//! State: lines, and who signed lately. Invariant: a slot is held by one [`Slot`], or free.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::limits;

/// A slot; given back when it is dropped.
pub(crate) struct Slot {
    /// `None`: somebody else has it.
    turns: Option<Turns>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.give_back();
        }
    }
}

/// What a request holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Its slot among all requests.
    pub request: Option<Slot>,
    /// Its slot among listings, if it is one, until its page is there.
    pub listing: Option<Slot>,
}

/// The slots of a gateway.
#[derive(Clone)]
pub(crate) struct Lines {
    /// For all requests.
    pub requests: Turns,
    /// For pages of listings, each of which is a millisecond of computation: few at a time, so that
    /// processors are left for what is asked meanwhile.
    pub listings: Turns,
    /// How long to wait for one.
    pub wait: Duration,
}

impl Lines {
    /// Waits for the turn of a listing of `account`. Meanwhile it is in nobody's way: it gives its
    /// slot among all requests back, and gets one again. False: it is not to be, for now.
    pub async fn list(&self, account: Option<&str>, held: &Mutex<Held>) -> bool {
        *held.lock() = Held::default();
        let turn = async {
            let listing = self.listings.take_as(account).await?;
            let request = self.requests.take_as(account).await?;
            Some(Held { request: Some(request), listing: Some(listing) })
        };
        match tokio::time::timeout(self.wait, turn).await {
            Ok(Some(turn)) => {
                *held.lock() = turn;
                true
            }
            Ok(None) | Err(_) => false,
        }
    }
}

#[derive(Default)]
struct State {
    free: usize,
    /// Those that wait, by tenant.
    lines: BTreeMap<String, VecDeque<oneshot::Sender<Slot>>>,
    /// Tenants with a line, in order of their turns.
    order: VecDeque<String>,
    waiting: usize,
    /// Keys that signed lately, in two generations.
    seen: [BTreeMap<String, ()>; 2],
}

impl State {
    /// Takes those out of the lines that do not wait any more.
    fn forget_gone(&mut self) {
        for line in self.lines.values_mut() {
            line.retain(|waiting| !waiting.is_closed());
        }
        self.lines.retain(|_, line| !line.is_empty());
        self.order.retain(|tenant| self.lines.contains_key(tenant));
        self.waiting = self.lines.values().map(VecDeque::len).sum();
    }
}

/// The slots of one gateway; cheap to clone.
#[derive(Clone)]
pub(crate) struct Turns {
    state: Arc<Mutex<State>>,
}

impl Turns {
    pub fn new(slots: usize) -> Turns {
        Turns { state: Arc::new(Mutex::new(State { free: slots, ..State::default() })) }
    }

    /// Notes that a key's signature was right.
    pub fn signed(&self, key: &str) {
        let mut state = self.state.lock();
        if state.seen[0].contains_key(key) {
            return;
        }
        if state.seen[0].len() >= limits::TENANTS_SEEN_MAX {
            let older = std::mem::take(&mut state.seen[0]);
            state.seen[1] = older;
        }
        state.seen[0].insert(key.to_owned(), ());
    }

    /// A slot for a request from `peer` that says it is signed by `key`; `None` if too many wait
    /// already.
    pub async fn take(&self, key: Option<&str>, peer: Option<IpAddr>) -> Option<Slot> {
        let line = |state: &State| {
            let is_known =
                |key: &&str| state.seen.iter().any(|generation| generation.contains_key(*key));
            key.filter(is_known).map_or_else(String::new, |key| match peer {
                Some(peer) => format!("{key} {peer}"),
                None => key.to_owned(),
            })
        };
        self.wait_in(line).await
    }

    /// A slot for a request that is known to be of this account, or of nobody; `None` if too many
    /// wait already.
    pub async fn take_as(&self, account: Option<&str>) -> Option<Slot> {
        // No key has a name like this.
        self.wait_in(|_| account.map_or_else(String::new, |account| format!("= {account}"))).await
    }

    async fn wait_in(&self, line: impl FnOnce(&State) -> String) -> Option<Slot> {
        let turn = {
            let mut state = self.state.lock();
            if state.free > 0 {
                state.free -= 1;
                return Some(Slot { turns: Some(self.clone()) });
            }
            let tenant = line(&state);
            let is_full = |state: &State| {
                let line = state.lines.get(&tenant).map_or(0, VecDeque::len);
                line >= limits::REQUESTS_OF_TENANT_WAITING_MAX
                    || state.waiting >= limits::REQUESTS_WAITING_MAX
            };
            if is_full(&state) {
                state.forget_gone();
                if is_full(&state) {
                    return None;
                }
            }
            let line = state.lines.get(&tenant).map_or(0, VecDeque::len);
            let (sender, turn) = oneshot::channel();
            if line == 0 {
                state.order.push_back(tenant.clone());
            }
            state.lines.entry(tenant).or_default().push_back(sender);
            state.waiting += 1;
            turn
        };
        turn.await.ok()
    }

    /// Passes a slot on to whose turn it is.
    fn give_back(&self) {
        loop {
            let next = {
                let mut state = self.state.lock();
                match state.order.pop_front() {
                    None => {
                        state.free += 1;
                        return;
                    }
                    Some(tenant) => {
                        let mut line = state.lines.remove(&tenant).unwrap_or_default();
                        let next = line.pop_front();
                        if next.is_some() {
                            state.waiting -= 1;
                        }
                        if !line.is_empty() {
                            state.order.push_back(tenant.clone());
                            state.lines.insert(tenant, line);
                        }
                        next
                    }
                }
            };
            let Some(next) = next else { continue };
            // Whoever has gone meanwhile does not take it.
            match next.send(Slot { turns: Some(self.clone()) }) {
                Ok(()) => return,
                // It would give itself back, and so on: the next in line gets it here.
                Err(mut slot) => slot.turns = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn who_asks_often_waits_for_itself() {
        let turns = Turns::new(1);
        for key in ["busy", "calm"] {
            turns.signed(key);
        }
        let held = turns.take(Some("busy"), None).await.unwrap();
        let served = Arc::new(Mutex::new(Vec::new()));
        let ask = |key: &'static str| {
            let (turns, served) = (turns.clone(), Arc::clone(&served));
            async move {
                let slot = turns.take(Some(key), None).await.unwrap();
                served.lock().push(key);
                drop(slot);
            }
        };
        let mut asking: Vec<_> = (0..50).map(|_| tokio::spawn(ask("busy"))).collect();
        tokio::task::yield_now().await;
        asking.extend((0..2).map(|_| tokio::spawn(ask("calm"))));
        tokio::task::yield_now().await;
        drop(held);
        join_all(asking).await;
        let served = served.lock();
        let last = served.iter().rposition(|key| *key == "calm").unwrap();
        assert_eq!(served.len(), 52);
        assert!(last < 5, "{served:?}");
        assert_eq!(turns.state.lock().free, 1);
    }

    #[tokio::test]
    async fn a_listing_waits_for_listings_and_is_in_nobodys_way() {
        let lines = Lines {
            requests: Turns::new(1),
            listings: Turns::new(1),
            wait: Duration::from_secs(5),
        };
        let hold = async || {
            let request = lines.requests.take(None, None).await;
            Mutex::new(Held { request, listing: None })
        };
        let first = hold().await;
        assert!(lines.list(Some("1"), &first).await);
        // Its page is there, the reply goes on.
        let listing = first.lock().listing.take();
        first.lock().request = None;
        let second = hold().await;
        let waiting = {
            let (lines, second) = (lines.clone(), Arc::new(second));
            let held = Arc::clone(&second);
            (tokio::spawn(async move { lines.list(Some("1"), &held).await }), second)
        };
        // Others are served while it waits.
        drop(lines.requests.take(None, None).await.unwrap());
        assert!(waiting.1.lock().listing.is_none());
        drop(listing);
        assert!(waiting.0.await.unwrap());
        assert!(waiting.1.lock().listing.is_some() && waiting.1.lock().request.is_some());
        let lines = Lines { wait: Duration::from_millis(10), ..lines };
        assert!(!lines.list(None, &Mutex::default()).await, "not for ever");
    }

    #[tokio::test]
    async fn made_up_names_share_one_line_and_those_who_leave_lose_nothing() {
        let turns = Turns::new(1);
        turns.signed("real");
        let held = turns.take(None, None).await.unwrap();
        let mut made_up = Vec::new();
        for number in 0..limits::REQUESTS_OF_TENANT_WAITING_MAX {
            let turns = turns.clone();
            made_up.push(tokio::spawn(async move {
                turns.take(Some(&format!("made up {number}")), None).await.is_some()
            }));
        }
        tokio::task::yield_now().await;
        while turns.state.lock().waiting < limits::REQUESTS_OF_TENANT_WAITING_MAX {
            tokio::task::yield_now().await;
        }
        assert!(turns.take(Some("another"), None).await.is_none(), "the line is full");
        let real = turns.clone();
        let real = tokio::spawn(async move { real.take(Some("real"), None).await.is_some() });
        while turns.state.lock().lines.len() < 2 {
            tokio::task::yield_now().await;
        }
        for task in &made_up {
            task.abort();
        }
        join_all(made_up).await;
        drop(held);
        assert!(tokio::time::timeout(Duration::from_secs(5), real).await.unwrap().unwrap());
        let free = turns.take(None, None).await.unwrap();
        drop(free);
        let state = turns.state.lock();
        assert_eq!((state.free, state.waiting), (1, 0));
    }
}
