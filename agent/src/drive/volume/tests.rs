//! A volume over a line to an agent that answers as it is told to. Letters with numbers are the promises of
//! `docs/semantics.md`.

use std::fs::File;
use std::sync::atomic::AtomicBool;

use nexusgrid_fuse::limits::DIRTY_BYTES;
use nexusgrid_fuse::volume::{LockKind, LockOwner, LockRange, OpenFile, RequestId, Volume, Write};

use super::super::agent::{Agent, hello};
use super::super::wire::Fault;
use super::*;

const INO: Ino = Ino(5);
const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// What outlives daemons.
struct Memory(File);

impl Memory {
    fn new() -> Memory {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        Memory(File::from(rustix::fs::memfd_create("drive-test", flags).unwrap()))
    }

    /// A daemon that has a file open through handles.
    async fn drive(&self, agent: &Agent, handles: &[u64]) -> Drive {
        let line = Line::open(agent.path(), hello(), None).await.unwrap();
        let file = || self.0.try_clone().unwrap();
        let kept = (Arc::new(Dirty::new(file()).unwrap()), Owners::new(file()).unwrap());
        let options = DriveOptions {
            bucket: "bucket".to_owned(),
            at: "/m".into(),
            node_dir: "/node".into(),
            owner: (0, 0),
            file_mode: 0o644,
            directory_mode: 0o755,
            // Nothing is stored without being asked for.
            write_delay: Duration::from_secs(3600),
            read_only: false,
            credentials: None,
            delegate: false,
        };
        let drive = Drive::new(line, kept, options, Some(1));
        let open = |handle: &u64| OpenFile {
            handle: Handle(*handle),
            ino: INO,
            flags: OpenFlags(2),
            uid: 0,
            gid: 0,
        };
        drive.resume(handles.iter().map(open).collect()).await.unwrap();
        drive
    }
}

/// An agent that stores nothing for a reason, while it is told so, and does everything else.
fn agent(fault: Fault, refuses: &Arc<AtomicBool>) -> Agent {
    let refuses = Arc::clone(refuses);
    Agent::start(move |_, call| {
        let is_refused = matches!(call, Call::Write(..)) && refuses.load(Ordering::Relaxed);
        Some(if is_refused { Answer::Fault(fault.clone()) } else { Answer::Done })
    })
}

fn caller(number: u64) -> Caller {
    Caller { uid: 0, gid: 0, pid: 1, request: RequestId { mount: 9, number }, repeated: false }
}

async fn write(drive: &Drive, offset: usize, data: Vec<u8>) -> Outcome<u32> {
    let write = Write { offset: offset as u64, data: data.into(), from_cache: false };
    drive.write(&caller(2), INO, Handle(1), write).await
}

/// D4.
#[tokio::test]
async fn what_cannot_be_stored_is_said_until_it_can_be() {
    let refuses = Arc::new(AtomicBool::new(true));
    let agent = agent(Fault::Quota, &refuses);
    let drive = Memory::new().drive(&agent, &[1, 2]).await;
    let (caller, owner) = (caller(4), LockOwner(1));
    write(&drive, 0, b"first".to_vec()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(drive.fsync(&caller, INO, Handle(1), false).await, Err(VolumeError::Quota));
        assert_eq!(drive.flush(&caller, INO, Handle(2), owner).await, Err(VolumeError::Quota));
    }
    assert_eq!(drive.read(&caller, INO, Handle(1), 0, 5).await.unwrap(), "first");
    refuses.store(false, Ordering::Relaxed);
    drive.flush(&caller, INO, Handle(2), owner).await.unwrap();
    assert!(drive.0.dirty.files().is_empty());

    refuses.store(true, Ordering::Relaxed);
    write(&drive, 0, b"second".to_vec()).await.unwrap();
    assert_eq!(drive.flush(&caller, INO, Handle(1), owner).await, Err(VolumeError::Quota));
    drive.release(&caller, INO, Handle(1), None).await.unwrap();
    assert_eq!(drive.fsync(&caller, INO, Handle(2), false).await, Err(VolumeError::Quota));
    // The last descriptor.
    drive.release(&caller, INO, Handle(2), None).await.unwrap();
    assert!(drive.0.dirty.files().is_empty(), "given up");
    assert_eq!(agent.asked().last().unwrap().1, Call::Release(at(INO)));
}

/// O1: what else the mount holds, an agent that was started anew gives back.
#[tokio::test]
async fn an_agent_hears_what_is_open_of_a_daemon_that_follows_another() {
    let agent = agent(Fault::Full, &Arc::default());
    let drive = Memory::new().drive(&agent, &[1, 2]).await;
    let says = async {
        while !agent.asked().contains(&(None, Call::Opens(vec![at(INO)]))) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, says).await.unwrap();
    for handle in [1, 2] {
        drive.release(&caller(4), INO, Handle(handle), None).await.unwrap();
    }
    assert_eq!(agent.asked().last().unwrap().1, Call::Release(at(INO)));
}

/// D9.
#[tokio::test]
async fn who_writes_more_than_may_wait_waits() {
    let is_away = Arc::new(AtomicBool::new(true));
    let agent = agent(Fault::Away(String::new()), &is_away);
    let drive = Memory::new().drive(&agent, &[1]).await;
    for offset in (0..DIRTY_BYTES as usize).step_by(MIB) {
        let taken = tokio::time::timeout(PATIENCE, write(&drive, offset, vec![1; MIB])).await;
        assert_eq!(taken.unwrap(), Ok(MIB as u32), "there is room at {offset}");
    }
    let mut more = std::pin::pin!(write(&drive, DIRTY_BYTES as usize, vec![2; 10]));
    let soon = tokio::time::timeout(Duration::from_millis(50), &mut more).await;
    assert!(soon.is_err(), "there is no room");
    assert_eq!(drive.0.dirty.bytes(), DIRTY_BYTES);
    is_away.store(false, Ordering::Relaxed);
    assert_eq!(tokio::time::timeout(PATIENCE, more).await.unwrap(), Ok(10));
}

/// L2: of an open file description, whose going is said by nothing but the release of its handle.
#[tokio::test]
async fn locks_that_another_daemon_took_go_with_their_file() {
    let agent = agent(Fault::Full, &Arc::default());
    let (memory, owner) = (Memory::new(), LockOwner(77));
    let before = memory.drive(&agent, &[1, 2]).await;
    let range = LockRange { first: 0, last: 9 };
    let kind = Some(LockKind::Exclusive);
    before.setlk(&caller(2), INO, Handle(1), owner, range, kind, false).await.unwrap();
    drop(before);
    let after = memory.drive(&agent, &[1, 2]).await;
    after.release(&caller(4), INO, Handle(2), None).await.unwrap();
    let unlocked = || agent.asked().contains(&(None, Call::UnlockAll(at(INO), owner.0)));
    assert!(!unlocked(), "another handle");
    after.flush(&caller(6), INO, Handle(1), LockOwner(78)).await.unwrap();
    assert!(!unlocked(), "another owner");
    after.release(&caller(8), INO, Handle(1), None).await.unwrap();
    assert!(unlocked());
}

/// A request is made anew under names of its own, which nobody else's are.
#[test]
fn names_do_not_meet() {
    use super::super::wire::another;
    let own = OwnNames { first: u128::MAX / 3, given: AtomicU64::new(0) };
    let mut names = std::collections::BTreeSet::new();
    for number in 0..20 {
        let (own, caller) = (own.next(), caller(number));
        let given = [Step::Only, Step::Then].map(|step| name(&caller, step).unwrap());
        for first in given.into_iter().chain([own]) {
            assert!((0..20).all(|refusals| names.insert(another(first, refusals))));
        }
    }
}
