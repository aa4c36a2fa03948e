//! `/dev/fuse` and the mount: what is said to the kernel beside the protocol that fuser speaks.
//!
//! A descriptor of the device is a session. It can be read by several processes, one after another
//! or together; the session ends when the last of them has closed it, and programs then hear
//! "transport endpoint is not connected". That is why a process that does nothing else keeps one.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use crate::error::MountError;
use crate::limits;
use crate::options::MountOptions;

/// What every message to or from the kernel begins with: length, kind or error, request.
const HEADER: usize = 16;
/// A message without request whose "error" is this: send again what nobody has answered.
const NOTIFY_RESEND: i32 = 7;
/// FORGET, INTERRUPT and BATCH_FORGET have no answer; SETLKW may wait over any number of daemons.
const NOT_DEADLY: [u32; 4] = [2, 36, 42, 33];
/// Set in a request's number when it is sent again.
const RESENT: u64 = 1 << 63;

/// Links in a row, as the kernel follows them.
const LINKS: usize = 40;

/// A session that is mounted.
pub(crate) struct Device {
    pub(crate) fd: OwnedFd,
    pub(crate) dir: PathBuf,
}

impl Device {
    /// Mounts at `dir`. A mount of a dead session that stands there is removed first.
    pub(crate) fn mount(dir: &Path, options: &MountOptions) -> Result<Self, MountError> {
        options.check()?;
        remove_dead(dir)?;
        let dir = dir.canonicalize().map_err(MountError::system("find the mount point"))?;
        #[allow(clippy::disallowed_methods, reason = "a device, not a disk")]
        let fd: OwnedFd = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .map_err(MountError::system("open /dev/fuse (is the module `fuse` loaded?)"))?
            .into();
        let mut flags = MsFlags::empty();
        for (set, flag) in [
            (!options.dev, MsFlags::MS_NODEV),
            (!options.suid, MsFlags::MS_NOSUID),
            (!options.exec, MsFlags::MS_NOEXEC),
            (options.read_only, MsFlags::MS_RDONLY),
        ] {
            if set {
                flags |= flag;
            }
        }
        let mut data = format!(
            "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
            fd.as_raw_fd(),
            nix::unistd::getuid(),
            nix::unistd::getgid()
        );
        if options.allow_other {
            data.push_str(",allow_other");
        }
        let source = Some(options.source.as_str());
        nix::mount::mount(source, &dir, Some("fuse.nexusgrid"), flags, Some(data.as_str()))
            .map_err(|errno| MountError::System {
                what: "mount (this needs root, or CAP_SYS_ADMIN)",
                source: errno.into(),
            })?;
        Ok(Self { fd, dir })
    }

    /// The kernel's first request, which only one process ever gets.
    pub(crate) fn read_init(&self) -> Result<Vec<u8>, MountError> {
        let mut buffer = vec![0; limits::DEVICE_READ_BYTES];
        let length = self
            .read(&mut buffer)
            .map_err(MountError::system("read the kernel's first request"))?
            .ok_or(MountError::Handover("the mount ended before it began"))?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// One request; `None` when the mount has ended.
    fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match nix::unistd::read(&self.fd, buffer) {
                Ok(length) => return Ok(Some(length)),
                Err(Errno::ENODEV) => return Ok(None),
                // ENOENT: the request was taken back.
                Err(Errno::EINTR | Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Sends the answer to the first request.
    pub(crate) fn answer_init(&self, answer: &[u8]) -> Result<(), MountError> {
        send(&self.fd, answer).map_err(MountError::system("answer the kernel's first request"))
    }

    /// Whether the kernel still has the session.
    pub(crate) fn mounted(&self) -> bool {
        mounted(&self.fd)
    }

    /// Ends the mount. `lazy`: at once out of sight, and at an end when its last user is.
    pub(crate) fn unmount(&self, lazy: bool) -> Result<(), MountError> {
        unmount(&self.fd, &self.dir, lazy)
    }

    /// How far the kernel reads ahead; the protocol's own number only lowers what the kernel's
    /// default is. Best effort: containers do not let one write there.
    pub(crate) fn set_read_ahead(&self, kib: u32) {
        if let Err(error) = set_read_ahead(&self.dir, kib) {
            tracing::warn!(%error, "the mount's read-ahead could not be set, so that sequential reads are slower");
        }
    }

    /// Numbers of the requests that daemons have read and left, and that one could die of. They stay
    /// for the next to get. Only for when no daemon is there.
    pub(crate) fn left(&self) -> io::Result<Vec<u64>> {
        resend(&self.fd)?;
        let mut buffer = vec![0; limits::DEVICE_READ_BYTES];
        let mut left = Vec::new();
        // Those sent again come first: behind them is what no daemon has seen.
        while self.readable() {
            let Some(length) = self.read(&mut buffer)? else { break };
            let Some((opcode, unique)) = header(buffer.get(..length).unwrap_or_default()) else {
                continue;
            };
            if unique & RESENT == 0 {
                // Read, so it counts as left from now on: the next resend brings it.
                break;
            }
            if !NOT_DEADLY.contains(&opcode) {
                left.push(unique);
            }
        }
        Ok(left)
    }

    /// Answers one of those with EIO.
    pub(crate) fn fail(&self, unique: u64) -> io::Result<()> {
        send(&self.fd, &message(-libc::EIO, unique))
    }

    fn readable(&self) -> bool {
        let mut poll = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        matches!(nix::poll::poll(&mut poll, PollTimeout::ZERO), Ok(1..))
            && poll
                .first()
                .and_then(PollFd::revents)
                .is_some_and(|events| events.contains(PollFlags::POLLIN))
    }
}

pub(crate) fn mounted(fd: &impl AsFd) -> bool {
    let mut poll = [PollFd::new(fd.as_fd(), PollFlags::empty())];
    loop {
        match nix::poll::poll(&mut poll, PollTimeout::ZERO) {
            Err(Errno::EINTR) => {}
            Err(_) | Ok(0) => return true,
            Ok(_) => {
                return !poll
                    .first()
                    .and_then(PollFd::revents)
                    .is_some_and(|events| events.contains(PollFlags::POLLERR));
            }
        }
    }
}

pub(crate) fn unmount(fd: &impl AsFd, dir: &Path, lazy: bool) -> Result<(), MountError> {
    if !mounted(fd) {
        // Another may be mounted there by now.
        return Ok(());
    }
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    nix::mount::umount2(dir, flags | MntFlags::UMOUNT_NOFOLLOW)
        .map_err(|errno| MountError::System { what: "unmount", source: errno.into() })
}

/// Ends the mount of a bucket at `dir`, whoever made it, or where a link there leads; others' mounts are
/// refused. `lazy`: at once out of sight, and at an end when its last user is.
pub fn unmount_at(dir: &Path, lazy: bool) -> Result<(), MountError> {
    #[allow(clippy::disallowed_methods, reason = "/proc: a question to the kernel")]
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(MountError::system("read the table of mounts"))?;
    let dir = &where_to(&mounts, dir);
    match mounted_at(&mounts, dir) {
        Some(line) if line.contains(" - fuse.nexusgrid ") => {}
        Some(_) => {
            return Err(MountError::Options("what is mounted there is no bucket".to_owned()));
        }
        None => return Err(MountError::Options("nothing is mounted there".to_owned())),
    }
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    nix::mount::umount2(dir, flags | MntFlags::UMOUNT_NOFOLLOW)
        .map_err(|errno| MountError::System { what: "unmount", source: errno.into() })
}

/// Where a path leads, through links, as the table of mounts has it. A mount itself is not looked at: who serves
/// it may not answer.
fn where_to(mountinfo: &str, path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { break };
        let Ok(parent) = parent.canonicalize() else { break };
        path = parent.join(name);
        if mounted_at(mountinfo, &path).is_some() {
            break;
        }
        #[allow(clippy::disallowed_methods, reason = "where a link leads, no data")]
        let Ok(target) = std::fs::read_link(&path) else { break };
        path = parent.join(target);
    }
    path
}

/// A supervisor and daemon that both died leave a mount point at which every call fails.
fn remove_dead(dir: &Path) -> Result<(), MountError> {
    #[allow(clippy::disallowed_methods, reason = "asks whether a mount answers, reads no data")]
    match std::fs::metadata(dir) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            tracing::warn!(dir = %dir.display(), "removes the mount of a session that has died");
            nix::mount::umount2(dir, MntFlags::MNT_DETACH).map_err(|errno| MountError::System {
                what: "remove a dead mount",
                source: errno.into(),
            })
        }
        _ => Ok(()),
    }
}

#[allow(clippy::disallowed_methods, reason = "/proc and /sys: questions to the kernel")]
fn set_read_ahead(dir: &Path, kib: u32) -> io::Result<()> {
    // Not by stat: that would be a call of the mount, and nobody may be there yet to answer.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let number = device_number(&mounts, dir)
        .ok_or_else(|| io::Error::new(ErrorKind::NotFound, "not in the table of mounts"))?;
    std::fs::write(format!("/sys/class/bdi/{number}/read_ahead_kb"), kib.to_string())
}

/// The device number of the mount at a place.
fn device_number(mountinfo: &str, dir: &Path) -> Option<String> {
    mounted_at(mountinfo, dir)?.split(' ').nth(2).map(str::to_owned)
}

/// The line of the mount at a place: the last one there is the one in sight.
fn mounted_at<'a>(mountinfo: &'a str, dir: &Path) -> Option<&'a str> {
    use std::os::unix::ffi::OsStrExt;
    let mut escaped = String::new();
    for byte in dir.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => escaped.push_str(&format!("\\{byte:03o}")),
            _ => escaped.push(char::from(*byte)),
        }
    }
    mountinfo.lines().rev().find(|line| {
        // Bytes above 127 are compared one by one as characters on both sides.
        let place = line.split(' ').nth(4).unwrap_or_default();
        place.bytes().map(char::from).eq(escaped.chars())
    })
}

/// Asks the kernel to send again what was read and not answered.
pub(crate) fn resend(fd: &impl AsFd) -> io::Result<()> {
    send(fd, &message(NOTIFY_RESEND, 0))
}

fn send(fd: &impl AsFd, bytes: &[u8]) -> io::Result<()> {
    // The kernel takes a message whole or not at all.
    nix::unistd::write(fd, bytes).map(drop).map_err(io::Error::from)
}

fn message(code: i32, unique: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER);
    bytes.extend_from_slice(&(HEADER as u32).to_ne_bytes());
    bytes.extend_from_slice(&code.to_ne_bytes());
    bytes.extend_from_slice(&unique.to_ne_bytes());
    bytes
}

/// Operation and number of a request.
fn header(bytes: &[u8]) -> Option<(u32, u64)> {
    let opcode = u32::from_ne_bytes(bytes.get(4..8)?.try_into().ok()?);
    let unique = u64::from_ne_bytes(bytes.get(8..16)?.try_into().ok()?);
    Some((opcode, unique))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bytes() {
        assert_eq!(message(NOTIFY_RESEND, 0), [16, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(header(&message(26, 9)), Some((26, 9)));
    }

    #[test]
    fn a_mount_is_found_in_the_table() {
        let table = "30 1 0:26 / / rw - ext4 /dev/root rw\n\
                     31 30 0:40 / /mnt/a\\040b rw - fuse.nexusgrid nexusgrid rw\n\
                     32 30 0:41 / /mnt/c rw - fuse.nexusgrid nexusgrid rw\n\
                     33 30 0:42 / /mnt/c rw - fuse.nexusgrid nexusgrid rw\n";
        assert_eq!(device_number(table, Path::new("/mnt/a b")).as_deref(), Some("0:40"));
        assert_eq!(device_number(table, Path::new("/mnt/c")).as_deref(), Some("0:42"));
        assert_eq!(device_number(table, Path::new("/mnt")), None);
    }

    #[test]
    fn a_mount_is_found_through_links() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        let mount = at.join("real").join("m");
        #[allow(clippy::disallowed_methods, reason = "links of a real disk are what is tested")]
        std::fs::create_dir_all(&mount).unwrap();
        symlink("real", at.join("dir")).unwrap();
        symlink("dir/m", at.join("link")).unwrap();
        symlink(at.join("link"), at.join("twice")).unwrap();
        symlink("round", at.join("round")).unwrap();
        let line = format!("31 30 0:40 / {} rw - fuse.nexusgrid nexusgrid rw\n", mount.display());
        for path in ["real/m", "dir/m", "link", "twice", "real/../dir/m"] {
            assert_eq!(where_to(&line, &at.join(path)), mount, "{path}");
        }
        for path in ["round", "real", "nowhere", "no/where"] {
            assert!(mounted_at(&line, &where_to(&line, &at.join(path))).is_none(), "{path}");
        }
    }
}
