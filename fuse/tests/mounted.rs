//! A mount in this process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use nexusgrid_fuse::volume::{Caller, RequestId, SetAttributes};
use nexusgrid_fuse::{Identity, Mount, MountOptions, NOBODY, Notice, Volume};

use crate::reference::Reference;

/// What the kernel may believe: so long that a test that passes does not owe it to time.
pub const VALID: Duration = Duration::from_secs(3600);

pub struct Mounted {
    mount: Option<Mount<Reference>>,
    pub runtime: tokio::runtime::Runtime,
    pub dir: tempfile::TempDir,
}

static MOUNTS: AtomicU64 = AtomicU64::new(1);

impl Mounted {
    pub fn new(options: MountOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let name = u128::from(MOUNTS.fetch_add(1, Ordering::Relaxed));
        let volume = Reference::new(VALID);
        let mount =
            Mount::new(volume, dir.path(), options, name, runtime.handle().clone()).unwrap();
        Self { mount: Some(mount), runtime, dir }
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    pub fn volume(&self) -> &Reference {
        self.mount.as_ref().unwrap().volume()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(mount) = self.mount.take() {
            if std::thread::panicking() { drop(mount) } else { mount.unmount().unwrap() }
        }
    }
}

fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().expect("an error").raw_os_error().unwrap()
}

#[test]
fn files_keep_what_is_written() {
    let mounted = Mounted::new(MountOptions::default());
    let path = mounted.path("big");
    let block: Vec<u8> = (0..3_000_001_u32).map(|at| (at * 7 % 251) as u8).collect();
    fs::write(&path, &block).unwrap();
    assert_eq!(fs::read(&path).unwrap(), block);
    assert_eq!(fs::metadata(&path).unwrap().len(), block.len() as u64);

    let mut file = OpenOptions::new().append(true).read(true).open(&path).unwrap();
    file.write_all(b"end").unwrap();
    file.sync_all().unwrap();
    file.seek(SeekFrom::End(-3)).unwrap();
    let mut tail = String::new();
    file.read_to_string(&mut tail).unwrap();
    assert_eq!(tail, "end");

    // Gone by name, there by handle.
    fs::remove_file(&path).unwrap();
    let mut first = [0; 4];
    file.read_exact_at(&mut first, 0).unwrap();
    assert_eq!(first, block[..4]);
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    assert_eq!(errno(fs::metadata(&path)), libc::ENOENT);
}

#[test]
fn listings_are_whole_and_stable() {
    let mounted = Mounted::new(MountOptions::default());
    let dir = mounted.path("d");
    fs::create_dir(&dir).unwrap();
    for number in 0..1500 {
        File::create(dir.join(format!("a-name-of-some-length-{number:05}"))).unwrap();
    }
    let listing = fs::read_dir(&dir).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for (at, entry) in listing.enumerate() {
        let entry = entry.unwrap();
        assert!(seen.insert(entry.file_name()), "twice: {:?}", entry.file_name());
        // Names that come and go meanwhile must not shift the others.
        if at % 100 == 0 {
            File::create(dir.join(format!("new-{at}"))).unwrap();
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let old = seen.iter().filter(|name| name.to_string_lossy().starts_with('a')).count();
    assert_eq!(old, 1500);
}

#[test]
fn holes_attributes_and_copies() {
    let mounted = Mounted::new(MountOptions::default());
    let path = mounted.path("sparse");
    let file = File::create_new(&path).unwrap();
    file.write_all_at(b"x", 1 << 20).unwrap();
    assert_eq!(find(&file, 0, true).unwrap(), 1 << 20);
    assert_eq!(find(&file, 1 << 20, false).unwrap(), (1 << 20) + 1);
    assert_eq!(errno(find(&file, 2 << 20, true)), libc::ENXIO);
    rustix::fs::fallocate(
        &file,
        rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE,
        0,
        2 << 20,
    )
    .unwrap();
    assert_eq!(errno(find(&file, 0, true)), libc::ENXIO);
    assert_eq!(file.metadata().unwrap().len(), (1 << 20) + 1);
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 3 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3 << 20);

    fs::write(mounted.path("from"), b"0123456789").unwrap();
    let from = File::open(mounted.path("from")).unwrap();
    let to = File::create_new(mounted.path("to")).unwrap();
    let mut offset = 3;
    let copied = rustix::fs::copy_file_range(&from, Some(&mut offset), &to, None, 100).unwrap();
    assert_eq!((copied, offset), (7, 10));
    assert_eq!(fs::read(mounted.path("to")).unwrap(), b"3456789");

    let set = |name: &str, value: &[u8], flags| {
        rustix::fs::setxattr(&path, name, value, flags).map_err(io::Error::from)
    };
    use rustix::fs::XattrFlags;
    set("user.a", b"1", XattrFlags::CREATE).unwrap();
    assert_eq!(errno(set("user.a", b"2", XattrFlags::CREATE)), libc::EEXIST);
    assert_eq!(errno(set("user.b", b"2", XattrFlags::REPLACE)), libc::ENODATA);
    set("user.a", &[7; 65536], XattrFlags::REPLACE).unwrap();
    let mut value = vec![0; 65536];
    assert_eq!(rustix::fs::getxattr(&path, "user.a", &mut value).unwrap(), 65536);
    let short = rustix::fs::getxattr(&path, "user.a", &mut [0_u8; 10][..]);
    assert_eq!(short.unwrap_err().raw_os_error(), libc::ERANGE);
    let mut list = [0_u8; 100];
    assert_eq!(rustix::fs::listxattr(&path, &mut list[..]).unwrap(), 7);
}

fn find(file: &File, offset: u64, data: bool) -> io::Result<u64> {
    use rustix::fs::SeekFrom::{Data, Hole};
    Ok(rustix::fs::seek(file, if data { Data(offset) } else { Hole(offset) })?)
}

#[test]
fn names_move_as_asked() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let mounted = Mounted::new(MountOptions::default());
    let (a, b) = (mounted.path("a"), mounted.path("b"));
    fs::write(&a, b"A").unwrap();
    fs::write(&b, b"B").unwrap();
    let taken = renameat_with(CWD, &a, CWD, &b, RenameFlags::NOREPLACE).unwrap_err();
    assert_eq!(taken.raw_os_error(), libc::EEXIST);
    renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE).unwrap();
    assert_eq!((fs::read(&a).unwrap(), fs::read(&b).unwrap()), (b"B".to_vec(), b"A".to_vec()));
    fs::create_dir_all(mounted.path("d/e")).unwrap();
    assert_eq!(errno(fs::rename(mounted.path("d"), mounted.path("d/e/f"))), libc::EINVAL);
    symlink("a", mounted.path("s")).unwrap();
    assert_eq!(fs::read_link(mounted.path("s")).unwrap(), Path::new("a"));
    fs::hard_link(&a, mounted.path("h")).unwrap();
    assert_eq!(fs::metadata(mounted.path("h")).unwrap().nlink(), 2);
}

#[test]
fn times_before_1970_are_themselves() {
    let mounted = Mounted::new(MountOptions::default());
    let path = mounted.path("old");
    let file = File::create_new(&path).unwrap();
    let old = SystemTime::UNIX_EPOCH - Duration::new(100, 250_000_000);
    file.set_times(fs::FileTimes::new().set_modified(old).set_accessed(old)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), old);
    assert_eq!(
        (fs::metadata(&path).unwrap().mtime(), fs::metadata(&path).unwrap().mtime_nsec()),
        (-101, 750_000_000)
    );
}

/// `u::rwx,u:1234:rw-,g::r-x,m::rwx,o::---` as the kernel stores it.
fn default_list() -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in [
        (1_u16, 7_u16, u32::MAX),
        (2, 6, 1234),
        (4, 5, u32::MAX),
        (16, 7, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        list.extend_from_slice(&tag.to_le_bytes());
        list.extend_from_slice(&rights.to_le_bytes());
        list.extend_from_slice(&id.to_le_bytes());
    }
    list
}

#[test]
fn default_lists_replace_the_umask() {
    let mounted = Mounted::new(MountOptions::default());
    let dir = mounted.path("d");
    fs::create_dir(&dir).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&dir, "system.posix_acl_default", &default_list(), flags).unwrap();
    // Made with 0666 and whatever umask this process has.
    let file = dir.join("f");
    File::create_new(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o660);
    let mut list = [0; 200];
    let length = rustix::fs::getxattr(&file, "system.posix_acl_access", &mut list[..]).unwrap();
    assert_eq!(length, default_list().len());
    // chmod changes the mask, and so what the named user may.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    rustix::fs::getxattr(&file, "system.posix_acl_access", &mut list[..]).unwrap();
    assert_eq!(list[4 + 3 * 8..4 + 3 * 8 + 4], [16, 0, 0, 0]);
}

#[test]
fn options_hold() {
    let read_only = Mounted::new(MountOptions { read_only: true, ..MountOptions::default() });
    assert_eq!(errno(File::create(read_only.path("f"))), libc::EROFS);

    let mounted = Mounted::new(MountOptions::default());
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line =
        table.lines().find(|line| line.contains(mounted.dir.path().to_str().unwrap())).unwrap();
    for option in ["nosuid", "nodev", "default_permissions", "allow_other", "fuse.nexusgrid"] {
        assert!(line.contains(option), "{option}: {line}");
    }
    let device = fs::metadata(mounted.dir.path()).unwrap().dev();
    let bdi = format!("/sys/class/bdi/{}:{}/read_ahead_kb", device >> 8 & 0xfff, device & 0xff);
    assert_eq!(fs::read_to_string(bdi).unwrap().trim(), "1024");
}

#[test]
fn a_squashed_root_is_nobody() {
    let identity = Identity { squash_root: Some((NOBODY, NOBODY)), ..Identity::default() };
    let mounted = Mounted::new(MountOptions { identity, ..MountOptions::default() });
    // The volume's root directory is root's: 0755.
    assert_eq!(errno(File::create(mounted.path("f"))), libc::EACCES);
    let request = RequestId { mount: 0, number: u64::MAX };
    let root = Caller { uid: 0, gid: 0, pid: 0, request, repeated: false };
    let open = SetAttributes { permissions: Some(0o1777), ..SetAttributes::default() };
    let volume = mounted.volume();
    let ino = nexusgrid_fuse::volume::ROOT;
    mounted.runtime.block_on(volume.setattr(&root, ino, None, &open)).unwrap();
    File::create(mounted.path("f")).unwrap();
    assert_eq!(fs::metadata(mounted.path("f")).unwrap().uid(), NOBODY);
    assert_eq!(errno(std::os::unix::fs::chown(mounted.path("f"), Some(1), None)), libc::EPERM);
    let other = Caller { uid: 77, ..root };
    let creation = nexusgrid_fuse::volume::Creation {
        kind: nexusgrid_fuse::volume::Kind::File,
        permissions: 0o600,
        umask: 0,
        device: 0,
    };
    let other = Caller { request: RequestId { mount: 0, number: u64::MAX - 1 }, ..other };
    mounted.runtime.block_on(volume.mknod(&other, ino, b"theirs", &creation)).unwrap();
    assert_eq!(errno(File::open(mounted.path("theirs"))), libc::EACCES);
    // The sticky bit holds for this root as well.
    assert_eq!(errno(fs::remove_file(mounted.path("theirs"))), libc::EPERM);
}

/// Why that is an option for volumes with one writer: what others write is not seen, notice or not.
#[test]
fn a_kernel_that_keeps_writes_back_believes_its_own_size() {
    for kernel_write_back in [false, true] {
        let mounted = Mounted::new(MountOptions { kernel_write_back, ..MountOptions::default() });
        let path = mounted.path("f");
        fs::write(&path, b"old").unwrap();
        let held = File::open(&path).unwrap();
        held.sync_all().unwrap();
        let ino = nexusgrid_fuse::volume::Ino(held.metadata().unwrap().ino());
        let request = RequestId { mount: 0, number: u64::MAX };
        let other = Caller { uid: 0, gid: 0, pid: 0, request, repeated: false };
        let grow = SetAttributes { size: Some(1000), ..SetAttributes::default() };
        mounted.runtime.block_on(async {
            mounted.volume().setattr(&other, ino, None, &grow).await.unwrap();
            let notice = Notice::Data { ino, offset: 0, length: None };
            mounted.volume().notices().tell(notice).await;
        });
        let seen = held.metadata().unwrap().len();
        assert_eq!(seen, if kernel_write_back { 3 } else { 1000 });
    }
}

#[test]
fn notices_reach_the_kernels_caches() {
    let mounted = Mounted::new(MountOptions::default());
    let path = mounted.path("f");
    fs::write(&path, b"old").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(errno(fs::metadata(mounted.path("g"))), libc::ENOENT);
    let held = File::open(&path).unwrap();
    let ino = nexusgrid_fuse::volume::Ino(fs::metadata(&path).unwrap().ino());
    let root = nexusgrid_fuse::volume::ROOT;

    // As if from another machine: past this kernel.
    let volume = mounted.volume();
    let mut number = u64::MAX;
    let mut caller = || {
        number -= 1;
        let request = RequestId { mount: 0, number };
        Caller { uid: 0, gid: 0, pid: 0, request, repeated: false }
    };
    let handle = nexusgrid_fuse::volume::Handle(u64::MAX);
    let flags = nexusgrid_fuse::volume::OpenFlags(libc::O_RDWR);
    let changed = nexusgrid_fuse::volume::Write {
        offset: 0,
        data: bytes::Bytes::from_static(b"newer"),
        from_cache: false,
    };
    mounted.runtime.block_on(async {
        volume.open(&caller(), ino, flags, handle).await.unwrap();
        volume.write(&caller(), ino, handle, changed).await.unwrap();
        volume.link(&caller(), ino, root, b"g").await.unwrap();
    });
    assert_eq!(fs::read(&path).unwrap(), b"old", "the kernel believes what it was told");
    mounted.runtime.block_on(async {
        volume.notices().tell(Notice::Data { ino, offset: 0, length: None }).await;
        volume.notices().tell(Notice::Name { parent: root, name: b"g".to_vec() }).await;
    });
    assert_eq!(fs::metadata(&path).unwrap().len(), 5);
    assert_eq!(fs::read(&path).unwrap(), b"newer");
    assert_eq!(fs::metadata(mounted.path("g")).unwrap().nlink(), 2);
    drop(held);
    mounted.runtime.block_on(async {
        let context = caller();
        volume.release(&context, ino, handle, None).await.unwrap();
    });
}

/// A lock of the open file, not of the process: so one process can have two.
fn lock(file: &File, kind: i32, wait: bool) -> io::Result<()> {
    use nix::fcntl::FcntlArg::{F_OFD_SETLK, F_OFD_SETLKW};
    let lock = libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 10,
        l_pid: 0,
    };
    let command = if wait { F_OFD_SETLKW(&lock) } else { F_OFD_SETLK(&lock) };
    Ok(nix::fcntl::fcntl(file, command).map(drop)?)
}

#[test]
fn locks_exclude_and_wait() {
    let mounted = Mounted::new(MountOptions::default());
    let path = mounted.path("f");
    File::create(&path).unwrap();
    let open = || OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let (one, two) = (open(), open());
    lock(&one, libc::F_WRLCK, false).unwrap();
    assert_eq!(errno(lock(&two, libc::F_RDLCK, false)), libc::EAGAIN);
    let waiter = std::thread::spawn(move || {
        lock(&two, libc::F_WRLCK, true).unwrap();
        two
    });
    lock(&one, libc::F_UNLCK, false).unwrap();
    let two = waiter.join().unwrap();
    assert_eq!(errno(lock(&one, libc::F_RDLCK, false)), libc::EAGAIN);
    // Gone with the last descriptor, of which the kernel tells in the background. The new file is open before
    // the old one is closed: it is no owner whom the volume knows.
    let eventually = |file: &File, lock: &dyn Fn(&File) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !lock(file) {
            assert!(Instant::now() < deadline, "a lock outlived its file");
            std::thread::yield_now();
        }
    };
    let three = open();
    drop((one, two));
    eventually(&three, &|file| lock(file, libc::F_WRLCK, false).is_ok());
    // flock: the whole file, against whom else.
    let (one, two) = (open(), open());
    drop(three);
    eventually(&one, &|file| file.try_lock().is_ok());
    assert!(two.try_lock().is_err());
    drop(one);
    eventually(&two, &|file| file.try_lock().is_ok());
}

/// Who waits for a lock can be killed: without interrupts the kernel alone would wait for ever.
#[test]
fn a_waiter_for_a_lock_hears_signals() {
    let mounted = Mounted::new(MountOptions::default());
    let path = mounted.path("f");
    let file = File::create(&path).unwrap();
    file.try_lock().unwrap();
    let mut waiter = std::process::Command::new("flock").arg(&path).arg("true").spawn().unwrap();
    let blocked = || {
        fs::read_to_string(format!("/proc/{}/wchan", waiter.id()))
            .is_ok_and(|place| place.contains("fuse") || place.contains("request_wait"))
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while !blocked() {
        assert!(Instant::now() < deadline, "never waited");
        std::thread::yield_now();
    }
    waiter.kill().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while waiter.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "a killed process waits for its lock");
        std::thread::yield_now();
    }
}

#[test]
fn what_cannot_be_mounted_is_said() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let handle = runtime.handle();
    let volume = || Reference::new(VALID);
    let options = MountOptions { threads: 0, ..MountOptions::default() };
    let dir = tempfile::tempdir().unwrap();
    assert!(Mount::new(volume(), dir.path(), options, 1, handle.clone()).is_err());
    let missing = dir.path().join("missing");
    assert!(Mount::new(volume(), &missing, MountOptions::default(), 1, handle.clone()).is_err());
}
