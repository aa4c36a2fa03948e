//! Bytes that must never change: keys, rows, commands.

use bytes::Bytes;
use nexusgrid_codec::id::{BlockId, Epoch, GroupId, PgId, SessionId};

use crate::namespace::rows::{self, *};
use crate::namespace::types::*;
use crate::rows::codec;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn block() -> BlockId {
    BlockId { group: GroupId(1), session: SessionId(2), counter: 3 }
}

#[test]
fn keys() {
    let upload = UploadRef { bucket: BucketId(7), key: b"k\0".to_vec(), id: UploadId([9; 16]) };
    let golden = [
        (
            rows::dentry(BucketId(7), DirId::ROOT, b"a\0/"),
            "00000000000000075692000000000000000161 00ff 2f 0000",
        ),
        (rows::content(ContentId(5)), "63 0000000000000005"),
        (rows::page(ContentId(5), 6), "65 0000000000000005 0000000000000006"),
        (rows::block(block()), "62 00000001 0000000000000002 00000003"),
        (rows::inline(ContentId(5)), "0000000000000005"),
        (rows::bucket(BucketId(7)), "42 0000000000000007"),
        (rows::code(4, 2), "43 04 02"),
        (rows::dead(block()), "44 00000001 0000000000000002 00000003"),
        (rows::floor(), "46"),
        (rows::moved(8), "4d 0000000000000008"),
        (rows::outbox(8, 1), "4f 0000000000000008 00000001"),
        (rows::part(UploadId([9; 16]), 4), "50 09090909090909090909090909090909 0004"),
        (rows::repair(PgId(3), block(), 5), "52 00000003 00000001 0000000000000002 00000003 05"),
        (rows::version(BucketId(7), b"k", 5), "56 0000000000000007 6b 0000 fffffffffffffffa"),
        (rows::null_version(BucketId(7), b"k"), "4e 0000000000000007 6b 0000"),
        (rows::session(SessionId(2)), "53 0000000000000002"),
        (rows::upload(&upload), "55 0000000000000007 6b00ff0000 09090909090909090909090909090909"),
    ];
    for (key, text) in golden {
        assert_eq!(hex(&key), text.replace(' ', ""));
    }
    assert_eq!(id_of(3, 5), Some(3 << 12 | 5));
    assert_eq!(id_of(3, 4_096), None);
}

fn object() -> Object {
    Object {
        sequence: 300,
        content: ContentId(5),
        size: 1_000,
        modified_ms: 1_700_000_000_000,
        version: None,
        parts: 0,
        upload: None,
        meta: ObjectMeta {
            etag: "e".into(),
            headers: ContentHeaders { content_type: Some("t".into()), ..Default::default() },
            user_metadata: vec![("k".into(), "v".into())],
            checksums: vec![Checksum {
                algorithm: ChecksumAlgorithm::Crc32c,
                kind: ChecksumKind::FullObject,
                value: vec![1, 2, 3, 4],
            }],
            storage_class: StorageClass::Standard,
            tags: Vec::new(),
            lock: ObjectLock::default(),
            ..ObjectMeta::default()
        },
    }
}

/// An older version with all that few versions have.
fn kept() -> Object {
    let retention = Retention { mode: RetentionMode::Compliance, until_ms: 300 };
    let meta = ObjectMeta {
        etag: "e".into(),
        tags: vec![("t".into(), "v".into())],
        lock: ObjectLock { retention: Some(retention), legal_hold: true },
        ..ObjectMeta::default()
    };
    Object { version: Some(VersionId(300)), meta, ..object() }
}

/// One of another account, shared, and sealed under a key with a name.
fn special() -> Object {
    let cipher = Cipher::Managed {
        key: "k".into(),
        sealed: vec![1, 2],
        context: "{}".into(),
        bucket_key: true,
    };
    let meta = ObjectMeta {
        etag: "e".into(),
        owner: Some("a".into()),
        acl: vec![3],
        cipher,
        ..ObjectMeta::default()
    };
    Object { meta, ..object() }
}

fn extent() -> Extent {
    Extent {
        offset: 0,
        len: 10,
        block: block(),
        pg: PgId(3),
        region_offset: 0,
        region_len: 10,
        skip: 0,
        frame_len: 512,
        codec: 1,
        k: 4,
        m: 2,
    }
}

#[test]
fn values() {
    let key = WrappedKey { bucket: BucketId(7), version: 1, wrapped: Bytes::from_static(b"w") };
    let new = NewBlock {
        block: block(),
        pg: PgId(3),
        epoch: Epoch(1),
        len: 10,
        k: 4,
        m: 2,
        missing_mask: 2,
    };
    let content =
        NewContent { size: 10, key: key.clone(), body: ContentBody::Extents(vec![extent()]) };
    let put = PutObject {
        bucket: BucketId(7),
        key: b"k".to_vec(),
        precondition: Precondition::Absent,
        content: content.clone(),
        meta: object().meta,
    };
    let golden = [
        ("file", codec::encode(&Dentry::File(object())), GOLDEN_FILE),
        (
            "dir",
            codec::encode(&Dentry::Dir(DirRow {
                sequence: 1,
                id: DirId(4_096),
                children: 2,
                explicit: false,
                created_ms: 3,
            })),
            "0100018020020003",
        ),
        (
            "content",
            codec::encode(&ContentRow {
                sequence: 1,
                references: 2,
                size: 10,
                depth: 0,
                kind: ContentKind::Extents { key },
            }),
            GOLDEN_CONTENT,
        ),
        (
            "page",
            codec::encode(&Page::Extents { sequence: 1, extents: vec![extent()] }),
            GOLDEN_PAGE,
        ),
        (
            "block",
            codec::encode(&BlockRow {
                sequence: 1,
                pg: PgId(3),
                epoch: Epoch(1),
                len: 10,
                live: 10,
                k: 4,
                m: 2,
                missing_mask: 2,
            }),
            "01010301 0a0a040202",
        ),
        (
            "outbox",
            codec::encode(&OutboxRow {
                sequence: 1,
                released_ms: 2,
                what: Released::Content(ContentId(5)),
            }),
            "0101020005",
        ),
        (
            "commit",
            NamespaceCommand::Commit {
                session: SessionId(2),
                blocks: vec![new],
                puts: vec![put.clone()],
                now_ms: 1,
            }
            .encode(),
            GOLDEN_COMMIT,
        ),
        (
            "list",
            NamespaceQuery::List {
                bucket: BucketId(7),
                prefix: b"p".to_vec(),
                delimiter: None,
                after: Some(ListAfter::Key(b"k".to_vec())),
                limit: 9,
            }
            .encode(),
            "0103070170000100016b09",
        ),
        (
            "stage",
            NamespaceCommand::Stage {
                session: SessionId(2),
                blocks: vec![new],
                content: content.clone(),
                now_ms: 1,
            }
            .encode(),
            "0114 0201 01020303010a040202 0a07010177 0201000a01020303000a008004010402 01",
        ),
        (
            "commit of staged pieces",
            NamespaceCommand::Commit {
                session: SessionId(2),
                blocks: Vec::new(),
                puts: vec![PutObject {
                    content: NewContent {
                        body: ContentBody::Staged(vec![ContentId(5), ContentId(300)]),
                        ..content
                    },
                    ..put.clone()
                }],
                now_ms: 1,
            }
            .encode(),
            GOLDEN_STAGED,
        ),
        (
            "code",
            codec::encode(&CodeRow {
                sequence: 1,
                blocks: 2,
                block_bytes: 300,
                bytes: 200,
                large_bytes: 0,
            }),
            "01 01 02 ac02 c801 00",
        ),
        (
            "moved",
            codec::encode(&MovedRow { sequence: 1, released_ms: 2, extents: vec![extent()] }),
            "010102 01000a01020303000a008004010402",
        ),
        (
            "rewrite",
            NamespaceCommand::Rewrite {
                session: SessionId(2),
                blocks: vec![new],
                swaps: vec![Swap { content: ContentId(5), old: extent(), new: extent() }],
                now_ms: 1,
            }
            .encode(),
            "0117020101020303010a0402020105000a01020303000a008004010402000a01020303000a00800401040201",
        ),
        (
            "find extents",
            NamespaceQuery::FindExtents {
                filter: ExtentFilter {
                    blocks: vec![block()],
                    codes: vec![CodeFilter { k: 1, m: 2, over: Some(300) }],
                },
                after: Some((ContentId(5), 6)),
                limit: 9,
            }
            .encode(),
            "01100101020301010201ac0201050609",
        ),
        (
            "found extents",
            codec::encode(&NamespaceAnswer::FoundExtents {
                found: vec![FoundExtent {
                    content: ContentId(5),
                    size: 10,
                    key: put.content.key.clone(),
                    extent: extent(),
                }],
                next: Some((ContentId(5), 6)),
            }),
            "011001050a07010177000a01020303000a008004010402010506",
        ),
        (
            "codes",
            codec::encode(&NamespaceAnswer::Codes(vec![CodeUsage {
                k: 4,
                m: 2,
                blocks: 1,
                block_bytes: 10,
                bytes: 9,
                large_bytes: 8,
            }])),
            "010f010402010a0908",
        ),
        (
            "expand moved",
            NamespaceCommand::ExpandMoved { covered: 7, horizon_ms: 8, now_ms: 9 }.encode(),
            "0119070809",
        ),
        (
            "expand through",
            NamespaceCommand::ExpandThrough { through: 300, now_ms: 9 }.encode(),
            "011aac0209",
        ),
        ("released?", NamespaceQuery::Released.encode(), "0112"),
        (
            "released",
            codec::encode(&NamespaceAnswer::Released { outbox: Some((1, 300)), moved: None }),
            "01120101ac0200",
        ),
        (
            "version",
            codec::encode(&VersionRow::Object(kept())),
            "0100ac0205e80780d095ffbc3101ac0200000165000000000000000000030001017401760101ac0201",
        ),
        ("special", codec::encode(&Dentry::File(special())), GOLDEN_SPECIAL),
        (
            "marker",
            codec::encode(&VersionRow::Marker(DeleteMarker {
                sequence: 1,
                version: None,
                modified_ms: 2,
            })),
            "0101010002",
        ),
        (
            "versioned bucket",
            codec::encode(&BucketRow::Versioned(
                LiveBucket {
                    sequence: 1,
                    children: 2,
                    usage: Usage::default(),
                    quota_bytes: None,
                    rules: VersionRules::default(),
                },
                VersionRules {
                    versioning: Versioning::Enabled,
                    lock: Some(LockRules {
                        default: Some(DefaultRetention {
                            mode: RetentionMode::Governance,
                            period: RetentionPeriod::Days(3),
                        }),
                    }),
                },
            )),
            "010201020000000000010101000003",
        ),
        (
            "set rules",
            NamespaceCommand::SetRules {
                bucket: BucketId(7),
                change: RulesChange::Versioning(Versioning::Suspended),
            }
            .encode(),
            "011b070002",
        ),
        (
            "delete versions",
            NamespaceCommand::DeleteVersions {
                bucket: BucketId(7),
                deletes: vec![DeleteVersion {
                    key: b"k".to_vec(),
                    version: Some(VersionId(300)),
                    precondition: Precondition::None,
                    bypass: true,
                }],
                now_ms: 1,
            }
            .encode(),
            "011c0701016b01ac02000101",
        ),
        (
            "rename",
            NamespaceCommand::Rename {
                bucket: BucketId(7),
                source: b"a".to_vec(),
                sequence: 300,
                target: b"b".to_vec(),
                precondition: Precondition::Absent,
                now_ms: 1,
            }
            .encode(),
            "0121070161ac0201620101",
        ),
        (
            "delete what is expected",
            NamespaceCommand::DeleteVersions {
                bucket: BucketId(7),
                deletes: vec![DeleteVersion {
                    key: b"k".to_vec(),
                    version: None,
                    precondition: Precondition::IfAny(Expected {
                        etag: Some("e".to_owned()),
                        size: Some(300),
                        modified_s: None,
                    }),
                    bypass: false,
                }],
                now_ms: 1,
            }
            .encode(),
            "011c0701016b000601016501ac02000001",
        ),
        (
            "change version",
            NamespaceCommand::ChangeVersion {
                version: VersionRef { bucket: BucketId(7), key: b"k".to_vec(), version: None },
                change: VersionChange::LegalHold(true),
                now_ms: 1,
            }
            .encode(),
            "011e07016b00020101",
        ),
        (
            "list versions",
            NamespaceQuery::ListVersions {
                bucket: BucketId(7),
                prefix: b"p".to_vec(),
                delimiter: None,
                after: Some(VersionsAfter::Version(b"k".to_vec(), VersionId::NULL)),
                limit: 9,
            }
            .encode(),
            "0116070170000101016b0009",
        ),
        ("part sizes", NamespaceQuery::PartSizes { content: ContentId(5) }.encode(), "010c05"),
        (
            "parts of",
            NamespaceQuery::PartsOf { content: ContentId(5), skip: 1, limit: 2 }.encode(),
            "0117050102",
        ),
    ];
    let mut wrong = String::new();
    for (name, bytes, text) in golden {
        if hex(&bytes) != text.replace(' ', "") {
            wrong += &format!("{name} {}\n", hex(&bytes));
        }
    }
    assert_eq!(wrong, "");
}

const GOLDEN_FILE: &str = "0101ac0205e80780d095ffbc31000000016501017400000000000001016b01760101000401020304\
    00";
const GOLDEN_SPECIAL: &str = "0101ac0205e80780d095ffbc310000000165000000000000000000040000000001016101\
    0302016b020102027b7d01";
const GOLDEN_CONTENT: &str = "0101020a000207010177";
const GOLDEN_PAGE: &str = "01000101000a01020303000a008004010402";
const GOLDEN_COMMIT: &str = "0108020101020303010a0402020107016b010a070101770201000a01020303000a00800401040201\
    6501017400000000000001016b017601010004010203040001";
const GOLDEN_STAGED: &str = "010802000107016b010a07010177030205ac02016501017400000000000001016b017601010004\
    010203040001";
