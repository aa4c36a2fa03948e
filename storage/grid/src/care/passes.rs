//! Where scrub stands on a drive, kept with the drive: a pass takes weeks, and a machine may be switched
//! off every evening. Lost, the pass begins anew.

use nexusgrid_drive::ScrubCursor;
use serde::{Deserialize, Serialize};

use super::kept::Kept;

/// Where it is kept. Not synced: what a loss of power takes is read once more.
pub(super) const PASS: Kept<Pass> = Kept::new("scrub", 1, 256);

/// One pass over a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pass {
    /// Where it goes on.
    pub(super) cursor: ScrubCursor,
    /// Read so far.
    pub(super) bytes: u64,
    /// When it began, by the wall clock: only how soon it should end follows from that.
    pub(super) began_ms: u64,
}

impl Pass {
    /// One that begins now.
    pub(super) fn new(now_ms: u64) -> Pass {
        Pass { began_ms: now_ms, ..Pass::default() }
    }

    /// From the beginning.
    pub(super) fn begin_again(&mut self, now_ms: u64) {
        *self = Pass::new(now_ms);
    }

    /// How far it is, of a drive with so many bytes in use.
    pub(super) fn percent(&self, used: u64) -> u8 {
        let percent = u128::from(self.bytes) * 100 / u128::from(used.max(1));
        u8::try_from(percent.min(99)).unwrap_or(99)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_percents() {
        let pass = Pass { cursor: ScrubCursor::default(), bytes: 300, began_ms: 5 };
        assert_eq!(PASS.encode(&pass), [1, 0, 0, 0, 0, 0, 0, 0xac, 2, 5]);
        assert_eq!(pass.percent(600), 50);
        assert_eq!(pass.percent(0), 99);
    }
}
