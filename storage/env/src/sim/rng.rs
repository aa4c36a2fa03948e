//! Random bytes that follow from a seed.

use parking_lot::Mutex;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Rng;

/// A seeded source of random bytes: same seed, same bytes. For simulation only.
pub struct SeededRng {
    state: Mutex<ChaCha8Rng>,
}

impl SeededRng {
    /// A source that follows from `seed`.
    pub fn new(seed: u64) -> SeededRng {
        SeededRng { state: Mutex::new(ChaCha8Rng::seed_from_u64(seed)) }
    }

    /// A source of its own for the part named `label`: what one part draws does not change what
    /// another one sees.
    pub fn for_part(seed: u64, label: &str) -> SeededRng {
        // FNV-1a: stable across Rust versions, unlike the standard hasher.
        let mixed = super::trace::fnv1a(seed ^ 0xcbf2_9ce4_8422_2325, label.as_bytes());
        SeededRng::new(mixed)
    }

    /// Whether an event of the given probability happens.
    pub fn chance(&self, probability: f64) -> bool {
        // Always draws, so that changing a probability shifts no later choice.
        let drawn = (self.u64() >> 11) as f64 / (1u64 << 53) as f64;
        drawn < probability
    }

    /// An integer of `low..=high`.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }
}

impl Rng for SeededRng {
    fn fill(&self, buffer: &mut [u8]) {
        self.state.lock().fill_bytes(buffer);
    }
}
