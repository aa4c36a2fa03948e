//! The superblock: whose drive a directory is. Two copies of 4 KiB in one file, each with its crc.
//!
//! ```text
//! 0   8  magic "NXGDSUPR"
//! 8   2  format version (2)
//! 10  6  zero
//! 16  16 cluster
//! 32  8  drive
//! 40  16 incarnation, drawn by `format`
//! 56  8  opens: grows with every open; an older copy of the disk is seen by it
//! 64  4  crc32c of bytes 0..64
//! 68  …  zeroes up to 4096
//! ```
//!
//! A directory without this file is never opened: it may be an empty mount point, and writing
//! there would fill the wrong disk and acknowledge shards that vanish with the next mount.

#![deny(clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use nexusgrid_codec::{ClusterId, DriveId};
use nexusgrid_env::{Disk, OpenMode};

use crate::error::OpenError;
use crate::types::{DriveIdentity, Incarnation, SuperblockInfo};

/// Begins each copy.
pub const MAGIC: [u8; 8] = *b"NXGDSUPR";
/// Format version of superblock, records, facts and footers together.
pub const FORMAT_VERSION: u16 = 2;
/// Length of one copy.
pub const COPY_BYTES: usize = 4096;
const COVERED_BYTES: usize = 64;

/// Why a copy cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// Too short, no magic, or a failed crc.
    #[error("magic or crc is wrong")]
    Corrupt,
    /// The crc holds, but another version wrote it.
    #[error("format version {0} is unknown")]
    Version(u16),
}

/// Encodes one copy.
pub fn encode(info: &SuperblockInfo) -> Vec<u8> {
    let mut out = Vec::with_capacity(COPY_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(&info.identity.cluster.0);
    out.extend_from_slice(&info.identity.drive.0.to_le_bytes());
    out.extend_from_slice(&info.incarnation.0);
    out.extend_from_slice(&info.opens.to_le_bytes());
    debug_assert_eq!(out.len(), COVERED_BYTES);
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.resize(COPY_BYTES, 0);
    out
}

/// Decodes one copy.
pub fn decode(bytes: &[u8]) -> Result<SuperblockInfo, CopyError> {
    let (covered, rest) = bytes.split_at_checked(COVERED_BYTES).ok_or(CopyError::Corrupt)?;
    let crc = u32::from_le_bytes(*rest.first_chunk().ok_or(CopyError::Corrupt)?);
    let (magic, fields) = covered.split_first_chunk::<8>().ok_or(CopyError::Corrupt)?;
    if *magic != MAGIC || crc32c::crc32c(covered) != crc {
        return Err(CopyError::Corrupt);
    }
    let (version, fields) = fields.split_first_chunk::<2>().ok_or(CopyError::Corrupt)?;
    let version = u16::from_le_bytes(*version);
    if version != FORMAT_VERSION {
        return Err(CopyError::Version(version));
    }
    let (_zero, fields) = fields.split_first_chunk::<6>().ok_or(CopyError::Corrupt)?;
    let (cluster, fields) = fields.split_first_chunk::<16>().ok_or(CopyError::Corrupt)?;
    let (drive, fields) = fields.split_first_chunk::<8>().ok_or(CopyError::Corrupt)?;
    let (incarnation, fields) = fields.split_first_chunk::<16>().ok_or(CopyError::Corrupt)?;
    let (opens, _) = fields.split_first_chunk::<8>().ok_or(CopyError::Corrupt)?;
    Ok(SuperblockInfo {
        identity: DriveIdentity {
            cluster: ClusterId(*cluster),
            drive: DriveId(u64::from_le_bytes(*drive)),
        },
        incarnation: Incarnation(*incarnation),
        opens: u64::from_le_bytes(*opens),
    })
}

/// Where the superblock of a drive directory is.
pub fn path(dir: &Path) -> PathBuf {
    dir.join("superblock")
}

/// Reads the better copy.
pub fn read(disk: &dyn Disk, dir: &Path) -> Result<SuperblockInfo, OpenError> {
    let file = path(dir);
    if !disk.exists(&file).map_err(OpenError::io("look for the superblock"))? {
        return Err(OpenError::NotFormatted(dir.display().to_string()));
    }
    let file = disk.open(&file, OpenMode::Read).map_err(OpenError::io("open the superblock"))?;
    let mut best: Result<SuperblockInfo, CopyError> = Err(CopyError::Corrupt);
    for copy in [0, COPY_BYTES as u64] {
        let mut bytes = vec![0; COPY_BYTES];
        let read = file.read_at(&mut bytes, copy).map_err(OpenError::io("read the superblock"))?;
        let found = decode(bytes.get(..read).unwrap_or_default());
        best = match (best, found) {
            (Ok(a), Ok(b)) if a.opens < b.opens => Ok(b),
            (Ok(a), _) => Ok(a),
            (Err(CopyError::Corrupt), found) => found,
            (Err(too_new), Err(_)) => Err(too_new),
            (Err(_), Ok(b)) => Ok(b),
        };
    }
    best.map_err(|error| match error {
        CopyError::Corrupt => OpenError::SuperblockCorrupt(error.to_string()),
        CopyError::Version(found) => OpenError::OtherFormat { found, known: FORMAT_VERSION },
    })
}

/// Whether each of the two copies is whole; unreadable is not.
pub fn whole_copies(disk: &dyn Disk, dir: &Path) -> Result<[bool; 2], OpenError> {
    let file =
        disk.open(&path(dir), OpenMode::Read).map_err(OpenError::io("open the superblock"))?;
    Ok([0, COPY_BYTES as u64].map(|copy| {
        let mut bytes = vec![0; COPY_BYTES];
        file.read_at(&mut bytes, copy).is_ok_and(|read| {
            bytes.truncate(read);
            decode(&bytes).is_ok()
        })
    }))
}

/// Rewrites both copies in place, one after the other, so that one is whole at any time.
pub fn rewrite(disk: &dyn Disk, dir: &Path, info: &SuperblockInfo) -> Result<(), OpenError> {
    let file = disk
        .open(&path(dir), OpenMode::ReadWrite)
        .map_err(OpenError::io("open the superblock for writing"))?;
    let bytes = encode(info);
    for copy in [0, COPY_BYTES as u64] {
        file.write_at(&bytes, copy).map_err(OpenError::write("write the superblock"))?;
        file.sync().map_err(OpenError::write("sync the superblock"))?;
    }
    Ok(())
}

/// Makes the file, whole or not at all.
pub fn create(disk: &dyn Disk, dir: &Path, info: &SuperblockInfo) -> Result<(), OpenError> {
    let fresh = dir.join("superblock.new");
    let file =
        disk.open(&fresh, OpenMode::OpenOrCreate).map_err(OpenError::io("make the superblock"))?;
    let mut bytes = encode(info);
    bytes.extend_from_slice(&encode(info));
    file.set_len(0).map_err(OpenError::io("make the superblock"))?;
    file.write_at(&bytes, 0).map_err(OpenError::io("write the superblock"))?;
    file.sync().map_err(OpenError::io("sync the superblock"))?;
    disk.rename(&fresh, &path(dir)).map_err(OpenError::io("name the superblock"))?;
    disk.sync_dir(dir).map_err(OpenError::io("sync the drive's directory"))
}
