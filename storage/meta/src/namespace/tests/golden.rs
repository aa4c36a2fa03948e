//! Bytes that must never change: keys, rows, commands.

use bytes::Bytes;
use nexusgrid_codec::id::{BlockId, Epoch, GroupId, PgId, SessionId};
use nexusgrid_env::NodeId;

use crate::namespace::posix::rows::{self as own, CutRow, Directory, Inode, LocksRow, Place, What};
use crate::namespace::rows::{self, *};
use crate::namespace::snapshots::rows as kept;
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
        (rows::tells(BucketId(7)), "59 0000000000000007"),
        (rows::end(EndMark { sequence: 8, ordinal: 1 }), "4b 0000000000000008 00000001"),
        (own::cut(ContentId(5)), "74 0000000000000005"),
        (own::reservation(MountId(6), 9), "41 0000000000000006 0000000000000009"),
        (
            own::hold(MountId(6), BucketId(7), Ino(8)),
            "48 0000000000000006 0000000000000007 0000000000000008",
        ),
        (own::place(BucketId(7), Ino(8)), "4a 0000000000000007 0000000000000008"),
        (
            own::holder(BucketId(7), Ino(8), MountId(6)),
            "51 0000000000000007 0000000000000008 0000000000000006",
        ),
        (own::xattr(BucketId(7), Ino(8), b"x"), "58 0000000000000007 0000000000000008 78 0000"),
        (own::mount(MountId(6)), "5a 0000000000000006"),
        (
            own::locker(MountId(6), BucketId(7), Ino(8)),
            "6b 0000000000000006 0000000000000007 0000000000000008",
        ),
        (own::locks(BucketId(7), Ino(8)), "6c 0000000000000007 0000000000000008"),
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
                    allowance: Allowance::default(),
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
        (
            "append",
            NamespaceCommand::Append {
                session: SessionId(2),
                blocks: vec![],
                append: Append {
                    bucket: BucketId(7),
                    key: b"k".to_vec(),
                    precondition: Precondition::None,
                    source_content: ContentId(5),
                    offset: 300,
                    content: NewContent {
                        size: 2,
                        key: WrappedKey {
                            bucket: BucketId(7),
                            version: 1,
                            wrapped: Bytes::from_static(b"w"),
                        },
                        body: ContentBody::Empty,
                    },
                    etag: "e".to_owned(),
                    checksums: vec![],
                },
                now_ms: 1,
            }
            .encode(),
            "0123020007016b0005ac0202070101770001650001",
        ),
        (
            "set allowance",
            NamespaceCommand::SetAllowance {
                bucket: BucketId(7),
                allowance: Allowance { bytes: Some(300), objects: None },
            }
            .encode(),
            "012b0701ac0200",
        ),
        (
            "tell ends",
            NamespaceCommand::TellEnds { bucket: BucketId(7), told: true }.encode(),
            "01290701",
        ),
        (
            "forget ends",
            NamespaceCommand::ForgetEnds { through: EndMark { sequence: 300, ordinal: 1 } }
                .encode(),
            "012aac0201",
        ),
        (
            "end",
            codec::encode(&EndRow {
                sequence: 9,
                end: End {
                    bucket: BucketId(7),
                    key: b"k".to_vec(),
                    version: None,
                    kind: EndKind::Moved(StorageClass::Standard),
                    size: 300,
                    etag: "e".to_owned(),
                    at_ms: 1,
                },
            }),
            "010907016b000200ac02016501",
        ),
        (
            "limited bucket",
            codec::encode(&BucketRow::Limited(
                LiveBucket {
                    sequence: 9,
                    children: 1,
                    usage: Usage::default(),
                    quota_bytes: None,
                    rules: VersionRules::default(),
                    allowance: Allowance::default(),
                },
                VersionRules::default(),
                Allowance { bytes: Some(300), objects: Some(1) },
            )),
            "010309010000000000000001ac020101",
        ),
        (
            "log",
            codec::encode(&ContentRow {
                sequence: 9,
                references: 1,
                size: 300,
                depth: 1,
                kind: ContentKind::Log,
            }),
            "010901ac020106",
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

fn attrs() -> Attrs {
    let (mode, uid, gid) = (Some(0o640), Some(300), None);
    let at = |nanos| Moment { seconds: -1, nanos };
    Attrs { mode, uid, gid, accessed: at(1), modified: at(2), changed: at(3) }
}

fn part(offset: u64) -> Segment {
    Segment { offset, len: 2, content: ContentId(5), skip: 1 }
}

/// One of each that no other golden bytes show.
fn more_ops(key: &WrappedKey) -> Vec<PosixOp> {
    let (ino, parent, name, key) = (Ino(8), Ino(9), b"a".to_vec(), key.clone());
    let content = NewContent { size: 0, key: key.clone(), body: ContentBody::Empty };
    let change = AttrsChange::default();
    vec![
        PosixOp::Adopt { parent, names: vec![name.clone()] },
        PosixOp::Rmdir { parent, name: name.clone() },
        PosixOp::Rename {
            from: (parent, name.clone()),
            to: (ino, b"b".to_vec()),
            mode: RenameMode::Exchange,
        },
        PosixOp::Link { ino, parent, name: name.clone() },
        PosixOp::SetXattr { ino, name, value: Some(b"v".to_vec()), when: XattrWhen::Replace },
        PosixOp::Replace { ino, content: content.clone(), over: Some(300) },
        PosixOp::Resize { ino, size: 300, key: key.clone(), change },
        PosixOp::Punch { ino, offset: 300, len: 1, key: key.clone() },
        PosixOp::Hold { ino },
        PosixOp::Append { ino, key: key.clone(), is_new_key: false, extents: vec![extent()] },
        PosixOp::UnlockAll { ino, owner: 300 },
        PosixOp::CopyRange { from: (ino, 300), to: (parent, 1), len: 2, key: key.clone() },
        PosixOp::Lengthen { ino, size: 300, key: key.clone() },
        PosixOp::Clear { ino, offset: 300, len: 1, key },
        PosixOp::Spread { ino, content, runs: vec![(300, 1)], size: 301, over: 9 },
    ]
}

#[test]
fn nodes_of_mounts() {
    let key = WrappedKey { bucket: BucketId(7), version: 1, wrapped: Bytes::from_static(b"w") };
    let row = DirRow { sequence: 9, id: DirId(8), children: 1, explicit: true, created_ms: 300 };
    let inode = Inode { ino: Ino(8), links: 1, attrs: attrs(), what: What::Special(Special::Fifo) };
    let directory = Directory { row, subdirs: Some(1), attrs: attrs() };
    let place = Place::At { parent: DirId(8), name: b"a/".to_vec() };
    let content = ContentRow {
        sequence: 9,
        references: 1,
        size: 300,
        depth: 1,
        kind: ContentKind::File { key: key.clone(), copies: false },
    };
    let page = Page::Mixed { sequence: 9, parts: vec![Part::Of(part(4))] };
    let mount = Mount {
        id: MountId(6),
        bucket: BucketId(7),
        node: NodeId(1),
        lease_ms: 300,
        renewed_ms: 1,
        locks: 2,
    };
    let range = LockRange { first: 1, last: 300 };
    let lock = Lock { range, mount: MountId(6), owner: 9, kind: LockKind::Exclusive, pid: 4 };
    let locks = LocksRow { sequence: 9, locks: vec![lock] };
    let maker = Maker { uid: 1, gid: 2, mode: 0o644, umask: 0o22 };
    let make = PosixOp::Make {
        parent: Ino(8),
        name: b"a".to_vec(),
        ino: Ino(9),
        what: NewNode::File,
        maker,
        hold: true,
    };
    let change =
        AttrsChange { mode: Some(1), accessed: Some(SetTime::Now), ..AttrsChange::default() };
    let open = NamespaceCommand::OpenMount {
        again: Some(MountId(6)),
        bucket: BucketId(7),
        node: NodeId(1),
        lease_ms: 300,
        now_ms: 1,
    };
    let more = more_ops(&key);
    let write = PosixOp::Write { ino: Ino(8), key, is_new_key: true, extents: vec![] };
    let ops = vec![
        PosixOp::Root,
        PosixOp::Unlink { parent: Ino(8), name: b"a".to_vec() },
        write,
        PosixOp::Release { ino: Ino(8) },
        make,
        PosixOp::SetAttrs { ino: Ino(8), change },
        PosixOp::Lock { ino: Ino(8), owner: 9, pid: 4, range, kind: Some(LockKind::Shared) },
    ];
    let now = Moment { seconds: 1, nanos: 2 };
    let command = NamespaceCommand::Posix {
        mount: MountId(6),
        writer: SessionId(2),
        blocks: vec![],
        ops,
        now,
    };
    let query = PosixQuery::Map { ino: Ino(8), offset: 300, len: 1 };
    let golden = [
        (
            "directory",
            codec::encode(&Dentry::Directory(directory)),
            "010209080101ac02010101a00301ac0200010101020103",
        ),
        ("inode", codec::encode(&Dentry::Inode(inode)), "0103080101a00301ac02000101010201030101"),
        ("link", codec::encode(&Dentry::Link(Ino(8))), "010408"),
        ("place", codec::encode(&place), "01000802612f"),
        ("content", codec::encode(&content), "010901ac0201070701017700"),
        ("page", codec::encode(&page), "010209010104020501"),
        ("mount", codec::encode(&mount), "01060701ac020102"),
        ("locks", codec::encode(&locks), "01090101ac0206090104"),
        ("gone", codec::encode(&Released::Nodes(BucketId(7), vec![Ino(8)])), "0104070108"),
        ("open", open.encode(), "012601060701ac0201"),
        ("released", codec::encode(&Released::Mount(MountId(6))), "010306"),
        (
            "command",
            command.encode(),
            "012406020007000308016109080701017701000e080208016109010102a40312010708010100000100001008090401ac0201000202",
        ),
        (
            "query",
            NamespaceQuery::Posix { bucket: BucketId(7), query }.encode(),
            "011c070508ac0201",
        ),
        ("refusal", codec::encode(&NamespaceError::Posix(PosixError::MountEnded)), "011c13"),
        ("cut", codec::encode(&CutRow { sequence: 9, from: 300 }), "0109ac02"),
        ("end", codec::encode(&Released::End(ContentId(5))), "010505"),
        ("copied", codec::encode(&PosixDone::Copied(300)), "0104ac02"),
        (
            "more",
            codec::encode(&more),
            "010f0109010161040901610509016108016202060809016108080161010176020a0800070101770001ac020b08ac020701017700000000000c08ac0201070101770d080f08070101770001000a01020303000a0080040104021108ac021208ac02090102070101771308ac02070101771408ac020107010177150800070101770001ac0201ad0209",
        ),
    ];
    let other: Vec<(&str, String)> = golden
        .iter()
        .filter(|(_, bytes, text)| hex(bytes) != text.replace(' ', ""))
        .map(|(what, bytes, _)| (*what, hex(bytes)))
        .collect();
    assert!(other.is_empty(), "{other:#?}");
}

#[test]
fn delegations() {
    let (mount, bucket, grant) = (MountId(6), BucketId(7), 300);
    let row = own::DelegationRow { sequence: 301, grant, mount, recalled: true };
    let step = DelegatedStep {
        now: Moment { seconds: 1, nanos: 2 },
        ids: vec![300],
        writer: SessionId(2),
        blocks: vec![],
        op: PosixOp::Hold { ino: Ino(8) },
    };
    let steps = NamespaceCommand::Steps { mount, grant, steps: vec![step], gives_back: true };
    let family = rows::TREE.to_owned();
    let wanted = vec![
        RowsWanted::Get { family: family.clone(), key: vec![1] },
        RowsWanted::Scan { family, start: vec![1], end: Some(vec![2]), reverse: true, limit: 3 },
    ];
    let found = RowsFound { rows: vec![(Bytes::from_static(b"k"), Bytes::new())], more: true };
    let golden = [
        ("key", own::delegation(bucket), "640000000000000007"),
        ("row", codec::encode(&row), "01ad02ac020601"),
        ("delegate", NamespaceCommand::Delegate { mount }.encode(), "012c06"),
        ("steps", steps.encode(), "012d06ac0201020201ac0202000d0801"),
        ("recall", NamespaceCommand::Recall { bucket, grant }.encode(), "012e07ac02"),
        ("revoke", NamespaceCommand::Revoke { bucket, grant }.encode(), "012f07ac02"),
        ("asked", NamespaceQuery::Delegation { bucket }.encode(), "011f07"),
        (
            "rows",
            NamespaceQuery::Rows { mount, grant, wanted }.encode(),
            "012006ac0202000474726565010101047472656501010101020103",
        ),
        ("found", codec::encode(&NamespaceAnswer::Rows(vec![found])), "01240101016b0001"),
        (
            "whose",
            codec::encode(&NamespaceAnswer::Delegation(Some((mount, grant, false)))),
            "01230106ac0200",
        ),
        ("given", codec::encode(&NamespaceOk::Delegated(grant)), "0111ac02"),
        ("refusal", codec::encode(&NamespaceError::Delegated(bucket, grant)), "011d07ac02"),
    ];
    let other: Vec<(&str, String)> = golden
        .iter()
        .filter(|(_, bytes, text)| hex(bytes) != *text)
        .map(|(what, bytes, _)| (*what, hex(bytes)))
        .collect();
    assert!(other.is_empty(), "{other:#?}");
}

#[test]
fn snapshots_of_buckets() {
    let (bucket, id) = (BucketId(7), SnapshotId(300));
    let snapshot = Snapshot {
        id,
        name: "n".to_owned(),
        number: 5,
        dir: Ino(8),
        path: b"d/".to_vec(),
        taken_ms: 9,
    };
    let row = kept::SnapshotsRow { sequence: 301, newest: Some(id), number: 5, count: 2 };
    let drop = Some(kept::Drop { after: Some(vec![1]) });
    let dropped = kept::SnapshotRow { snapshot: snapshot.clone(), drop };
    let name = "n".to_owned();
    let take = NamespaceCommand::TakeSnapshot {
        bucket,
        name: name.clone(),
        path: b"d/".to_vec(),
        now_ms: 9,
    };
    let names = vec![b"a".to_vec()];
    let adopt = NamespaceCommand::AdoptPast { bucket, snapshot: id, parent: Ino(8), names };
    let key = WrappedKey { bucket, version: 1, wrapped: Bytes::from_static(b"w") };
    let copy = PosixOp::CopyPast { snapshot: id, from: (Ino(8), 1), to: (Ino(9), 2), len: 3, key };
    let query = PosixQuery::Node { ino: Ino(8) };
    let dentry = rows::dentry(bucket, DirId::ROOT, b"a");
    let (_, kind, rest) = kept::split(TREE, &dentry).unwrap();
    let place = own::place(bucket, Ino(8));
    let (_, place, at) = kept::split(STATE, &place).unwrap();
    let xattr = own::xattr(bucket, Ino(8), b"x");
    let (_, xattr, of) = kept::split(STATE, &xattr).unwrap();
    let golden = [
        ("all", kept::snapshots(bucket), "670000000000000007"),
        ("one", kept::snapshot(bucket, id), "730000000000000007000000000000012c"),
        (
            "name",
            kept::kept(bucket, kind, rest, id),
            "6800000000000000070056920000000000000001610000000000000000012c",
        ),
        (
            "place",
            kept::kept(bucket, place, at, id),
            "680000000000000007010000000000000008000000000000012c",
        ),
        (
            "xattr",
            kept::kept(bucket, xattr, of, id),
            "680000000000000007020000000000000008780000000000000000012c",
        ),
        ("row", codec::encode(&row), "01ad0201ac020502"),
        ("dropped", codec::encode(&dropped), "01ac02016e050802642f0901010101"),
        (
            "kept",
            codec::encode(&kept::KeptRow { sequence: 301, before: Some(vec![1]) }),
            "01ad02010101",
        ),
        ("take", take.encode(), "013007016e02642f09"),
        (
            "drop",
            NamespaceCommand::DropSnapshot { bucket, name, now_ms: 9 }.encode(),
            "013107016e09",
        ),
        ("adopt", adopt.encode(), "013207ac0208010161"),
        ("copy", codec::encode(&copy), "0116ac02080109020307010177"),
        (
            "taken",
            codec::encode(&NamespaceOk::Snapshot(Box::new(snapshot.clone()))),
            "0113ac02016e050802642f09",
        ),
        ("asked", NamespaceQuery::Snapshots { bucket, of: Some(Ino(8)) }.encode(), "0121070108"),
        ("past", NamespaceQuery::Past { bucket, snapshot: id, query }.encode(), "012207ac020008"),
        (
            "listed",
            codec::encode(&NamespaceAnswer::Snapshots(vec![snapshot])),
            "012501ac02016e050802642f09",
        ),
        ("released", codec::encode(&Released::Snapshot(bucket, id)), "010607ac02"),
        ("refusal", codec::encode(&NamespaceError::InvalidSnapshotName), "0122"),
    ];
    let other: Vec<(&str, String)> = golden
        .iter()
        .filter(|(_, bytes, text)| hex(bytes) != *text)
        .map(|(what, bytes, _)| (*what, hex(bytes)))
        .collect();
    assert!(other.is_empty(), "{other:#?}");
}
