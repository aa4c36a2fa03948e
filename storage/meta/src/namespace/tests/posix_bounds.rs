//! What much of anything costs one command or query.

use super::posix::Run;
use super::support::*;
use crate::namespace::limits;
use crate::namespace::types::*;

#[test]
fn a_delete_takes_five_hundred_known_directories_and_their_attributes() {
    let mut run = Run::new();
    let depth = 500;
    let key = [b"d/".repeat(depth), b"f".to_vec()].concat();
    run.group.put(&key, b"bytes", 1, Precondition::None).unwrap();
    let mut parent = Ino::ROOT;
    for _ in 0..depth {
        let names = vec![b"d".to_vec()];
        let PosixDone::Nodes(mut nodes) = run.posix(PosixOp::Adopt { parent, names }).unwrap()
        else {
            panic!("no nodes")
        };
        parent = nodes.remove(0).unwrap().ino.unwrap();
    }
    let deepest = parent;
    let names = vec![b"f".to_vec()];
    let PosixDone::Nodes(mut nodes) = run.posix(PosixOp::Adopt { parent, names }).unwrap() else {
        panic!("no nodes")
    };
    let file = nodes.remove(0).unwrap().ino.unwrap();
    for number in 0..limits::XATTRS_MAX {
        let name = format!("user.{number}").into_bytes();
        let (value, when) = (Some(b"v".to_vec()), XattrWhen::Create);
        run.posix(PosixOp::SetXattr { ino: file, name, value, when }).unwrap();
    }
    run.group.check();
    run.group.delete(&[&key]).unwrap();
    run.group.check();
    for ino in [deepest, file] {
        let query = NamespaceQuery::Posix { bucket: BUCKET, query: PosixQuery::Node { ino } };
        assert_eq!(run.group.ask(query), Err(PosixError::Stale.into()));
    }
    // The name may be made anew before the old rows are cleared away.
    run.group.put(b"d/g", b"bytes", 1, Precondition::None).unwrap();
    run.group.check();
    run.group.free_all();
    run.group.check();
    let left = run.group.store.rows["state"]
        .keys()
        .filter(|key| key.starts_with(b"J") || key.starts_with(b"X"))
        .count();
    assert_eq!(left, 1, "only the root is known");
}

#[test]
fn a_listing_stops_among_what_is_no_object_and_goes_on() {
    let mut run = Run::new();
    let mount = run.mount;
    let links = limits::LIST_PASSED_MAX + 10;
    let mut made = 0;
    while made < links {
        if run.numbers.is_empty() {
            let command = NamespaceCommand::ReserveInos { mount, used_up: None };
            let NamespaceOk::Reserved(Ino(first)) = run.group.ok(command) else { panic!("none") };
            run.numbers = (first..first + 4_096).rev().map(Ino).collect();
        }
        let lot = run.numbers.len().min(links - made).min(limits::POSIX_OPS_MAX);
        let ops = (made..made + lot)
            .map(|at| PosixOp::Make {
                parent: Ino::ROOT,
                name: format!("l{at:06}").into_bytes(),
                ino: run.numbers.pop().unwrap(),
                what: NewNode::Special(Special::Symlink(b"t".to_vec())),
                maker: Maker { uid: 0, gid: 0, mode: 0, umask: 0 },
                hold: false,
            })
            .collect();
        let (writer, now) = (run.group.session, run.now());
        run.group.ok(NamespaceCommand::Posix { mount, writer, blocks: vec![], ops, now });
        made += lot;
    }
    run.group.put(b"z", b"bytes", 1, Precondition::None).unwrap();
    let first = run.group.list(b"", None, None, 10);
    assert!(first.entries.is_empty());
    let second = run.group.list(b"", None, first.next, 10);
    assert!(matches!(&second.entries[..], [ListEntry::Object(key, _)] if key == b"z"));
    assert_eq!(second.next, None);
    // Who has been shown something goes on behind that.
    run.group.put(b"a", b"bytes", 1, Precondition::None).unwrap();
    let first = run.group.list(b"", None, None, 10);
    assert_eq!((first.entries.len(), first.next), (1, Some(ListAfter::Key(b"a".to_vec()))));
    let versions = |after| {
        run.group.ask(NamespaceQuery::ListVersions {
            bucket: BUCKET,
            prefix: b"l".to_vec(),
            delimiter: None,
            after,
            limit: 10,
        })
    };
    let Ok(NamespaceAnswer::Versions(listing)) = versions(None) else { panic!("no listing") };
    assert!(listing.entries.is_empty() && listing.next.is_some());
    let Ok(NamespaceAnswer::Versions(listing)) = versions(listing.next) else {
        panic!("no listing")
    };
    assert!(listing.entries.is_empty() && listing.next.is_none());
}
