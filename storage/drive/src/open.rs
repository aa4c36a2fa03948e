//! Formatting and opening a drive's directory.

use std::path::Path;
use std::sync::Arc;

use nexusgrid_env::{DiskLock, Env, Kv, KvError};

use crate::error::OpenError;
use crate::failure;
use crate::index;
use crate::options::DriveOptions;
use crate::recover::{Recovered, Unusable, recover};
use crate::segment;
use crate::shared::{Parts, Shared};
use crate::superblock;
use crate::types::{DriveIdentity, Incarnation, SuperblockInfo};

/// Makes `dir` a drive; blocking.
pub fn format(
    env: &Env,
    dir: &Path,
    identity: DriveIdentity,
    options: &DriveOptions,
) -> Result<SuperblockInfo, OpenError> {
    options.check().map_err(OpenError::Options)?;
    let disk = env.disk.as_ref();
    disk.create_dir_all(dir).map_err(OpenError::io("make the drive's directory"))?;
    let _lock = lock(env, dir)?;
    let segments = segment::dir(dir);
    let taken = disk
        .exists(&superblock::path(dir))
        .and_then(|there| Ok(there || disk.exists(&index::path(dir))?))
        .and_then(|there| Ok(there || disk.exists(&segments)? && !disk.list(&segments)?.is_empty()))
        .map_err(OpenError::io("look into the drive's directory"))?;
    if taken {
        return Err(OpenError::AlreadyFormatted(dir.display().to_string()));
    }
    disk.create_dir_all(&segments)
        .and_then(|()| disk.sync_dir(dir))
        .and_then(|()| dir.parent().map_or(Ok(()), |parent| disk.sync_dir(parent)))
        .map_err(OpenError::io("make the segments' directory"))?;
    let mut incarnation = [0; 16];
    env.rng.fill(&mut incarnation);
    let info = SuperblockInfo { identity, incarnation: Incarnation(incarnation), opens: 0 };
    // Last: a directory with a superblock is complete.
    superblock::create(disk, dir, &info)?;
    Ok(info)
}

/// Opens a drive and brings its index up to the log; blocking.
pub fn open(
    env: &Env,
    dir: &Path,
    expected: DriveIdentity,
    incarnation: Option<Incarnation>,
    options: &DriveOptions,
) -> Result<Shared, OpenError> {
    options.check().map_err(OpenError::Options)?;
    let disk = env.disk.as_ref();
    // Before the lock: an empty mount point must not even get a lock file.
    superblock::read(disk, dir)?;
    let lock = lock(env, dir)?;
    let mut info = superblock::read(disk, dir)?;
    check_identity(&info, expected, incarnation)?;
    let marks = failure::marks(dir, expected.drive, options.failure_marks.as_deref());
    let failed = |reason| OpenError::Failed {
        dir: dir.display().to_string(),
        reason,
        marks: marks.iter().map(|mark| mark.display().to_string()).collect::<Vec<_>>().join(", "),
    };
    let before = failure::find(disk, &marks).map_err(OpenError::io("look for marks of failure"))?;
    if let Some(reason) = before {
        return Err(failed(reason));
    }
    if superblock::whole_copies(disk, dir)? != [true, true] {
        tracing::warn!(
            drive = expected.drive.0,
            "a copy of the superblock is damaged, and written again"
        );
    }
    info.opens += 1;
    let opened = superblock::rewrite(disk, dir, &info)
        .and_then(|()| recover_index(env, dir, options, info.incarnation));
    let (kv, recovered) = opened.map_err(|error| match error {
        OpenError::Failed { reason, .. } => {
            failure::leave(disk, &marks, &reason);
            failed(reason)
        }
        other => other,
    })?;
    let Recovered { log, report, facts_lost } = recovered;
    if report.torn_tail_bytes > 0 {
        tracing::warn!(
            drive = expected.drive.0,
            bytes = report.torn_tail_bytes,
            "cut an unsynced tail"
        );
    }
    Ok(Shared::new(Parts {
        env: env.clone(),
        dir: dir.to_path_buf(),
        options: options.clone(),
        info,
        report,
        kv,
        log,
        facts_lost,
        lock,
    }))
}

fn lock(env: &Env, dir: &Path) -> Result<Box<dyn DiskLock>, OpenError> {
    env.disk.lock(&dir.join("lock")).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => OpenError::Locked(dir.display().to_string()),
        _ => OpenError::Io { doing: "lock the drive".into(), error },
    })
}

fn check_identity(
    info: &SuperblockInfo,
    expected: DriveIdentity,
    incarnation: Option<Incarnation>,
) -> Result<(), OpenError> {
    let found = info.identity;
    if found.cluster != expected.cluster {
        return Err(OpenError::WrongCluster {
            found: found.cluster.to_string(),
            expected: expected.cluster.to_string(),
        });
    }
    if found.drive != expected.drive {
        return Err(OpenError::WrongDrive { found: found.drive, expected: expected.drive });
    }
    match incarnation.filter(|expected| *expected != info.incarnation) {
        Some(expected) => Err(OpenError::WrongIncarnation {
            found: info.incarnation.to_string(),
            expected: expected.to_string(),
        }),
        None => Ok(()),
    }
}

fn recover_index(
    env: &Env,
    dir: &Path,
    options: &DriveOptions,
    incarnation: Incarnation,
) -> Result<(Arc<dyn Kv>, Recovered), OpenError> {
    let mark = index::rebuild_mark(dir);
    let asked = env.disk.exists(&mark).map_err(OpenError::io("look for the rebuild mark"))?;
    let first = if asked {
        Err(Unusable::Rebuild("a damaged row was met"))
    } else {
        try_recover(env, dir, options, incarnation)
    };
    let why = match first {
        Ok(recovered) => return Ok(recovered),
        Err(Unusable::Open(error)) => return Err(error),
        Err(Unusable::Rebuild(why)) => why,
    };
    tracing::warn!(why, "rebuilding the index from the segments");
    let index_error = |error: KvError| OpenError::Index(error.to_string());
    env.kv.destroy(&index::path(dir)).map_err(index_error)?;
    let (kv, mut recovered) = match try_recover(env, dir, options, incarnation) {
        Ok(found) => found,
        Err(Unusable::Open(error)) => return Err(error),
        Err(Unusable::Rebuild(why)) => return Err(OpenError::Index(why.into())),
    };
    kv.flush().map_err(index_error)?;
    if asked {
        env.disk
            .remove_file(&mark)
            .and_then(|()| env.disk.sync_dir(dir))
            .map_err(OpenError::io("remove the rebuild mark"))?;
    }
    recovered.report.index_rebuilt = true;
    Ok((kv, recovered))
}

fn try_recover(
    env: &Env,
    dir: &Path,
    options: &DriveOptions,
    incarnation: Incarnation,
) -> Result<(Arc<dyn Kv>, Recovered), Unusable> {
    env.kv.destroy(&index::verify_path(dir))?;
    let kv = env.kv.open(&index::path(dir), &index::options())?;
    let recovered = recover(env, dir, options, incarnation.0, &kv)?;
    Ok((kv, recovered))
}
