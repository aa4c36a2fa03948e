//! What several names, holders, versions or copies keep.

use super::posix::Run;
use super::support::*;
use crate::namespace::types::*;

/// A bucket with a file that has two names and is held.
fn held() -> (Run, Vec<u8>) {
    let mut run = Run::new();
    let bytes = run.bytes(50);
    run.group.put(b"a", &bytes, 1, Precondition::None).unwrap();
    run.tree.put(b"a", bytes.clone());
    let a = run.number(0, 0).unwrap();
    let ino = run.ino(a);
    run.posix(PosixOp::Link { ino, parent: Ino::ROOT, name: b"b".to_vec() }).unwrap();
    run.posix(PosixOp::Hold { ino }).unwrap();
    (run, bytes)
}

fn versioned(run: &mut Run, versioning: Versioning) {
    let change = RulesChange::Versioning(versioning);
    run.group.ok(NamespaceCommand::SetRules { bucket: BUCKET, change });
}

#[test]
fn versions_keep_the_bytes_of_what_a_mount_held() {
    for versioning in [Versioning::Enabled, Versioning::Suspended] {
        let (mut run, bytes) = held();
        versioned(&mut run, versioning);
        run.group.delete(&[b"a"]).unwrap();
        run.group.check();
        let mount = run.mount;
        run.group.ok(NamespaceCommand::CloseMount { mount, now_ms: 5 });
        run.group.free_all();
        run.group.check();
        let (_, there) = run.group.get(b"b", RangeSpec::Full).unwrap();
        assert_eq!(there, bytes, "{versioning:?}");
        run.group.delete(&[b"b"]).unwrap();
        run.group.free_all();
        run.group.check();
    }
}

#[test]
fn a_bucket_stays_while_a_mount_holds_a_file_of_it() {
    let (mut run, _) = held();
    run.group.delete(&[b"a", b"b"]).unwrap();
    run.group.check();
    let drop_bucket = NamespaceCommand::DropBucketIfEmpty { bucket: BUCKET };
    assert_eq!(run.group.apply(drop_bucket.clone()), Err(NamespaceError::BucketNotEmpty));
    let mount = run.mount;
    run.group.ok(NamespaceCommand::CloseMount { mount, now_ms: 5 });
    run.group.free_all();
    run.group.ok(drop_bucket);
    run.group.check();
}

#[test]
fn a_copy_is_refused_if_a_mount_has_changed_the_bytes_in_place() {
    let mut run = Run::new();
    let bytes = run.bytes(50);
    run.group.put(b"a", &bytes, 1, Precondition::None).unwrap();
    run.tree.put(b"a", bytes.clone());
    let (seen, _) = run.group.get(b"a", RangeSpec::Full).unwrap();
    run.write(&[], 0, 10, 5, (1, false));
    let (now, _) = run.group.get(b"a", RangeSpec::Full).unwrap();
    assert_eq!(seen.content, now.content);
    let link = NamespaceCommand::Link {
        session: run.group.session,
        source: (BUCKET, b"a".to_vec()),
        source_content: seen.content,
        target: (BUCKET, b"c".to_vec()),
        precondition: Precondition::None,
        meta: seen.meta,
        now_ms: 9,
    };
    assert_eq!(run.group.apply(link), Err(NamespaceError::SourceChanged));
    run.compare();
}
