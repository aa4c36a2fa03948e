//! The log of a mount in the background: what its supervisor and daemons say, in a file of the node's directory.
//! When it is long it is put aside, in the place of what was put aside before.

#![allow(clippy::disallowed_methods, reason = "a log that processes write as their standard error")]

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use sha2::{Digest, Sha256};

use super::limits;

/// A log for each mount point: no two share one.
pub fn path(node_dir: &Path, at: &Path) -> PathBuf {
    let place = at.as_os_str().as_bytes();
    let mut name = String::new();
    for byte in place {
        match byte {
            b'/' => name.push('-'),
            byte if byte.is_ascii_alphanumeric() => name.push(char::from(*byte)),
            byte => name.push_str(&format!("%{byte:02x}")),
        }
    }
    if name.len() > limits::LOG_NAME_BYTES {
        let digest = Sha256::digest(place);
        let digest: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        name.truncate(limits::LOG_NAME_BYTES - digest.len());
        name.push_str(&digest);
    }
    node_dir.join(format!("mount{name}.log"))
}

/// Opens a log to write on.
pub fn open(path: &Path) -> anyhow::Result<File> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    if let Err(error) = put_aside(&file, path) {
        tracing::warn!(%error, "a mount's log goes on, though it is long");
    }
    Ok(file)
}

/// Keeps the log short while this process writes on it as its standard error.
pub async fn keep_short(path: &Path) {
    loop {
        tokio::time::sleep(limits::LOG_INTERVAL).await;
        // Somebody else's file, or none, is not ours to cut.
        if let Err(error) = put_aside(io::stderr(), path) {
            tracing::warn!(%error, "a mount's log cannot be put aside");
        }
    }
}

/// If `open` is the log at a path, and long: copies it aside and cuts it. Those who write on it append, so that
/// they go on at its beginning; what they write in just this moment is lost.
fn put_aside(open: impl AsFd, path: &Path) -> io::Result<()> {
    let (ours, there) = (rustix::fs::fstat(&open)?, std::fs::metadata(path)?);
    if (ours.st_dev, ours.st_ino) != (there.dev(), there.ino())
        || there.len() <= limits::LOG_BYTES_MAX
    {
        return Ok(());
    }
    // Cut all the same if the disk has no room for another.
    let copied = std::fs::copy(path, path.with_extension("log.old"));
    rustix::fs::ftruncate(open, 0)?;
    copied.map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn no_two_mounts_share_a_log() {
        let dir = Path::new("/node");
        let of = |at: &str| path(dir, Path::new(at));
        assert_eq!(of("/mnt/files1"), Path::new("/node/mount-mnt-files1.log"));
        let long = format!("/{}", "x".repeat(300));
        let places = ["/a-b", "/a/b", "/a%2db", "/a.b", "/ä", "/a b", &long, &format!("{long}x")];
        let logs: std::collections::BTreeSet<_> = places.iter().map(|at| of(at)).collect();
        assert_eq!(logs.len(), places.len(), "{logs:?}");
        assert!(logs.iter().all(|log| log.file_name().is_some_and(|name| name.len() < 255)));
    }

    #[test]
    fn a_long_log_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mount-x.log");
        let mut log = open(&path).unwrap();
        log.write_all(&vec![b'a'; limits::LOG_BYTES_MAX as usize]).unwrap();
        put_aside(&log, &path).unwrap();
        assert_eq!(log.metadata().unwrap().len(), limits::LOG_BYTES_MAX, "long enough, not longer");
        log.write_all(b"b").unwrap();
        let other = tempfile::tempfile().unwrap();
        put_aside(&other, &path).unwrap();
        assert_eq!(log.metadata().unwrap().len(), limits::LOG_BYTES_MAX + 1, "not the log");
        put_aside(&log, &path).unwrap();
        log.write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        let old = std::fs::metadata(dir.path().join("mount-x.log.old")).unwrap();
        assert_eq!(old.len(), limits::LOG_BYTES_MAX + 1);
    }
}
