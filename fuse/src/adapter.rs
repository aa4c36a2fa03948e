//! What every call shares: the volume, who asks, and the bounds.

use std::ops::Deref;
use std::sync::Arc;

use fuser::{FileAttr, FopenFlags};

use crate::calls::{Bound, Call, Calls, Patience};
use crate::error::Outcome;
use crate::handles::Handles;
use crate::options::MountOptions;
use crate::readers::Rehearsal;
use crate::squash::{self, Want};
use crate::translate::{Shown, attributes};
use crate::volume::{
    Caller, Entry, Handle, Ino, Known, OpenFile, OpenFlags, Opened, RequestId, Volume,
};

/// The bit by which the kernel marks a request that it sends again.
const REPEATED: u64 = 1 << 63;

/// fuser's file system: turns its calls into the volume's (see [`crate::ops`]).
pub(crate) struct Adapter<V>(pub(crate) Arc<Shared<V>>);

impl<V> Deref for Adapter<V> {
    type Target = Arc<Shared<V>>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// What calls share while they run.
pub(crate) struct Shared<V> {
    pub(crate) volume: Arc<V>,
    pub(crate) calls: Calls,
    pub(crate) handles: Handles,
    pub(crate) options: MountOptions,
    pub(crate) mount: u128,
    pub(crate) rehearsal: Arc<Rehearsal>,
}

/// Who asks, and whether that is a root to be squashed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    pub(crate) caller: Caller,
    squashed: bool,
}

impl Asker {
    pub(crate) fn call(&self, patience: Patience) -> Call {
        self.call_within(patience, Bound::Calls)
    }

    pub(crate) fn call_within(&self, patience: Patience, bound: Bound) -> Call {
        Call { number: self.caller.request.number, pid: self.caller.pid, patience, bound }
    }
}

impl<V: Volume> Shared<V> {
    pub(crate) fn asker(&self, request: &fuser::Request) -> Asker {
        let identity = &self.options.identity;
        let number = request.unique().0;
        Asker {
            caller: Caller {
                uid: identity.user_in(request.uid()),
                gid: identity.group_in(request.gid()),
                pid: request.pid(),
                request: RequestId { mount: self.mount, number: number & !REPEATED },
                repeated: number & REPEATED != 0,
            },
            squashed: request.uid() == 0 && identity.squash_root.is_some(),
        }
    }

    pub(crate) async fn allow(&self, asker: &Asker, ino: Ino, want: Want) -> Outcome<()> {
        if asker.squashed {
            squash::allow(&*self.volume, &asker.caller, ino, want).await?;
        }
        Ok(())
    }

    pub(crate) async fn allow_removal(
        &self,
        asker: &Asker,
        parent: Ino,
        name: &[u8],
    ) -> Outcome<()> {
        if asker.squashed {
            squash::allow_removal(&*self.volume, &asker.caller, parent, name).await?;
        }
        Ok(())
    }

    pub(crate) async fn allow_set(
        &self,
        asker: &Asker,
        ino: Ino,
        set: &crate::volume::SetAttributes,
    ) -> Outcome<()> {
        if asker.squashed {
            squash::allow_set(&*self.volume, &asker.caller, ino, set).await?;
        }
        Ok(())
    }

    pub(crate) async fn allow_owner(&self, asker: &Asker, ino: Ino) -> Outcome<()> {
        if asker.squashed {
            squash::allow_owner(&*self.volume, &asker.caller, ino).await?;
        }
        Ok(())
    }

    pub(crate) async fn allow_open(
        &self,
        asker: &Asker,
        ino: Ino,
        flags: OpenFlags,
    ) -> Outcome<()> {
        if flags.reads() {
            self.allow(asker, ino, squash::READ).await?;
        }
        if flags.writes() || flags.truncates() {
            self.allow(asker, ino, squash::WRITE).await?;
        }
        Ok(())
    }

    pub(crate) fn shown(&self, entry: &Entry) -> Shown {
        Shown::new(entry, &self.options.identity)
    }

    pub(crate) fn known(&self, known: &Known) -> (FileAttr, std::time::Duration) {
        (attributes(&known.attributes, &self.options.identity), known.valid)
    }

    /// Takes a handle, lets `open` open it, and notes it; or gives it back.
    pub(crate) async fn opening<T>(
        &self,
        caller: &Caller,
        flags: OpenFlags,
        open: impl AsyncFnOnce(Handle) -> Outcome<(Ino, T)>,
    ) -> Outcome<(Handle, T)> {
        let handle = self.handles.reserve(caller)?;
        let opened = match open(handle).await {
            Ok((ino, opened)) => {
                let file = OpenFile { handle, ino, flags, uid: caller.uid, gid: caller.gid };
                self.handles.opened(file, caller.request.number).map(|()| opened)
            }
            Err(error) => Err(error),
        };
        match opened {
            Ok(opened) => Ok((handle, opened)),
            Err(error) => {
                self.handles.abandoned(handle);
                Err(error)
            }
        }
    }
}

/// What the kernel may do with the file.
pub(crate) fn fopen(opened: Opened) -> FopenFlags {
    let mut flags = FopenFlags::empty();
    if opened.keep_pages {
        flags |= FopenFlags::FOPEN_KEEP_CACHE;
    }
    if opened.direct {
        flags |= FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
    }
    flags
}
