//! A step of lifecycle rules costs what is due, not what there is: rows that it reads are counted.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use nexusgrid_codec::id::GroupId;
use nexusgrid_env::kv::Row;
use nexusgrid_env::{KvError, KvRead, ScanRange};

use super::support::*;
use crate::machine::{ApplyContext, StateMachine};
use crate::namespace::Namespace;
use crate::namespace::types::*;
use crate::rows::memory::Memory;

/// A store that counts what is read of it: rows, or looks for rows that are not there.
struct Counting<'a>(&'a Memory, AtomicUsize);

impl KvRead for Counting<'_> {
    fn get(&self, family: &'static str, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.get(family, key)
    }

    fn scan(&self, family: &'static str, range: &ScanRange) -> Result<Vec<Row>, KvError> {
        let rows = self.0.scan(family, range)?;
        self.1.fetch_add(1 + rows.len(), Ordering::Relaxed);
        Ok(rows)
    }
}

const DAY: u64 = 1_000_000;

/// Rows read by all steps that end ten objects of so many, and those that looking for work reads.
fn rows_read(objects: usize) -> (usize, usize) {
    let mut group = Group::new();
    let expire = LifecycleRule {
        id: "r".into(),
        prefix: b"due/".to_vec(),
        expire: Some(When::Days(1)),
        ..LifecycleRule::default()
    };
    let rules = Lifecycle { day_ms: DAY, moved_bytes_min: 0, rules: vec![expire] };
    let rules = Some((rules, b"text".to_vec()));
    group.ok(NamespaceCommand::SetLifecycle { bucket: BUCKET, rules });
    for number in 0..objects {
        let tenth = if number % (objects / 10) == 0 { "due" } else { "kept" };
        let key = format!("{tenth}/{:03}/{number:06}", number / 100);
        group.put(key.as_bytes(), b"x", 0, Precondition::None).unwrap();
    }
    let run = |group: &mut Group, now_ms| {
        let (mut read, mut expired) = (0, 0);
        loop {
            let command = NamespaceCommand::RunLifecycle { now_ms }.encode();
            let counting = Counting(&group.store, AtomicUsize::new(0));
            let context = ApplyContext { index: group.store.index + 1, group: GroupId(1) };
            let applied = Namespace.apply(&counting, &context, &command).unwrap();
            read += counting.1.into_inner();
            group.store.index += 1;
            group.store.write(applied.batch);
            let Ok(NamespaceOk::Lifecycle(done)) = decode_reply(&applied.reply).unwrap() else {
                panic!("no step");
            };
            expired += done.expired;
            if !done.more {
                return (read, expired);
            }
        }
    };
    // What the rules met when they were laid down has been looked through.
    run(&mut group, 0);
    let now_ms = group.store.index + DAY;
    let left = NamespaceQuery::LifecycleLeft { now_ms }.encode();
    let counting = Counting(&group.store, AtomicUsize::new(0));
    Namespace.query(&counting, &left).unwrap();
    let looked = counting.1.into_inner();
    let (read, expired) = run(&mut group, now_ms);
    assert_eq!(expired, 10);
    group.check();
    (read, looked)
}

#[test]
fn what_is_not_due_is_not_looked_at() {
    let few = rows_read(100);
    let many = rows_read(3_000);
    // Objects that go leave directories empty or not: a few rows of difference, whatever there is besides.
    assert!(many.0 <= few.0 + 40, "rows read: {few:?} among 100 objects, {many:?} among 3 000");
    assert_eq!(few.1, many.1);
}
