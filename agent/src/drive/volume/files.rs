//! Which files are open, who may have locks on them, and whose turn it is to store a file's bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use nexusgrid_fuse::owners::Owners;
use nexusgrid_fuse::volume::{Handle, Ino, LockOwner, OpenFlags};
use nexusgrid_fuse::{Outcome, VolumeError};
use parking_lot::Mutex;

use super::super::borrowed::LoanId;
use super::super::limits::PAGES_MAX;
use super::super::turns::{self, Turns};

/// A turn with a file.
pub(super) type Turn = turns::Turn<Ino>;

/// How often a file is open.
#[derive(Default)]
struct Open {
    handles: usize,
    /// Of these, through which it can be changed by `mmap`.
    mappable: usize,
}

fn is_mappable(flags: OpenFlags) -> bool {
    flags.reads() && flags.writes()
}

/// What the kernel has of a file's bytes, of one that is or was open.
struct Pages {
    /// Nothing of it was read before this was lent, but for what was dropped since.
    loan: LoanId,
    /// When the kernel had this, it dropped what it had.
    by: Handle,
    /// It has.
    have_begun: bool,
}

#[derive(Default)]
struct Table {
    handles: BTreeMap<Handle, (Ino, OpenFlags)>,
    open: BTreeMap<Ino, Open>,
    /// What went wrong with bytes that were given up, for who asks next.
    given_up: BTreeMap<Ino, VolumeError>,
    pages: HashMap<Ino, Pages>,
}

/// The table.
pub(super) struct Files {
    table: Mutex<Table>,
    owners: Owners,
    storing: Turns<Ino>,
    holding: Turns<Ino>,
}

impl Files {
    /// A table; of whom the daemon before knew that they may have locks, this one knows it as well.
    pub(super) fn new(owners: Owners) -> Files {
        let (storing, holding) = (Turns::default(), Turns::default());
        Files { table: Mutex::default(), owners, storing, holding }
    }

    /// Notes an open file; gives whether it is the first time that this one is open. One that is noted
    /// already (its request was repeated) counts once.
    pub(super) fn open(&self, ino: Ino, handle: Handle, flags: OpenFlags) -> bool {
        let mut table = self.table.lock();
        if table.handles.insert(handle, (ino, flags)).is_some() {
            return false;
        }
        let open = table.open.entry(ino).or_default();
        open.handles += 1;
        open.mappable += usize::from(is_mappable(flags));
        open.handles == 1
    }

    /// Whether the kernel may keep the pages that it has of a file that is being opened, of which `loan` is lent now: if
    /// nothing was changed since the first of them was read.
    pub(super) fn may_keep_pages(&self, ino: Ino, handle: Handle, loan: Option<LoanId>) -> bool {
        let mut table = self.table.lock();
        let known = table.pages.get(&ino).filter(|pages| Some(pages.loan) == loan);
        match (known, loan) {
            // Until the kernel has dropped what it had before, another must not keep that.
            (Some(pages), _) => pages.have_begun,
            (None, Some(loan)) => {
                if table.pages.len() >= PAGES_MAX {
                    table.pages.clear();
                }
                table.pages.insert(ino, Pages { loan, by: handle, have_begun: false });
                false
            }
            (None, None) => {
                table.pages.remove(&ino);
                false
            }
        }
    }

    /// What the kernel has of a file is not what the file has.
    pub(super) fn forget_pages(&self, ino: Ino) {
        self.table.lock().pages.remove(&ino);
    }

    /// The kernel makes a call through a handle: it has had it for a while.
    pub(super) fn is_had(&self, ino: Ino, handle: Handle) {
        let mut table = self.table.lock();
        if let Some(pages) = table.pages.get_mut(&ino).filter(|pages| pages.by == handle) {
            pages.have_begun = true;
        }
    }

    /// The file behind a handle.
    pub(super) fn of(&self, handle: Handle) -> Option<Ino> {
        self.table.lock().handles.get(&handle).map(|(ino, _)| *ino)
    }

    /// Forgets one; gives whether it was the last of its file.
    pub(super) fn close(&self, handle: Handle) -> bool {
        let mut table = self.table.lock();
        let Some((ino, flags)) = table.handles.remove(&handle) else { return false };
        let Some(open) = table.open.get_mut(&ino) else { return false };
        open.handles -= 1;
        open.mappable -= usize::from(is_mappable(flags));
        if open.handles > 0 {
            return false;
        }
        table.open.remove(&ino);
        table.given_up.remove(&ino);
        self.owners.strike_file(ino);
        true
    }

    /// Whether a file is open.
    pub(super) fn is_open(&self, ino: Ino) -> bool {
        self.table.lock().open.contains_key(&ino)
    }

    /// Files that are open.
    pub(super) fn all_open(&self) -> Vec<Ino> {
        self.table.lock().open.keys().copied().collect()
    }

    /// Whether writes through it go to the file's end.
    pub(super) fn appends(&self, handle: Handle) -> bool {
        self.table.lock().handles.get(&handle).is_some_and(|(_, flags)| flags.appends())
    }

    /// Whether programs may have changed it through `mmap`: that takes a handle that reads and writes, and lasts
    /// as long.
    pub(super) fn may_be_mapped(&self, ino: Ino) -> bool {
        self.table.lock().open.get(&ino).is_some_and(|open| open.mappable > 0)
    }

    /// An owner is about to have a lock.
    pub(super) fn locks(&self, ino: Ino, owner: LockOwner, handle: Handle) -> Outcome<()> {
        self.owners.note(ino, owner, handle)
    }

    /// Owners that may have locks through a handle: of an open file description they go with it, and
    /// nobody says so.
    pub(super) fn owners(&self, ino: Ino, handle: Handle) -> BTreeSet<LockOwner> {
        self.owners.through(ino, handle)
    }

    /// Bytes of a file were given up.
    pub(super) fn gave_up(&self, ino: Ino, why: VolumeError) {
        let mut table = self.table.lock();
        // The kernel may have them still.
        table.pages.remove(&ino);
        if table.open.contains_key(&ino) {
            table.given_up.insert(ino, why);
        }
    }

    /// Why bytes of a file were given up, if they were.
    pub(super) fn given_up(&self, ino: Ino) -> Option<VolumeError> {
        self.table.lock().given_up.get(&ino).copied()
    }

    /// Whether an owner may have one.
    pub(super) fn may_lock(&self, ino: Ino, owner: LockOwner) -> bool {
        self.owners.may_lock(ino, owner)
    }

    /// It has none any more.
    pub(super) fn unlocked(&self, ino: Ino, owner: LockOwner) {
        self.owners.strike(ino, owner);
    }

    /// The turn to store a file's bytes, or to change its size.
    pub(super) async fn storing(&self, ino: Ino) -> Turn {
        self.storing.wait(ino).await
    }

    /// Likewise, if nobody has it.
    pub(super) fn storing_now(&self, ino: Ino) -> Option<Turn> {
        self.storing.free(ino)
    }

    /// The turn to hold a file, or to let it go.
    pub(super) async fn holding(&self, ino: Ino) -> Turn {
        self.holding.wait(ino).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: OpenFlags = OpenFlags(0);

    #[test]
    fn a_file_is_open_while_one_handle_is() {
        let files = Files::new(Owners::new(tempfile::tempfile().unwrap()).unwrap());
        let (ino, owner) = (Ino(2), LockOwner(9));
        assert!(files.open(ino, Handle(1), FLAGS));
        assert!(!files.open(ino, Handle(2), OpenFlags(2)));
        assert!(!files.open(ino, Handle(2), OpenFlags(2)), "repeated");
        assert!(files.may_be_mapped(ino) && !files.may_be_mapped(Ino(3)));
        files.locks(ino, owner, Handle(1)).unwrap();
        assert_eq!(files.owners(ino, Handle(1)), BTreeSet::from([owner]));
        assert!(!files.close(Handle(2)));
        assert!(!files.close(Handle(2)), "repeated");
        assert!(!files.may_be_mapped(ino));
        assert!(files.may_lock(ino, owner) && !files.may_lock(ino, LockOwner(8)));
        assert!(files.close(Handle(1)));
        assert!(!files.may_lock(ino, owner));
    }
}
