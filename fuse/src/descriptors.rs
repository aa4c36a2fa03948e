//! Descriptors that change hands: the two things for which neither `std` nor `nix` has a safe way.
#![allow(unsafe_code, reason = "dup2 onto a borrowed number, and numbers received from a socket")]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// How many go in one message.
pub(crate) const PASSED: usize = 3;

/// Puts `with` in the place of a descriptor that others hold open, and use by its number.
pub(crate) fn replace(place: RawFd, with: &OwnedFd) -> std::io::Result<()> {
    // SAFETY: both numbers are open over the call. The holders keep owning theirs, which from here on names another
    // file; what is in the old one's buffers is theirs to lose.
    let result = unsafe { libc::dup3(with.as_raw_fd(), place, libc::O_CLOEXEC) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a byte and descriptors with it.
pub(crate) fn pass(
    socket: &UnixStream,
    byte: u8,
    descriptors: &[RawFd; PASSED],
) -> std::io::Result<()> {
    let content = [byte];
    let with = [ControlMessage::ScmRights(descriptors)];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&content)],
        &with,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Receives a byte and the descriptors with it; `None` for them if they are not as many as agreed.
pub(crate) fn take(socket: &UnixStream) -> std::io::Result<(u8, Option<[OwnedFd; PASSED]>)> {
    let mut content = [0];
    let mut space = nix::cmsg_space!([RawFd; PASSED]);
    let mut received = Vec::new();
    {
        let mut slices = [IoSliceMut::new(&mut content)];
        let message = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        for one in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = one {
                for number in numbers {
                    // SAFETY: the kernel has just opened this number for us and told only us.
                    received.push(unsafe { OwnedFd::from_raw_fd(number) });
                }
            }
        }
    }
    let [byte] = content;
    Ok((byte, received.try_into().ok()))
}
