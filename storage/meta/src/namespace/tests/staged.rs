//! Contents made of staged pieces; sizes of parts.

use super::support::*;
use crate::namespace::types::*;

impl Group {
    fn stage(&mut self, bytes: &[u8]) -> ContentId {
        let (blocks, content) = self.content(bytes, 3);
        let session = self.session;
        let command = NamespaceCommand::Stage { session, blocks, content, now_ms: 100 };
        let NamespaceOk::Staged(piece) = self.ok(command) else { panic!("not staged") };
        self.check();
        piece
    }

    fn put_staged(
        &mut self,
        key: &[u8],
        size: u64,
        pieces: &[ContentId],
    ) -> Result<PutDone, NamespaceError> {
        let (_, content) = self.content(b"x", 0);
        let content = NewContent { size, body: ContentBody::Staged(pieces.to_vec()), ..content };
        let put = PutObject {
            bucket: BUCKET,
            key: key.to_vec(),
            precondition: Precondition::None,
            content,
            meta: meta(b"x"),
        };
        let session = self.session;
        let blocks = Vec::new();
        let command = NamespaceCommand::Commit { session, blocks, puts: vec![put], now_ms: 101 };
        let NamespaceOk::Put(mut results) = self.apply(command)? else { panic!("no put") };
        results.remove(0)
    }

    fn expand(&mut self, horizon_ms: u64) {
        let command = NamespaceCommand::OutboxExpand { horizon_ms, now_ms: 200 };
        self.ok(command);
    }
}

#[test]
fn staged_pieces_make_one_content() {
    let mut group = Group::new();
    let (first, second) = (group.stage(b"first piece"), group.stage(b"and the second"));
    let whole = b"first pieceand the second";
    group.put_staged(b"k", 25, &[first, second]).unwrap();
    group.check();
    // Out of the outbox: nothing frees them now.
    group.expand(u64::MAX);
    assert_eq!(group.get(b"k", RangeSpec::Full).unwrap().1, whole);
    assert_eq!(group.get(b"k", RangeSpec::From(9, Some(13))).unwrap().1, whole[9..=13]);
    // Once only.
    let again = group.put_staged(b"again", 11, &[first]);
    assert_eq!(again.unwrap_err(), NamespaceError::NoSuchContent);
    group.delete(&[b"k"]).unwrap();
    group.check();
    group.free_all();
    group.check();
}

#[test]
fn what_is_staged_for_nobody_is_freed() {
    let mut group = Group::new();
    let (kept, lost) = (group.stage(b"kept"), group.stage(b"lost"));
    for (size, pieces) in
        [(5, vec![kept]), (8, vec![kept, kept]), (0, vec![]), (4, vec![ContentId(1)])]
    {
        assert!(group.put_staged(b"k", size, &pieces).is_err(), "{pieces:?}");
        group.check();
    }
    // Not before the horizon.
    group.expand(99);
    group.put_staged(b"k", 4, &[kept]).unwrap();
    group.expand(100);
    group.check();
    let freed = group.put_staged(b"k", 4, &[lost]);
    assert_eq!(freed.unwrap_err(), NamespaceError::NoSuchContent);
    assert_eq!(group.get(b"k", RangeSpec::Full).unwrap().1, b"kept");
    // A closed session stages nothing (I4).
    let (blocks, content) = group.content(b"late", 1);
    let session = group.session;
    group.ok(NamespaceCommand::CloseSession { session, now_ms: 1 });
    let late = group.apply(NamespaceCommand::Stage { session, blocks, content, now_ms: 1 });
    assert_eq!(late.unwrap_err(), NamespaceError::SessionClosed(session));
}

#[test]
fn sizes_of_unequal_parts() {
    let mut group = Group::new();
    let created = group.ok(NamespaceCommand::CreateUpload {
        session: group.session,
        bucket: BUCKET,
        key: b"k".to_vec(),
        nonce: 1,
        owner: "me".into(),
        meta: meta(b"x"),
        checksum: None,
        now_ms: 1,
    });
    let NamespaceOk::Upload(id) = created else { panic!("no upload") };
    let upload = UploadRef { bucket: BUCKET, key: b"k".to_vec(), id };
    // More than two pages, and none like the others around it; the last is empty.
    let sizes: Vec<u64> = (0..300u64).map(|n| if n == 299 { 0 } else { 1 + n * 7 % 13 }).collect();
    let mut parts = Vec::new();
    // One that the completion does not name lies between the others.
    let all = (2u16..).step_by(2).zip(sizes.iter().copied()).chain([(101, 5)]);
    for (number, size) in all {
        let (blocks, content) = group.content(&vec![b'x'; size as usize], 0);
        let command = NamespaceCommand::PutPart {
            session: group.session,
            upload: upload.clone(),
            number,
            blocks,
            content,
            etag: number.to_string(),
            checksums: Vec::new(),
            now_ms: 1,
        };
        group.ok(command);
        if number != 101 {
            parts.push(CompletedPart { number, etag: number.to_string(), checksum: None });
        }
    }
    group.ok(NamespaceCommand::CompleteUpload {
        session: group.session,
        upload,
        parts,
        part_bytes_min: 1,
        precondition: Precondition::None,
        etag: "all".into(),
        checksums: Vec::new(),
        size: None,
        now_ms: 1,
    });
    let (object, _) = group.get(b"k", RangeSpec::Full).unwrap();
    let query = NamespaceQuery::PartSizes { content: object.content };
    let NamespaceAnswer::PartSizes(found) = group.ask(query).unwrap() else { panic!("no sizes") };
    assert_eq!(found, sizes[..299]);
    let query = NamespaceQuery::PartsOf { content: object.content, skip: 130, limit: 150 };
    let NamespaceAnswer::PartsOf(parts) = group.ask(query).unwrap() else { panic!("no parts") };
    let seen: Vec<_> = parts.iter().map(|part| (part.number, part.size)).collect();
    let expected: Vec<_> = (130..280).map(|n| (2 * n as u16 + 2, sizes[n])).collect();
    assert_eq!(seen, expected);
    let query = NamespaceQuery::PartSizes { content: ContentId(1) };
    assert_eq!(group.ask(query).unwrap_err(), NamespaceError::NoSuchContent);
}
