//! One turn for each thing that somebody wants one of.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

type Turned<K> = Arc<Mutex<BTreeMap<K, Arc<tokio::sync::Mutex<()>>>>>;

/// Turns, by what they are for; what nobody wants is not kept.
pub(super) struct Turns<K: Ord + Copy>(Turned<K>);

impl<K: Ord + Copy> Default for Turns<K> {
    fn default() -> Turns<K> {
        Turns(Arc::default())
    }
}

/// A turn; it ends when this is dropped.
pub(super) struct Turn<K: Ord + Copy> {
    turns: Turned<K>,
    of: K,
    guard: Option<OwnedMutexGuard<()>>,
}

impl<K: Ord + Copy> Drop for Turn<K> {
    fn drop(&mut self) {
        let mut turns = self.turns.lock();
        drop(self.guard.take());
        // Nobody else waits for it.
        if turns.get(&self.of).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&self.of);
        }
    }
}

impl<K: Ord + Copy> Turns<K> {
    fn of(&self, key: K) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.0.lock().entry(key).or_default())
    }

    /// Waits for the turn.
    pub(super) async fn wait(&self, of: K) -> Turn<K> {
        let guard = self.of(of).lock_owned().await;
        Turn { turns: Arc::clone(&self.0), of, guard: Some(guard) }
    }

    /// The turn, if nobody has it.
    pub(super) fn free(&self, of: K) -> Option<Turn<K>> {
        let guard = self.of(of).try_lock_owned().ok()?;
        Some(Turn { turns: Arc::clone(&self.0), of, guard: Some(guard) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_come_one_after_the_other_and_leave_nothing() {
        let turns = Turns::default();
        let turn = turns.wait(2).await;
        assert!(turns.free(2).is_none());
        assert!(turns.free(3).is_some());
        let (waiting, ()) = tokio::join!(turns.wait(2), async { drop(turn) });
        drop(waiting);
        assert!(turns.0.lock().is_empty());
    }
}
