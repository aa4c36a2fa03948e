//! The operating system's random bytes.

use rustix::rand::{GetRandomFlags, getrandom};

use crate::Rng;

/// Random bytes fit for keys.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRng;

impl Rng for OsRng {
    fn fill(&self, buffer: &mut [u8]) {
        let mut rest = buffer;
        while !rest.is_empty() {
            match getrandom(&mut *rest, GetRandomFlags::empty()) {
                Ok(count) => rest = rest.split_at_mut(count).1,
                Err(rustix::io::Errno::INTR) => {}
                // Without randomness no key and no id is safe: better no process.
                Err(error) => {
                    tracing::error!(%error, "the operating system gives no random bytes");
                    std::process::abort();
                }
            }
        }
    }
}
