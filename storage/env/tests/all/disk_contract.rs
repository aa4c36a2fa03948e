//! One contract for all disks: real, simulated, and both obfuscated.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nexusgrid_env::obfuscate::ObfuscatedDisk;
use nexusgrid_env::real::RealDisk;
use nexusgrid_env::sim::SimDisk;
use nexusgrid_env::{Disk, OpenMode};
use proptest::prelude::*;

/// Runs `check` on every kind of disk, in an empty directory of its own.
fn on_every_disk(check: impl Fn(&dyn Disk, &Path)) {
    let directory = tempfile::tempdir().unwrap();
    let real: Arc<dyn Disk> = Arc::new(RealDisk);
    let sim: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    let root = directory.path().canonicalize().unwrap();
    let disks: [(&str, Arc<dyn Disk>); 4] = [
        ("real", real.clone()),
        ("sim", sim.clone()),
        ("obfuscated-real", Arc::new(ObfuscatedDisk::new(real, root.join("obfuscated-real")))),
        ("obfuscated-sim", Arc::new(ObfuscatedDisk::new(sim, root.join("obfuscated-sim")))),
    ];
    for (name, disk) in disks {
        let home = root.join(name);
        disk.create_dir_all(&home).unwrap();
        check(&*disk, &home);
    }
}

fn code<T>(result: io::Result<T>) -> Option<i32> {
    result.err().map(|error| error.raw_os_error().expect("errors are Linux's"))
}

fn write_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) {
    disk.open(path, OpenMode::CreateNew).unwrap().write_at(bytes, 0).unwrap();
}

fn read_file(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    let file = disk.open(path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize + 10];
    let read = file.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(read);
    bytes
}

#[test]
fn open_modes() {
    on_every_disk(|disk, home| {
        let path = home.join("file");
        assert_eq!(code(disk.open(&path, OpenMode::Read)), Some(libc::ENOENT));
        assert_eq!(code(disk.open(&path, OpenMode::ReadWrite)), Some(libc::ENOENT));
        write_file(disk, &path, b"first");
        assert_eq!(code(disk.open(&path, OpenMode::CreateNew)), Some(libc::EEXIST));
        let again = disk.open(&path, OpenMode::OpenOrCreate).unwrap();
        assert_eq!(again.len().unwrap(), 5, "opening cuts nothing");
        let reader = disk.open(&path, OpenMode::Read).unwrap();
        assert_eq!(code(reader.write_at(b"x", 0)), Some(libc::EBADF));
        assert_eq!(code(disk.open(home, OpenMode::Read)), Some(libc::EISDIR));
        assert_eq!(code(disk.open(&path.join("below"), OpenMode::Read)), Some(libc::ENOTDIR));
        let orphan = home.join("absent/file");
        assert_eq!(code(disk.open(&orphan, OpenMode::OpenOrCreate)), Some(libc::ENOENT));
    });
}

#[test]
fn reads_end_with_the_file_and_gaps_are_zero() {
    on_every_disk(|disk, home| {
        let path = home.join("file");
        let file = disk.open(&path, OpenMode::CreateNew).unwrap();
        assert!(file.is_empty().unwrap());
        file.write_at(b"tail", 10_000).unwrap();
        let mut buffer = [1; 16];
        assert_eq!(file.read_at(&mut buffer, 9_996).unwrap(), 8);
        assert_eq!(&buffer[..8], b"\0\0\0\0tail");
        assert_eq!(file.read_at(&mut buffer, 10_004).unwrap(), 0);
        file.write_vectored_at(&[b"", b"one ", b"", b"two", b""], 10_000).unwrap();
        assert_eq!(&read_file(disk, &path)[10_000..], b"one two");
        let parts: Vec<&[u8]> = std::iter::repeat_n(&b"ab"[..], 3000).collect();
        file.write_vectored_at(&parts, 3).unwrap();
        assert_eq!(read_file(disk, &path)[3..6003], b"ab".repeat(3000));
        file.sync().unwrap();
    });
}

#[test]
fn what_goes_past_the_cache_is_read_like_the_rest() {
    on_every_disk(|disk, home| {
        let path = home.join("file");
        let file = disk.open(&path, OpenMode::CreateNew).unwrap();
        let bytes: Vec<u8> = (0..(3usize << 20) + 8192).map(|at| (at ^ (at >> 9)) as u8).collect();
        let mut end = 0;
        // Short, long, at an odd place, of an odd length; and in parts that fit no boundary.
        for (offset, len) in [
            (0, 4096),
            (4096, bytes.len()),
            (4096 + bytes.len(), 256 << 10),
            (5 << 20, (128 << 10) + 1),
            ((6 << 20) + 1, 256 << 10),
        ] {
            let parts: Vec<&[u8]> = bytes[..len].chunks(77_777).collect();
            file.write_past_cache_at(&parts, offset as u64).unwrap();
            file.sync().unwrap();
            end = end.max(offset + len);
            assert_eq!(file.len().unwrap(), end as u64);
            let mut back = vec![0; len];
            assert_eq!(file.read_at(&mut back, offset as u64).unwrap(), len);
            assert!(back == bytes[..len], "{len} bytes at {offset}");
        }
        // What was read into the cache is not what stays there.
        file.write_past_cache_at(&[&[7; 256 << 10]], 8192).unwrap();
        assert!(read_file(disk, &path)[8192..][..256 << 10].iter().all(|byte| *byte == 7));
    });
}

#[test]
fn holes_free_space_and_read_zero() {
    on_every_disk(|disk, home| {
        let file = disk.open(&home.join("file"), OpenMode::CreateNew).unwrap();
        file.write_at(&[7; 64 << 10], 0).unwrap();
        file.sync().unwrap();
        let before = file.allocated_bytes().unwrap();
        file.punch_hole(4096, 32 << 10).unwrap();
        assert_eq!(file.allocated_bytes().unwrap(), before - (32 << 10));
        assert_eq!(file.len().unwrap(), 64 << 10);
        let mut byte = [1];
        file.read_at(&mut byte, 4096).unwrap();
        assert_eq!(byte, [0]);
        assert_eq!(code(file.punch_hole(0, 0)), Some(libc::EINVAL));
    });
}

#[test]
fn directories_and_names() {
    on_every_disk(|disk, home| {
        let deep = home.join("a/b/c");
        disk.create_dir_all(&deep).unwrap();
        disk.create_dir_all(&deep).unwrap();
        for name in ["zeta", "alpha", "mid"] {
            write_file(disk, &deep.join(name), name.as_bytes());
        }
        let names: Vec<PathBuf> = ["alpha", "mid", "zeta"].map(PathBuf::from).into();
        assert_eq!(disk.list(&deep).unwrap(), names);
        assert_eq!(code(disk.list(&home.join("absent"))), Some(libc::ENOENT));
        assert_eq!(code(disk.list(&deep.join("mid"))), Some(libc::ENOTDIR));
        assert!(disk.exists(&deep).unwrap() && disk.exists(&deep.join("mid")).unwrap());
        assert!(!disk.exists(&deep.join("nothing")).unwrap());
        assert!(!disk.exists(&deep.join("mid/below")).unwrap());
        assert_eq!(code(disk.create_dir_all(&deep.join("mid/below"))), Some(libc::ENOTDIR));
        disk.sync_dir(&deep).unwrap();
        assert_eq!(code(disk.sync_dir(&home.join("absent"))), Some(libc::ENOENT));
        disk.remove_file(&deep.join("mid")).unwrap();
        assert_eq!(code(disk.remove_file(&deep.join("mid"))), Some(libc::ENOENT));
        assert_eq!(code(disk.remove_file(&deep)), Some(libc::EISDIR));
        disk.remove_dir_all(&home.join("a")).unwrap();
        disk.remove_dir_all(&home.join("a")).unwrap();
        disk.remove_dir_all(&home.join("x/y")).unwrap();
        assert!(disk.list(home).unwrap().is_empty());
    });
}

#[test]
fn renames() {
    on_every_disk(|disk, home| {
        let (one, two) = (home.join("one"), home.join("two"));
        write_file(disk, &one, b"1");
        write_file(disk, &two, b"2");
        disk.rename(&one, &two).unwrap();
        assert_eq!(read_file(disk, &two), b"1");
        assert!(!disk.exists(&one).unwrap());
        assert_eq!(code(disk.rename(&one, &two)), Some(libc::ENOENT));
        let (full, empty) = (home.join("full"), home.join("empty"));
        disk.create_dir_all(&full).unwrap();
        disk.create_dir_all(&empty).unwrap();
        assert_eq!(code(disk.rename(&two, &full)), Some(libc::EISDIR));
        assert_eq!(code(disk.rename(&full, &two)), Some(libc::ENOTDIR));
        disk.rename(&two, &full.join("two")).unwrap();
        assert_eq!(code(disk.rename(&empty, &full)), Some(libc::ENOTEMPTY));
        assert_eq!(code(disk.rename(&full, &full.join("self"))), Some(libc::EINVAL));
        disk.rename(&full, &empty).unwrap();
        assert_eq!(read_file(disk, &empty.join("two")), b"1");
    });
}

#[test]
fn an_open_file_outlives_its_name() {
    on_every_disk(|disk, home| {
        let path = home.join("file");
        let file = disk.open(&path, OpenMode::CreateNew).unwrap();
        file.write_at(b"still here", 0).unwrap();
        disk.remove_file(&path).unwrap();
        write_file(disk, &path, b"another");
        let mut bytes = [0; 10];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 10);
        assert_eq!(&bytes, b"still here");
    });
}

#[test]
fn one_holder_of_a_lock() {
    on_every_disk(|disk, home| {
        let path = home.join("lock");
        let held = disk.lock(&path).unwrap();
        let refused = disk.lock(&path).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        disk.lock(&path).unwrap();
    });
}

#[test]
fn space_is_told() {
    on_every_disk(|disk, home| {
        let space = disk.space(home).unwrap();
        assert!(space.free_bytes > 0 && space.free_bytes <= space.total_bytes);
        assert_eq!(code(disk.space(&home.join("absent"))), Some(libc::ENOENT));
    });
}

#[derive(Clone, Debug)]
enum Op {
    Write { offset: u64, len: usize, byte: u8 },
    SetLen(u64),
    Punch { offset: u64, len: u64 },
    Sync,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u64..30_000, 0usize..9_000, any::<u8>())
            .prop_map(|(offset, len, byte)| Op::Write { offset, len, byte }),
        1 => (0u64..40_000).prop_map(Op::SetLen),
        1 => (0u64..30_000, 1u64..20_000).prop_map(|(offset, len)| Op::Punch { offset, len }),
        1 => Just(Op::Sync),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// A file is a vector of bytes.
    #[test]
    fn files_behave_as_vectors(ops in proptest::collection::vec(op(), 1..25)) {
        on_every_disk(|disk, home| {
            let path = home.join("file");
            let file = disk.open(&path, OpenMode::CreateNew).unwrap();
            let mut model: Vec<u8> = Vec::new();
            for op in &ops {
                match *op {
                    Op::Write { offset, len, byte } => {
                        file.write_at(&vec![byte; len], offset).unwrap();
                        let end = offset as usize + len;
                        if len > 0 {
                            model.resize(model.len().max(end), 0);
                            model[offset as usize..end].fill(byte);
                        }
                    }
                    Op::SetLen(len) => {
                        file.set_len(len).unwrap();
                        model.resize(len as usize, 0);
                    }
                    Op::Punch { offset, len } => {
                        file.punch_hole(offset, len).unwrap();
                        let end = (offset + len).min(model.len() as u64) as usize;
                        if (offset as usize) < end {
                            model[offset as usize..end].fill(0);
                        }
                    }
                    Op::Sync => file.sync().unwrap(),
                }
                assert_eq!(file.len().unwrap(), model.len() as u64);
            }
            assert!(read_file(disk, &path) == model, "content differs after {ops:?}");
        });
    }
}
