//! When to ask a second source: a delay like the 95th percentile of recent reads, and a budget.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use crate::limits;

/// Tokens saved up at most: bounds a burst of hedges after a quiet time.
const TOKENS_MAX: f64 = 16.0;

/// Latencies and the budget of extra reads of one process.
pub(crate) struct Hedging {
    state: Mutex<State>,
}

struct State {
    samples: VecDeque<Duration>,
    tokens: f64,
}

impl Hedging {
    pub(crate) fn new() -> Hedging {
        Hedging { state: Mutex::new(State { samples: VecDeque::new(), tokens: TOKENS_MAX }) }
    }

    /// Notes a first read of a shard that succeeded after `latency`: earns its share of a hedge.
    pub(crate) fn record(&self, latency: Duration) {
        let mut state = self.state.lock();
        if state.samples.len() == limits::HEDGE_SAMPLES {
            state.samples.pop_front();
        }
        state.samples.push_back(latency);
        state.tokens = (state.tokens + limits::HEDGE_SHARE).min(TOKENS_MAX);
    }

    /// How long to wait for a first read before asking others.
    pub(crate) fn delay(&self) -> Duration {
        let state = self.state.lock();
        if state.samples.len() < limits::HEDGE_SAMPLES / 8 {
            return limits::HEDGE_DELAY_MAX;
        }
        let mut sorted: Vec<Duration> = state.samples.iter().copied().collect();
        sorted.sort_unstable();
        let p95 = sorted.get(sorted.len() * 95 / 100).copied().unwrap_or(limits::HEDGE_DELAY_MAX);
        (p95 * 2).clamp(limits::HEDGE_DELAY_MIN, limits::HEDGE_DELAY_MAX)
    }

    /// Takes `reads` from the budget, if it has them.
    pub(crate) fn take(&self, reads: usize) -> bool {
        let mut state = self.state.lock();
        let enough = state.tokens >= reads as f64;
        if enough {
            state.tokens -= reads as f64;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_reads_stay_within_their_share() {
        let hedging = Hedging::new();
        let mut extra = 0;
        for _ in 0..10_000 {
            hedging.record(Duration::from_millis(1));
            extra += usize::from(hedging.take(1));
        }
        assert!(extra as f64 <= 10_000.0 * limits::HEDGE_SHARE + TOKENS_MAX + 1.0, "{extra}");
        assert!(extra > 400);
    }

    #[test]
    fn waits_like_the_slow_twentieth() {
        let hedging = Hedging::new();
        assert_eq!(hedging.delay(), limits::HEDGE_DELAY_MAX);
        for index in 0..limits::HEDGE_SAMPLES {
            let slow = index % 10 == 0;
            hedging.record(Duration::from_millis(if slow { 100 } else { 1 }));
        }
        assert_eq!(hedging.delay(), Duration::from_millis(200));
    }
}
