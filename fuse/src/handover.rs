//! What supervisor and daemon say to each other, over a socket that is the daemon's standard input.
//!
//! ```text
//! supervisor                                daemon
//!     ── version byte + 3 descriptors ──▶
//!     ── Handover ──────────────────────▶   begins a session with the recorded request
//!     ◀──────────── answer to the kernel ──
//!   the first time: sends it to the kernel; later: compares it with what the kernel got
//!     ── go ────────────────────────────▶   resumes, has the kernel send again, serves
//! ```

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use crate::error::MountError;
use crate::limits;
use crate::options::MountOptions;

/// Of this conversation. A daemon of another version is refused: the mount must be made anew.
pub(crate) const VERSION: u8 = 1;

/// What a daemon is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Handover {
    /// 0 for the first daemon of a mount.
    pub(crate) generation: u32,
    /// The mount's name, drawn when it was made.
    pub(crate) mount: u128,
    pub(crate) options: MountOptions,
    /// The kernel's first request.
    pub(crate) init: Vec<u8>,
}

impl Handover {
    pub(crate) fn encode(&self) -> Result<Vec<u8>, MountError> {
        postcard::to_stdvec(self).map_err(|_| MountError::Handover("options cannot be encoded"))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MountError> {
        postcard::from_bytes(bytes).map_err(|_| MountError::Handover("options cannot be read"))
    }
}

pub(crate) fn send(socket: &mut UnixStream, bytes: &[u8]) -> Result<(), MountError> {
    let length = u32::try_from(bytes.len())
        .ok()
        .filter(|length| *length as usize <= limits::HANDOVER_BYTES)
        .ok_or(MountError::Handover("a message is too long"))?;
    let mut message = length.to_le_bytes().to_vec();
    message.extend_from_slice(bytes);
    socket.write_all(&message).map_err(MountError::system("speak to the other process"))
}

pub(crate) fn receive(socket: &mut UnixStream) -> Result<Vec<u8>, MountError> {
    let heard = || MountError::system("hear the other process");
    let mut length = [0; 4];
    socket.read_exact(&mut length).map_err(heard())?;
    let length = u32::from_le_bytes(length) as usize;
    if length > limits::HANDOVER_BYTES {
        return Err(MountError::Handover("a message is too long"));
    }
    let mut bytes = vec![0; length];
    socket.read_exact(&mut bytes).map_err(heard())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handover_keeps_its_bytes() {
        let handover = Handover {
            generation: 3,
            mount: 7,
            options: MountOptions { source: "b".to_owned(), ..MountOptions::default() },
            init: vec![1, 2],
        };
        let bytes = handover.encode().unwrap();
        assert_eq!(Handover::decode(&bytes).unwrap(), handover);
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            text, "03070162000100000100000004ac0200008008020102",
            "another layout needs another VERSION"
        );
    }
}
