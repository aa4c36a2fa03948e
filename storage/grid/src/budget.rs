//! One byte budget for all bodies of the process, fair between tenants.
//!
//! State: bytes free, and the waiters of each tenant in order of arrival. Tenants with waiters take
//! turns, one grant each; nobody overtakes the one whose turn it is, so a large request is not
//! starved by small ones. A request reserves *before* it reads its body: what is not reserved is
//! not buffered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::api::Tenant;
use crate::error::GridError;
use crate::limits;

/// The budget; cheap to clone.
#[derive(Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

struct Shared {
    capacity: u64,
    wait: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    free: u64,
    next_waiter: u64,
    waiting: BTreeMap<Tenant, VecDeque<Waiter>>,
    /// Tenants with waiters, in order of their turn.
    turns: VecDeque<Tenant>,
}

struct Waiter {
    id: u64,
    bytes: u64,
    grant: oneshot::Sender<Reservation>,
}

/// Bytes held; given back on drop.
pub struct Reservation {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Budget {
    /// A budget of `capacity` bytes whose waiters give up after `wait`.
    pub fn new(capacity: u64, wait: Duration) -> Budget {
        let state = State { free: capacity, ..State::default() };
        Budget { shared: Arc::new(Shared { capacity, wait, state: Mutex::new(state) }) }
    }

    /// Waits for `bytes` (cut to the capacity) on behalf of `tenant`; `SlowDown` after the budget's
    /// waiting time.
    pub async fn reserve(&self, tenant: &Tenant, bytes: u64) -> Result<Reservation, GridError> {
        let bytes = bytes.min(self.shared.capacity);
        let (waiter, granted) = {
            let mut state = self.shared.state.lock();
            if state.turns.is_empty() && state.free >= bytes {
                state.free -= bytes;
                return Ok(Reservation { shared: Arc::clone(&self.shared), bytes });
            }
            if state.waiting.get(tenant).map_or(0, VecDeque::len)
                >= limits::BUDGET_WAITERS_PER_TENANT_MAX
            {
                return Err(GridError::SlowDown);
            }
            let (grant, granted) = oneshot::channel();
            let id = state.next_waiter;
            state.next_waiter += 1;
            let queue = state.waiting.entry(tenant.clone()).or_default();
            queue.push_back(Waiter { id, bytes, grant });
            if queue.len() == 1 {
                state.turns.push_back(tenant.clone());
            }
            (Departure { shared: &self.shared, tenant, id }, granted)
        };
        let result = tokio::time::timeout(self.shared.wait, granted).await;
        drop(waiter);
        match result {
            Ok(Ok(reservation)) => Ok(reservation),
            Ok(Err(_)) | Err(_) => Err(GridError::SlowDown),
        }
    }

    /// Takes `bytes` if they are free and nobody waits.
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let bytes = bytes.min(self.shared.capacity);
        let mut state = self.shared.state.lock();
        if !state.turns.is_empty() || state.free < bytes {
            return None;
        }
        state.free -= bytes;
        Some(Reservation { shared: Arc::clone(&self.shared), bytes })
    }

    /// Bytes nobody holds.
    pub fn free_bytes(&self) -> u64 {
        self.shared.state.lock().free
    }

    /// All bytes.
    pub fn capacity_bytes(&self) -> u64 {
        self.shared.capacity
    }
}

/// Removes a waiter that gave up (or was granted: then it is gone already), and lets the next in.
struct Departure<'a> {
    shared: &'a Arc<Shared>,
    tenant: &'a Tenant,
    id: u64,
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock();
            if let Some(queue) = state.waiting.get_mut(self.tenant) {
                queue.retain(|waiter| waiter.id != self.id);
                if queue.is_empty() {
                    state.waiting.remove(self.tenant);
                    state.turns.retain(|tenant| tenant != self.tenant);
                }
            }
        }
        grant_waiters(self.shared);
    }
}

/// Grants in turn while bytes last.
fn grant_waiters(shared: &Arc<Shared>) {
    let mut grants = Vec::new();
    {
        let mut state = shared.state.lock();
        while let Some(tenant) = state.turns.front().cloned() {
            let free = state.free;
            let Some(queue) = state.waiting.get_mut(&tenant) else {
                state.turns.pop_front();
                continue;
            };
            let Some(waiter) = queue.pop_front_if(|waiter| waiter.bytes <= free) else {
                break;
            };
            let more = !queue.is_empty();
            state.free -= waiter.bytes;
            state.turns.pop_front();
            if more {
                state.turns.push_back(tenant);
            } else {
                state.waiting.remove(&tenant);
            }
            let reservation = Reservation { shared: Arc::clone(shared), bytes: waiter.bytes };
            grants.push((waiter.grant, reservation));
        }
    }
    // Outside the lock: a waiter that has left drops the reservation, which locks again.
    for (grant, reservation) in grants {
        let _ = grant.send(reservation);
    }
}

impl Reservation {
    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        if surplus > 0 {
            self.bytes -= surplus;
            self.shared.state.lock().free += surplus;
            grant_waiters(&self.shared);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reservation({} bytes)", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        Tenant(name.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn gives_back_on_drop_and_tells_late_waiters_to_slow_down() {
        let budget = Budget::new(100, Duration::from_secs(10));
        let held = budget.reserve(&tenant("a"), 80).await.unwrap();
        let before = tokio::time::Instant::now();
        assert_eq!(budget.reserve(&tenant("b"), 30).await.unwrap_err(), GridError::SlowDown);
        assert_eq!(before.elapsed(), Duration::from_secs(10));
        drop(held);
        assert_eq!(budget.free_bytes(), 100);
        assert_eq!(budget.reserve(&tenant("b"), 1000).await.unwrap().bytes(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn tenants_take_turns() {
        let budget = Budget::new(10, Duration::from_secs(10));
        let held = budget.reserve(&tenant("x"), 10).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        // A greedy tenant queues six requests before a modest one queues two.
        for name in ["greedy", "greedy", "greedy", "greedy", "greedy", "greedy", "modest", "modest"]
        {
            let (budget, order) = (budget.clone(), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let reservation = budget.reserve(&tenant(name), 10).await.unwrap();
                order.lock().push(name);
                tokio::time::sleep(Duration::from_millis(1)).await;
                drop(reservation);
            }));
            tokio::task::yield_now().await;
        }
        drop(held);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(order.lock()[..4], ["greedy", "modest", "greedy", "modest"]);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_overtakes_a_large_request_and_the_abandoned_leave() {
        let budget = Budget::new(10, Duration::from_secs(10));
        let held = budget.reserve(&tenant("x"), 5).await.unwrap();
        let large = {
            let budget = budget.clone();
            tokio::spawn(async move { budget.reserve(&tenant("large"), 10).await })
        };
        tokio::task::yield_now().await;
        assert!(budget.try_reserve(1).is_none(), "overtook the waiter");
        let small = {
            let budget = budget.clone();
            tokio::spawn(async move { budget.reserve(&tenant("small"), 1).await })
        };
        tokio::task::yield_now().await;
        large.abort();
        assert!(large.await.is_err());
        assert_eq!(small.await.unwrap().unwrap().bytes(), 1);
        drop(held);
        assert_eq!(budget.free_bytes(), 10);
    }
}
