//! What a root that is nobody may do.
//!
//! The kernel lets this machine's root pass all mode bits. Where root is mapped to nobody, its
//! calls are therefore checked here against the attributes the volume has, as a file server does.
//! Groups beyond the first are not known of a request, and count for nothing.

use crate::error::{Outcome, VolumeError};
use crate::volume::{Attributes, Caller, Found, Ino, SetAttributes, SetTime, Volume};

/// What is wanted of an inode: bits as in a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Want(pub(crate) u16);

pub(crate) const READ: Want = Want(4);
pub(crate) const WRITE: Want = Want(2);
pub(crate) const SEARCH: Want = Want(1);
pub(crate) const CHANGE: Want = Want(3);

fn granted(caller: &Caller, attributes: &Attributes, want: Want) -> Outcome<()> {
    let shift = if caller.uid == attributes.uid {
        6
    } else if caller.gid == attributes.gid {
        3
    } else {
        0
    };
    if attributes.permissions >> shift & want.0 == want.0 {
        Ok(())
    } else {
        Err(VolumeError::Denied)
    }
}

async fn attributes<V: Volume>(volume: &V, caller: &Caller, ino: Ino) -> Outcome<Attributes> {
    Ok(volume.getattr(caller, ino, None).await?.attributes)
}

/// Whether mode bits let the caller do this to an inode.
pub(crate) async fn allow<V: Volume>(
    volume: &V,
    caller: &Caller,
    ino: Ino,
    want: Want,
) -> Outcome<()> {
    granted(caller, &attributes(volume, caller, ino).await?, want)
}

/// Whether the caller may take a name out of a directory.
pub(crate) async fn allow_removal<V: Volume>(
    volume: &V,
    caller: &Caller,
    parent: Ino,
    name: &[u8],
) -> Outcome<()> {
    const STICKY: u16 = 0o1000;
    let directory = attributes(volume, caller, parent).await?;
    granted(caller, &directory, CHANGE)?;
    if directory.permissions & STICKY == 0 || directory.uid == caller.uid {
        return Ok(());
    }
    match volume.lookup(caller, parent, name).await? {
        Found::Entry(entry) => {
            let child = entry.known.attributes;
            volume.forget(child.ino, 1);
            if child.uid == caller.uid { Ok(()) } else { Err(VolumeError::NotPermitted) }
        }
        Found::Absent { .. } => Ok(()),
    }
}

/// Whether the caller may set these attributes.
pub(crate) async fn allow_set<V: Volume>(
    volume: &V,
    caller: &Caller,
    ino: Ino,
    set: &SetAttributes,
) -> Outcome<()> {
    let now = attributes(volume, caller, ino).await?;
    let owner = caller.uid == now.uid;
    let given_away = set.uid.is_some_and(|uid| uid != now.uid)
        || set.gid.is_some_and(|gid| gid != now.gid && gid != caller.gid);
    let owners = set.permissions.is_some()
        || set.uid.is_some()
        || set.gid.is_some()
        || matches!(set.accessed, Some(SetTime::At(_)))
        || matches!(set.modified, Some(SetTime::At(_)));
    if given_away || owners && !owner {
        return Err(VolumeError::NotPermitted);
    }
    let touched = set.accessed.is_some() || set.modified.is_some();
    if set.size.is_some() || touched && !owner {
        granted(caller, &now, WRITE)?;
    }
    Ok(())
}

/// Whether the caller owns an inode.
pub(crate) async fn allow_owner<V: Volume>(volume: &V, caller: &Caller, ino: Ino) -> Outcome<()> {
    if attributes(volume, caller, ino).await?.uid == caller.uid {
        Ok(())
    } else {
        Err(VolumeError::NotPermitted)
    }
}
