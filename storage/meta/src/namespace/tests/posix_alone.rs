//! A mount that has its bucket to itself finds out by itself what the group decides, and nobody else sees the bucket meanwhile.

use proptest::prelude::*;

use super::posix::Run;
use super::posix_ops::ops;
use super::support::*;
use crate::namespace::speculate;
use crate::namespace::types::*;
use crate::rows::memory::Memory;
use nexusgrid_codec::id::GroupId;

/// What a mount knows that has the bucket to itself: here all rows, as they were when that began, with what it changed.
pub(super) struct Alone {
    grant: u64,
    known: Memory,
    steps: u64,
}

impl Alone {
    pub(super) fn ask(&self, query: PosixQuery) -> NamespaceAnswer {
        let answer = speculate::ask(&self.known, BUCKET, query).unwrap();
        decode_query_reply(&answer).unwrap().unwrap()
    }
}

impl Run {
    /// The mount has the bucket to itself from now on.
    pub(super) fn begin_alone(&mut self) {
        if self.alone.is_none() {
            let command = NamespaceCommand::Delegate { mount: self.mount };
            let NamespaceOk::Delegated(grant) = self.group.ok(command) else { panic!("no grant") };
            let known = self.group.store.clone();
            self.alone = Some(Alone { grant, known, steps: 0 });
        }
    }

    /// It gives the bucket back.
    pub(super) fn with_others(&mut self) {
        if let Some(alone) = self.alone.take() {
            let (mount, grant) = (self.mount, alone.grant);
            let back = NamespaceCommand::Steps { mount, grant, steps: vec![], gives_back: true };
            assert_eq!(self.group.apply(back), Ok(NamespaceOk::Stepped(vec![])));
        }
    }

    pub(super) fn step_alone(
        &mut self,
        blocks: Vec<NewBlock>,
        op: PosixOp,
    ) -> Result<PosixDone, PosixError> {
        let names = if let PosixOp::Adopt { names, .. } = &op { names.len() } else { 1 };
        let ids = (0..names).map(|_| self.numbers.pop().unwrap().0).collect();
        let (now, writer, mount) = (self.now(), self.group.session, self.mount);
        let step = DelegatedStep { now, ids, writer, blocks, op };
        let alone = self.alone.as_mut().unwrap();
        alone.steps += 1;
        let at = (GroupId(1), speculate::SEQUENCES_FROM + alone.steps);
        let found = speculate::step(&alone.known, at, (mount, BUCKET), step.clone()).unwrap();
        alone.known.write(found.changes);
        let grant = alone.grant;
        let said = NamespaceCommand::Steps { mount, grant, steps: vec![step], gives_back: false };
        let NamespaceOk::Stepped(refused) = self.group.ok(said) else { panic!("no steps") };
        let refused = refused.first().map(|(_, error)| error);
        assert_eq!(refused, found.done.as_ref().err(), "the group decides likewise");
        match found.done {
            Ok(done) => Ok(done),
            Err(NamespaceError::Posix(error)) => Err(error),
            Err(error) => panic!("{error}"),
        }
    }
}

fn refused(reply: Result<NamespaceOk, NamespaceError>) -> bool {
    matches!(reply, Err(NamespaceError::Delegated(BUCKET, _)))
}

#[test]
fn nobody_else_sees_or_changes_the_bucket_until_it_is_given_back_or_taken() {
    let mut run = Run::new();
    run.group.put(b"a", b"bytes", 0, Precondition::None).unwrap();
    let (first, numbers) = (run.mount, run.numbers.clone());
    run.open_mount();
    let second = std::mem::replace(&mut run.mount, first);
    run.numbers = numbers;
    run.begin_alone();
    let grant = run.alone.as_ref().unwrap().grant;

    // Another mount, and clients of S3.
    let looks = |run: &Run| {
        let key = b"a".to_vec();
        let query = PosixQuery::Node { ino: Ino::ROOT };
        let version = VersionRef { bucket: BUCKET, key: key.clone(), version: None };
        [
            run.group.ask(NamespaceQuery::Head { bucket: BUCKET, key }),
            run.group.ask(NamespaceQuery::HeadVersion { version }),
            run.group.ask(NamespaceQuery::Posix { bucket: BUCKET, query }),
        ]
    };
    for look in looks(&run) {
        assert_eq!(look, Err(NamespaceError::Delegated(BUCKET, grant)));
    }
    let root = PosixQuery::Node { ino: Ino::ROOT };
    assert!(matches!(run.ask(root), NamespaceAnswer::Node(_)));
    let changes = |mount| NamespaceCommand::Posix {
        mount,
        writer: run.group.session,
        blocks: vec![],
        ops: vec![PosixOp::Root],
        now: run.now(),
    };
    // Its own that come late, as well.
    let (of_second, of_first) = (changes(second), changes(first));
    assert!(refused(run.group.apply(of_second)));
    assert!(refused(run.group.apply(of_first)));
    assert!(
        run.group
            .put(b"b", b"", 0, Precondition::None)
            .is_err_and(|error| { error == NamespaceError::Delegated(BUCKET, grant) })
    );
    assert!(refused(run.group.delete(&[b"a"])));
    assert!(refused(run.group.apply(NamespaceCommand::DropBucketIfEmpty { bucket: BUCKET })));
    let delegate = NamespaceCommand::Delegate { mount: second };
    assert_eq!(run.group.apply(delegate.clone()), Err(NamespaceError::NotDelegated));

    // It is asked for once; that changes the row that says whose it is.
    let query = NamespaceQuery::Delegation { bucket: BUCKET };
    let held = |run: &Run| match run.group.ask(query.clone()) {
        Ok(NamespaceAnswer::Delegation(held)) => held,
        other => panic!("{other:?}"),
    };
    assert_eq!(held(&run), Some((first, grant, false)));
    let recall = NamespaceCommand::Recall { bucket: BUCKET, grant };
    run.group.ok(recall.clone());
    assert_eq!(held(&run), Some((first, grant, true)));
    let rows = run.group.store.rows.clone();
    run.group.ok(recall);
    assert_eq!(run.group.store.rows, rows);
    run.with_others();
    assert_eq!(held(&run), None);
    assert!(looks(&run).iter().all(Result::is_ok));

    // Of a delegation that is over nothing counts.
    let NamespaceOk::Delegated(other) = run.group.ok(delegate) else { panic!("no grant") };
    run.group.ok(NamespaceCommand::Revoke { bucket: BUCKET, grant });
    assert_eq!(held(&run), Some((second, other, false)));
    let late = NamespaceCommand::Steps { mount: first, grant, steps: vec![], gives_back: true };
    assert_eq!(run.group.apply(late), Err(NamespaceError::NotDelegated));
    // A mount that ends has nothing to itself.
    run.group.ok(NamespaceCommand::CloseMount { mount: second, now_ms: 9 });
    assert_eq!(held(&run), None);
}

#[test]
fn a_bucket_with_rules_of_its_own_is_nobodys_alone() {
    let mut run = Run::new();
    let change = RulesChange::Versioning(Versioning::Enabled);
    run.group.ok(NamespaceCommand::SetRules { bucket: BUCKET, change });
    let delegate = NamespaceCommand::Delegate { mount: run.mount };
    assert_eq!(run.group.apply(delegate), Err(NamespaceError::NotDelegated));
}

#[test]
fn ids_are_the_mounts_own_and_new() {
    let mut run = Run::new();
    run.begin_alone();
    let grant = run.alone.as_ref().unwrap().grant;
    let maker = Maker { uid: 0, gid: 0, mode: 0o644, umask: 0 };
    let make = |name: &[u8], ino, ids| DelegatedStep {
        now: Moment::from_ms(5),
        ids,
        writer: nexusgrid_codec::id::SessionId(0),
        blocks: vec![],
        op: PosixOp::Make {
            parent: Ino::ROOT,
            name: name.to_vec(),
            ino,
            what: NewNode::File,
            maker,
            hold: false,
        },
    };
    let mut number = || run.numbers.pop().unwrap();
    let (one, two, three, four) = (number(), number(), number(), number());
    let steps = vec![
        make(b"good", one, vec![two.0]),
        make(b"used", three, vec![two.0]),
        make(b"twice", three, vec![four.0, four.0]),
        make(b"none", three, vec![]),
        make(b"foreign", three, vec![9 << 20]),
        make(b"last", three, vec![four.0]),
    ];
    let mount = run.mount;
    let said = NamespaceCommand::Steps { mount, grant, steps, gives_back: true };
    let NamespaceOk::Stepped(refused) = run.group.ok(said) else { panic!("no steps") };
    run.alone = None;
    let why = NamespaceError::Posix(PosixError::NotReserved);
    assert_eq!(refused, [1, 2, 3, 4].map(|at| (at, why.clone())));
    run.group.check();
    let listing = run.group.list(b"", None, None, 10);
    assert_eq!(listing.entries.len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    /// What the mount finds out is what the group decides, and what a tree in memory says, whatever is freed meanwhile.
    #[test]
    fn what_is_found_out_is_what_is_decided(
        ops in prop::collection::vec((ops(), 0u8..8), 1..60),
    ) {
        let mut run = Run::new();
        for (op, turn) in &ops {
            match turn {
                0 | 1 => run.begin_alone(),
                2 => run.with_others(),
                _ => {}
            }
            run.step(op);
            run.compare();
        }
        run.with_others();
        run.group.free_all();
        run.compare();
    }
}
