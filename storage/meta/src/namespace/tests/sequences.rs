//! Random sequences of commands against the reference; every invariant after every step.

use std::collections::BTreeMap;
use std::sync::Arc;

use nexusgrid_codec::id::{GroupId, PgId};
use proptest::prelude::*;

use super::listing::create_upload;
use super::model::{self, Model};
use super::support::*;
use crate::export::{Export, ExportHead, Import};
use crate::machine::{ApplyContext, StateMachine};
use crate::namespace::Namespace;
use crate::namespace::types::*;
use crate::rows::memory::Memory;
use crate::tail::{Deed, LogPlace, LogTail, TailEntry};

/// A few keys, so that they meet: siblings, children and look-alikes of each other.
const KEYS: &[&[u8]] =
    &[b"a", b"a/", b"a/b", b"a//b", b"a-", b"a/b/c", b"b", b"/", b"a\0", b"a/\xFF", b"a/b/d"];

#[derive(Clone, Debug)]
enum Op {
    Put { key: usize, len: usize, blocks: usize, when: When },
    Pack { keys: Vec<usize>, when: When },
    Append { key: usize, len: usize, blocks: usize, late: bool, when: When },
    Delete { keys: Vec<usize> },
    Link { from: usize, to: usize, when: When },
    SetMeta { key: usize },
    CreateUpload { key: usize },
    PutPart { upload: usize, number: u16, len: usize, blocks: usize },
    LinkPart { upload: usize, number: u16, from: usize, start: usize, len: usize },
    Complete { upload: usize, skip: usize, when: When },
    Abort { upload: usize },
    Rewrite { first: usize, step: usize, stale: bool },
    Expand,
    Repair,
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum When {
    Always,
    Absent,
    Present,
    Same,
    Other,
}

fn ops() -> impl Strategy<Value = Op> {
    let key = || 0..KEYS.len();
    let when = || {
        prop_oneof![
            6 => Just(When::Always), 1 => Just(When::Absent), 1 => Just(When::Present),
            1 => Just(When::Same), 1 => Just(When::Other),
        ]
    };
    prop_oneof![
        6 => (key(), 0usize..40, 0usize..4, when())
            .prop_map(|(key, len, blocks, when)| Op::Put { key, len, blocks, when }),
        2 => (proptest::collection::vec(key(), 1..5), when()).prop_map(|(keys, when)| Op::Pack { keys, when }),
        6 => (key(), 1usize..20, 0usize..3, prop::bool::weighted(0.1), when())
            .prop_map(|(key, len, blocks, late, when)| Op::Append { key, len, blocks, late, when }),
        3 => proptest::collection::vec(key(), 1..4).prop_map(|keys| Op::Delete { keys }),
        3 => (key(), key(), when()).prop_map(|(from, to, when)| Op::Link { from, to, when }),
        1 => key().prop_map(|key| Op::SetMeta { key }),
        2 => key().prop_map(|key| Op::CreateUpload { key }),
        5 => (0usize..4, 1u16..5, 0usize..30, 0usize..3)
            .prop_map(|(upload, number, len, blocks)| Op::PutPart { upload, number, len, blocks }),
        4 => (0usize..4, 1u16..5, key(), 0usize..30, 0usize..40)
            .prop_map(|(upload, number, from, start, len)| Op::LinkPart { upload, number, from, start, len }),
        3 => (0usize..4, 0usize..5, when()).prop_map(|(upload, skip, when)| Op::Complete { upload, skip, when }),
        1 => (0usize..4).prop_map(|upload| Op::Abort { upload }),
        3 => (0usize..4, 1usize..4, any::<bool>())
            .prop_map(|(first, step, stale)| Op::Rewrite { first, step, stale }),
        2 => Just(Op::Expand),
        1 => Just(Op::Repair),
        1 => Just(Op::Reopen),
    ]
}

#[derive(Default)]
struct Uploads {
    /// Uploads under way: key and parts.
    open: Vec<(UploadRef, BTreeMap<u16, Vec<u8>>)>,
}

struct Run {
    group: Group,
    model: Model,
    uploads: Uploads,
    fill: u8,
}

impl Run {
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.fill = self.fill.wrapping_add(37);
        (0..len).map(|at| self.fill.wrapping_add(at as u8)).collect()
    }

    fn precondition(&self, key: &[u8], when: When) -> Precondition {
        let current = self.model.get(key).map_or("none".into(), |bytes| etag(bytes));
        match when {
            When::Always => Precondition::None,
            When::Absent => Precondition::Absent,
            When::Present => Precondition::Present,
            When::Same => Precondition::EtagIs(current),
            When::Other => Precondition::EtagIsNot(current),
        }
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Put { key, len, blocks, when } => {
                let (key, bytes) = (KEYS[*key], self.bytes(*len));
                let precondition = self.precondition(key, *when);
                let expected = model::holds(&self.model, key, &precondition);
                let result = self.group.put(key, &bytes, *blocks, precondition);
                assert_eq!(result.as_ref().map(|_| ()), expected.as_ref().map(|_| ()));
                if let Ok(done) = result {
                    assert_eq!(done.replaced, self.model.insert(key.to_vec(), bytes).is_some());
                }
            }
            Op::Pack { keys, when } => self.pack(keys, *when),
            Op::Append { key, len, blocks, late, when } => {
                self.append(KEYS[*key], *len, *blocks, *late, *when);
            }
            Op::Delete { keys } => {
                let keys: Vec<&[u8]> = keys.iter().map(|key| KEYS[*key]).collect();
                let Ok(NamespaceOk::Deleted(results)) = self.group.delete(&keys) else {
                    panic!("no delete")
                };
                for (key, result) in keys.iter().zip(results) {
                    assert_eq!(result.unwrap().existed, self.model.remove(*key).is_some());
                }
            }
            Op::Link { from, to, when } => self.link(KEYS[*from], KEYS[*to], *when),
            Op::SetMeta { key } => {
                let key = KEYS[*key];
                let bytes = self.model.get(key).cloned();
                let mut new = meta(bytes.as_deref().unwrap_or_default());
                new.user_metadata.push(("k".into(), "v".into()));
                let reply = self.group.apply(NamespaceCommand::SetMeta {
                    session: self.group.session,
                    bucket: BUCKET,
                    key: key.to_vec(),
                    precondition: Precondition::None,
                    meta: new,
                    now_ms: 3,
                });
                assert_eq!(reply.is_ok(), bytes.is_some());
            }
            Op::CreateUpload { key } => {
                let key = KEYS[*key].to_vec();
                let id = create_upload(&mut self.group, &key, 5);
                self.uploads.open.push((UploadRef { bucket: BUCKET, key, id }, BTreeMap::new()));
            }
            Op::PutPart { upload, number, len, blocks } => {
                let bytes = self.bytes(*len);
                let (blocks, content) = self.group.content(&bytes, *blocks);
                let Some((upload, parts)) = self.uploads.open.get_mut(*upload) else { return };
                self.group.ok(NamespaceCommand::PutPart {
                    session: self.group.session,
                    upload: upload.clone(),
                    number: *number,
                    blocks,
                    content,
                    etag: etag(&bytes),
                    checksums: vec![],
                    now_ms: 4,
                });
                parts.insert(*number, bytes);
            }
            Op::LinkPart { upload, number, from, start, len } => {
                self.link_part(*upload, *number, KEYS[*from], *start, *len);
            }
            Op::Complete { upload, skip, when } => self.complete(*upload, *skip, *when),
            Op::Abort { upload } => {
                if *upload < self.uploads.open.len() {
                    let (upload, _) = self.uploads.open.remove(*upload);
                    let session = self.group.session;
                    self.group.ok(NamespaceCommand::AbortUpload {
                        session,
                        upload: upload.clone(),
                        now_ms: 5,
                    });
                    let again = NamespaceCommand::AbortUpload { session, upload, now_ms: 5 };
                    assert_eq!(self.group.apply(again), Err(NamespaceError::NoSuchUpload));
                }
            }
            Op::Rewrite { first, step, stale } => {
                let mut found: Vec<FoundExtent> =
                    self.group.all_extents().into_iter().skip(*first).step_by(*step).collect();
                found.truncate(20);
                let wanted = found.len() as u32;
                let command = self.group.rewriting(&found);
                // Another was faster with some of them.
                let taken = if *stale { self.group.rewrite(&found[..found.len() / 2]) } else { 0 };
                let done = self.group.ok(command);
                assert_eq!(done, NamespaceOk::Rewritten(wanted - taken));
            }
            Op::Expand => {
                self.group.ok(NamespaceCommand::OutboxExpand { horizon_ms: u64::MAX, now_ms: 8 });
                let covered = self.group.store.index.saturating_sub(u64::from(self.fill) % 8);
                self.group.expand_moved(covered, u64::MAX);
            }
            Op::Repair => {
                let query =
                    NamespaceQuery::RepairQueue { pg: Some(PgId(3)), after: None, limit: 3 };
                let Ok(NamespaceAnswer::Repairs { repairs, .. }) = self.group.ask(query) else {
                    panic!("no queue")
                };
                let repaired = |repair: &Repair| Repaired {
                    pg: repair.pg,
                    block: repair.block,
                    slot: repair.slot,
                    sequence: repair.sequence,
                };
                let shards = repairs.iter().map(repaired).collect();
                self.group.ok(NamespaceCommand::RepairDone { shards });
            }
            Op::Reopen => {
                let session = self.group.session;
                self.group.ok(NamespaceCommand::CloseSession { session, now_ms: 6 });
                let refused = self.group.put(b"a", b"lost", 1, Precondition::None);
                assert_eq!(refused, Err(NamespaceError::SessionClosed(session)));
                self.group.open();
            }
        }
    }

    /// Several objects in one block.
    fn pack(&mut self, keys: &[usize], when: When) {
        let pieces: Vec<Vec<u8>> = keys.iter().map(|_| self.bytes(9)).collect();
        let (mut blocks, content) = self.group.content(&pieces.concat(), 1);
        let ContentBody::Extents(whole) = content.body else { panic!("no extents") };
        blocks[0].len += 1;
        let mut puts = Vec::new();
        let mut expected = Vec::new();
        for (at, (key, bytes)) in keys.iter().zip(&pieces).enumerate() {
            let key = KEYS[*key];
            let precondition = self.precondition(key, when);
            let holds = model::holds(&self.model, key, &precondition);
            if holds.is_ok() {
                self.model.insert(key.to_vec(), bytes.clone());
            }
            expected.push(holds);
            let region_offset = 2 + 9 * at as u32;
            let extent = Extent { len: 9, region_len: 9, region_offset, ..whole[0] };
            let body = ContentBody::Extents(vec![extent]);
            let content = NewContent { size: 9, key: content.key.clone(), body };
            puts.push(PutObject {
                bucket: BUCKET,
                key: key.to_vec(),
                precondition,
                content,
                meta: meta(bytes),
            });
        }
        let session = self.group.session;
        let done = self.group.ok(NamespaceCommand::Commit { session, blocks, puts, now_ms: 2 });
        let NamespaceOk::Put(results) = done else { panic!("no put") };
        assert_eq!(
            results.into_iter().map(|result| result.map(|_| ())).collect::<Vec<_>>(),
            expected
        );
    }

    fn append(&mut self, key: &[u8], len: usize, blocks: usize, late: bool, when: When) {
        let bytes = self.bytes(len);
        let before = self.model.get(key).cloned();
        let whole = [before.clone().unwrap_or_default(), bytes.clone()].concat();
        let size = (whole.len() - bytes.len()) as u64;
        let precondition = self.precondition(key, when);
        let holds = model::holds(&self.model, key, &precondition);
        let (blocks, content) = self.group.content(&bytes, blocks);
        let append = Append {
            bucket: BUCKET,
            key: key.to_vec(),
            precondition,
            source_content: self.content_of(key).unwrap_or_default(),
            offset: size + u64::from(late),
            content,
            etag: etag(&whole),
            checksums: vec![],
        };
        let session = self.group.session;
        let done = self.group.ok(NamespaceCommand::Append { session, blocks, append, now_ms: 2 });
        let expected = match (&before, holds) {
            (None, _) => Err(NamespaceError::NoSuchKey),
            (_, Err(error)) => Err(error),
            (_, Ok(())) if late => Err(NamespaceError::WrongOffset(size)),
            (_, Ok(())) => Ok(()),
        };
        match one(done) {
            // Bytes of links upon links are to be copied.
            Err(NamespaceError::TooManyAppends) if expected.is_ok() => {}
            done => {
                assert_eq!(done.as_ref().map(|_| ()), expected.as_ref().map(|_| ()));
                if done.is_ok() {
                    self.model.insert(key.to_vec(), whole);
                }
            }
        }
    }

    fn content_of(&self, key: &[u8]) -> Option<ContentId> {
        let query = NamespaceQuery::Head { bucket: BUCKET, key: key.to_vec() };
        match self.group.ask(query) {
            Ok(NamespaceAnswer::Object(object)) => Some(object.content),
            _ => None,
        }
    }

    fn link(&mut self, from: &[u8], to: &[u8], when: When) {
        let precondition = self.precondition(to, when);
        let source_content = self.content_of(from).unwrap_or_default();
        let bytes = self.model.get(from).cloned();
        let expected = match &bytes {
            Some(_) => model::holds(&self.model, to, &precondition),
            None => Err(NamespaceError::NoSuchKey),
        };
        let reply = self.group.apply(NamespaceCommand::Link {
            session: self.group.session,
            source: (BUCKET, from.to_vec()),
            source_content,
            target: (BUCKET, to.to_vec()),
            precondition,
            meta: meta(bytes.as_deref().unwrap_or_default()),
            now_ms: 3,
        });
        assert_eq!(reply.map(|_| ()), expected);
        if let (Ok(()), Some(bytes)) = (expected, bytes) {
            self.model.insert(to.to_vec(), bytes);
        }
    }

    fn link_part(&mut self, upload: usize, number: u16, from: &[u8], start: usize, len: usize) {
        let source_content = self.content_of(from).unwrap_or_default();
        let Some(bytes) = self.model.get(from) else { return };
        let start = start.min(bytes.len());
        let end = (start + len).min(bytes.len());
        let part = bytes[start..end].to_vec();
        let Some((upload, parts)) = self.uploads.open.get_mut(upload) else { return };
        let reply = self.group.apply(NamespaceCommand::LinkPart {
            session: self.group.session,
            upload: upload.clone(),
            number,
            source: (BUCKET, from.to_vec()),
            source_content,
            range: (start as u64, part.len() as u64),
            etag: etag(&part),
            checksums: vec![],
            now_ms: 4,
        });
        match reply {
            Ok(_) => drop(parts.insert(number, part)),
            Err(NamespaceError::CopyInstead) => {}
            Err(NamespaceError::Malformed(Malformed::Range)) => assert!(part.is_empty()),
            Err(error) => panic!("{error}"),
        }
    }

    fn complete(&mut self, at: usize, skip: usize, when: When) {
        let Some((upload, parts)) = self.uploads.open.get(at) else { return };
        let (upload, mut parts) = (upload.clone(), parts.clone());
        if let Some(skipped) = parts.keys().nth(skip).copied() {
            parts.remove(&skipped);
        }
        let wanted: Vec<CompletedPart> = parts
            .iter()
            .map(|(number, bytes)| CompletedPart {
                number: *number,
                etag: etag(bytes),
                checksum: None,
            })
            .collect();
        let whole: Vec<u8> = parts.values().flatten().copied().collect();
        let precondition = self.precondition(&upload.key, when);
        let last = parts.keys().last().copied();
        let too_small =
            parts.iter().find(|(number, bytes)| Some(**number) != last && bytes.is_empty());
        let expected = match too_small {
            _ if parts.is_empty() => Err(Malformed::PartNumber.into()),
            Some((number, _)) => Err(NamespaceError::PartTooSmall(*number, 0)),
            None => model::holds(&self.model, &upload.key, &precondition),
        };
        let command = NamespaceCommand::CompleteUpload {
            session: self.group.session,
            upload: upload.clone(),
            parts: wanted,
            part_bytes_min: 0,
            precondition,
            etag: etag(&whole),
            checksums: vec![],
            size: Some(whole.len() as u64),
            now_ms: 7,
        };
        let reply = self.group.apply(command.clone());
        assert_eq!(reply.as_ref().map(|_| ()), expected.as_ref().map(|_| ()));
        if let Ok(first) = reply {
            // Asked again, the answer is the same object.
            let again = one(self.group.ok(command)).unwrap();
            assert_eq!(again.content, one(first).unwrap().content);
            for (nth, bytes) in parts.values().enumerate() {
                let (_, got) =
                    self.group.get(&upload.key, RangeSpec::Part(nth as u16 + 1)).unwrap();
                assert_eq!(&got, bytes);
            }
            self.model.insert(upload.key, whole);
            self.uploads.open.remove(at);
        }
    }

    fn check(&self) {
        self.group.check();
        let (lines, _) = model::lines(&self.group.list(b"", None, None, 1_000));
        assert_eq!(
            lines.into_iter().map(|line| line.1).collect::<Vec<_>>(),
            self.model.keys().cloned().collect::<Vec<_>>()
        );
        for (key, bytes) in &self.model {
            let (object, got) = self.group.get(key, RangeSpec::Full).unwrap();
            assert_eq!(&got, bytes);
            assert_eq!(object.meta.etag, etag(bytes));
            if bytes.len() > 3 {
                let from = bytes.len() as u64 / 2;
                let (_, got) = self.group.get(key, RangeSpec::From(from, Some(from + 1))).unwrap();
                assert_eq!(got, bytes[from as usize..][..2]);
                let (_, got) = self.group.get(key, RangeSpec::Last(3)).unwrap();
                assert_eq!(got, bytes[bytes.len() - 3..]);
            }
        }
        for (upload, parts) in &self.uploads.open {
            let query = NamespaceQuery::ListParts { upload: upload.clone(), after: 0, limit: 100 };
            let Ok(NamespaceAnswer::Parts(listing)) = self.group.ask(query) else {
                panic!("no parts")
            };
            let got: Vec<_> = listing.parts.iter().map(|part| (part.number, part.size)).collect();
            assert_eq!(
                got,
                parts
                    .iter()
                    .map(|(number, bytes)| (*number, bytes.len() as u64))
                    .collect::<Vec<_>>()
            );
        }
    }

    /// What left the group at `checkpoint`, and the commands behind it in tails of a few, are its rows.
    fn check_restore(&self, checkpoint: &Memory, tail_len: usize) {
        let head =
            ExportHead { group: GroupId(1), term: 1, index: checkpoint.index, generation: 1 };
        let mut export = Export::new(Arc::new(checkpoint.clone()), head, Namespace.families());
        let mut import = Import::new(Namespace.families());
        let mut back = Memory::default();
        while let Some(frame) = export.next_frame().unwrap() {
            import.take(&frame).unwrap().into_iter().for_each(|batch| back.write(batch));
        }
        let mut reached = LogPlace { index: import.finish().unwrap().index, term: 1 };
        let behind = &self.group.log[usize::try_from(checkpoint.index).unwrap()..];
        for commands in behind.chunks(tail_len) {
            let deed = |command: &Vec<u8>| Deed::Command(command.clone().into());
            let entries = commands.iter().map(|command| TailEntry { term: 1, deed: deed(command) });
            let tail = LogTail::new(GroupId(1), reached, entries.collect());
            let tail = LogTail::decode(&tail.encode()).unwrap();
            for (place, deed) in tail.behind(reached).unwrap() {
                let context = ApplyContext { index: place.index, group: GroupId(1) };
                back.write(deed.apply(&Namespace, &back, &context).unwrap().batch);
                reached = place;
            }
        }
        let rows = |store: &Memory| {
            let mut rows = store.rows.clone();
            rows.retain(|_, family| !family.is_empty());
            rows
        };
        assert_eq!(reached.index, self.group.store.index);
        assert!(
            rows(&back) == rows(&self.group.store),
            "rows of a checkpoint and its tails differ"
        );
    }

    /// When all is deleted and freed, nothing is left but the bucket and sessions.
    fn end(mut self) {
        for (upload, _) in std::mem::take(&mut self.uploads.open) {
            self.group.ok(NamespaceCommand::AbortUpload {
                session: self.group.session,
                upload,
                now_ms: 5,
            });
        }
        for key in std::mem::take(&mut self.model).into_keys() {
            self.group.delete(&[&key]).unwrap();
        }
        self.group.check();
        self.group.free_all();
        self.group.check();
        let left: Vec<_> = self
            .group
            .store
            .rows
            .iter()
            .flat_map(|(family, rows)| rows.keys().map(move |key| (*family, key.clone())))
            .filter(|(_, key)| !matches!(key.first(), Some(b'B' | b'S')))
            .collect();
        assert_eq!(left, vec![]);
        self.group.ok(NamespaceCommand::DropBucketIfEmpty { bucket: BUCKET });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn sequences_equal_the_reference_and_leave_nothing_behind(
        ops in proptest::collection::vec(ops(), 1..60),
        checkpoint_at in any::<prop::sample::Index>(),
        tail_len in 1usize..9,
    ) {
        let mut run = Run { group: Group::new(), model: Model::new(), uploads: Uploads::default(), fill: 0 };
        let mut checkpoint = None;
        for (number, op) in ops.iter().enumerate() {
            if number == checkpoint_at.index(ops.len()) {
                checkpoint = Some(run.group.store.clone());
            }
            run.step(op);
            run.check();
        }
        run.check_restore(&checkpoint.unwrap(), tail_len);
        run.end();
    }
}
