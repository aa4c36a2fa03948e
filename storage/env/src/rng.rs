//! Random bytes: the operating system's in the product, seeded in simulation.

/// A source of random bytes, fit for keys in the product.
pub trait Rng: Send + Sync + 'static {
    /// Fills `buffer`.
    fn fill(&self, buffer: &mut [u8]);

    /// A random integer.
    fn u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A random integer below `bound` (zero gives zero), without noticeable bias for small bounds.
    fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.u64() % bound }
    }
}
