//! What the volume tells the kernel: caches that no longer hold.
//!
//! Sent by a thread of its own: the kernel may wait, within such a write, for pages or names that a
//! request in progress has locked, and that request must find a thread to answer it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::thread;

use tokio::sync::{mpsc, oneshot};

use crate::error::MountError;
use crate::limits;
use crate::volume::Ino;

/// A cache that no longer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An inode's attributes.
    Attributes {
        /// The inode.
        ino: Ino,
    },
    /// Pages of a file, and its attributes.
    Data {
        /// The file.
        ino: Ino,
        /// First byte.
        offset: u64,
        /// How many; `None`: to the end.
        length: Option<u64>,
    },
    /// Where a name leads, or that there is none; the directory's listing as well.
    Name {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Vec<u8>,
    },
    /// As [`Name`](Self::Name), and whoever watches the directory hears that it was removed.
    Removed {
        /// The directory.
        parent: Ino,
        /// What the name led to.
        child: Ino,
        /// The name.
        name: Vec<u8>,
    },
}

struct Order {
    notice: Notice,
    done: oneshot::Sender<()>,
}

/// The volume's end of the line to the kernel's caches.
#[derive(Clone)]
pub struct Notices {
    orders: mpsc::Sender<Order>,
}

impl Notices {
    /// A line whose other end [`deliver`] empties.
    pub(crate) fn line() -> (Self, Pending) {
        let (sender, receiver) = mpsc::channel(limits::NOTICES);
        (Self { orders: sender }, Pending { orders: receiver })
    }

    /// Returns when the kernel has dropped what the notice names, or the mount has ended. Never
    /// to be awaited within a call on the same inode or directory: the kernel may hold it locked
    /// until that call is answered. Calls about locks may: they hold nothing, and are in no other's way. Of a
    /// file that programs have written through `mmap`, a notice of its data has the kernel write those pages
    /// first, as calls of their own.
    pub async fn tell(&self, notice: Notice) {
        let (done, told) = oneshot::channel();
        if self.orders.send(Order { notice, done }).await.is_ok() {
            // An error means that the thread has ended, and the mount with it.
            let _ = told.await;
        }
    }
}

/// The thread's end.
pub(crate) struct Pending {
    orders: mpsc::Receiver<Order>,
}

/// Starts the thread that tells the kernel; it ends when the volume has dropped its [`Notices`].
pub(crate) fn deliver(mut pending: Pending, kernel: fuser::Notifier) -> Result<(), MountError> {
    thread::Builder::new()
        .name("fuse-notices".to_owned())
        .spawn(move || {
            while let Some(order) = pending.orders.blocking_recv() {
                if let Err(error) = send(&kernel, &order.notice) {
                    // What the kernel does not have needs no notice: fuser hides that error. Others
                    // mean an ended mount, or a kernel too old for this kind.
                    tracing::debug!(%error, notice = ?order.notice, "the kernel took no notice");
                }
                let _ = order.done.send(());
            }
        })
        .map(drop)
        .map_err(MountError::system("start the thread for notices"))
}

fn send(kernel: &fuser::Notifier, notice: &Notice) -> std::io::Result<()> {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    match notice {
        // A negative offset: attributes only.
        Notice::Attributes { ino } => kernel.inval_inode(fuser::INodeNo(ino.0), -1, 0),
        Notice::Data { ino, offset, length } => kernel.inval_inode(
            fuser::INodeNo(ino.0),
            signed(*offset),
            // Not positive: to the end.
            length.map_or(0, signed),
        ),
        Notice::Name { parent, name } => {
            kernel.inval_entry(fuser::INodeNo(parent.0), OsStr::from_bytes(name))
        }
        Notice::Removed { parent, child, name } => kernel.delete(
            fuser::INodeNo(parent.0),
            fuser::INodeNo(child.0),
            OsStr::from_bytes(name),
        ),
    }
}
