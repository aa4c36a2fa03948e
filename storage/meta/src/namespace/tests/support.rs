//! Short ways to say commands and queries, and bytes behind blocks.

use std::collections::BTreeMap;

use bytes::Bytes;
use nexusgrid_codec::id::{BlockId, Epoch, GroupId, PgId, SessionId};
use nexusgrid_env::NodeId;

use crate::machine::StateMachine;
use crate::namespace::Namespace;
use crate::namespace::audit::audit;
use crate::namespace::types::*;
use crate::rows::memory::Memory;

pub const BUCKET: BucketId = BucketId(7);

/// A group with one bucket and one open session, and what its blocks hold.
#[derive(Clone)]
pub struct Group {
    pub store: Memory,
    pub session: SessionId,
    pub counter: u32,
    pub blocks: BTreeMap<BlockId, Vec<u8>>,
    /// Every command so far, as its log would have it.
    pub log: Vec<Vec<u8>>,
}

impl Group {
    pub fn new() -> Group {
        let mut group = Group {
            store: Memory::default(),
            session: SessionId(0),
            counter: 0,
            blocks: BTreeMap::new(),
            log: Vec::new(),
        };
        group.ok(NamespaceCommand::InitBucket { bucket: BUCKET, quota_bytes: None });
        group.open();
        group
    }

    pub fn open(&mut self) {
        let command = NamespaceCommand::OpenSession { node: NodeId(1), lease_ms: 10, now_ms: 0 };
        let NamespaceOk::Session(session) = self.ok(command) else { panic!("no session") };
        self.session = session.id;
        self.counter = 0;
    }

    pub fn apply(&mut self, command: NamespaceCommand) -> NamespaceReply {
        self.log.push(command.encode());
        decode_reply(&self.store.apply(&Namespace, &command.encode())).unwrap()
    }

    pub fn ok(&mut self, command: NamespaceCommand) -> NamespaceOk {
        self.apply(command).unwrap()
    }

    pub fn ask(&self, query: NamespaceQuery) -> NamespaceQueryReply {
        decode_query_reply(&Namespace.query(&self.store, &query.encode()).unwrap()).unwrap()
    }

    pub fn check(&self) {
        assert_eq!(audit(&self.store).unwrap(), vec![]);
    }

    /// A new content with these bytes: inline, or in `blocks` blocks.
    pub fn content(&mut self, bytes: &[u8], blocks: usize) -> (Vec<NewBlock>, NewContent) {
        let key = WrappedKey { bucket: BUCKET, version: 1, wrapped: Bytes::from_static(b"key") };
        let size = bytes.len() as u64;
        let mut made = Vec::new();
        let body = if bytes.is_empty() {
            ContentBody::Empty
        } else if blocks == 0 {
            let block = self.next_block();
            ContentBody::Inline { block, sealed: Bytes::copy_from_slice(bytes) }
        } else {
            let mut extents = Vec::new();
            let mut offset = 0;
            for chunk in bytes.chunks(bytes.len().div_ceil(blocks)) {
                let block = self.next_block();
                // Something else comes first in the block, as in a pack.
                self.blocks.insert(block, [b"##", chunk].concat());
                let len = chunk.len() as u32;
                made.push(NewBlock {
                    block,
                    pg: PgId(3),
                    epoch: Epoch(1),
                    len,
                    k: 4,
                    m: 2,
                    missing_mask: block.counter % 3 / 2,
                });
                extents.push(Extent {
                    offset,
                    len: u64::from(len),
                    block,
                    pg: PgId(3),
                    region_offset: 2,
                    region_len: len,
                    skip: 0,
                    frame_len: 512,
                    codec: 0,
                    k: 4,
                    m: 2,
                });
                offset += u64::from(len);
            }
            ContentBody::Extents(extents)
        };
        (made, NewContent { size, key, body })
    }

    pub fn next_block(&mut self) -> BlockId {
        self.counter += 1;
        BlockId { group: GroupId(1), session: self.session, counter: self.counter }
    }

    pub fn put(
        &mut self,
        key: &[u8],
        bytes: &[u8],
        blocks: usize,
        precondition: Precondition,
    ) -> Result<PutDone, NamespaceError> {
        let (blocks, content) = self.content(bytes, blocks);
        let put = PutObject {
            bucket: BUCKET,
            key: key.to_vec(),
            precondition,
            content,
            meta: meta(bytes),
        };
        let command = NamespaceCommand::Commit {
            session: self.session,
            blocks,
            puts: vec![put],
            now_ms: self.store.index,
        };
        one(self.apply(command)?)
    }

    pub fn delete(&mut self, keys: &[&[u8]]) -> NamespaceReply {
        let deletes = keys
            .iter()
            .map(|key| DeleteObject { key: key.to_vec(), precondition: Precondition::None })
            .collect();
        self.apply(NamespaceCommand::Delete {
            session: self.session,
            bucket: BUCKET,
            deletes,
            now_ms: 5,
        })
    }

    /// Deletes by a clock that says `now_ms`.
    pub fn delete_at(&mut self, key: &[u8], now_ms: u64) {
        let delete = DeleteObject { key: key.to_vec(), precondition: Precondition::None };
        self.ok(NamespaceCommand::Delete {
            session: self.session,
            bucket: BUCKET,
            deletes: vec![delete],
            now_ms,
        });
    }

    pub fn get(&self, key: &[u8], range: RangeSpec) -> Result<(Object, Vec<u8>), NamespaceError> {
        let query = NamespaceQuery::Get { bucket: BUCKET, key: key.to_vec(), range };
        let NamespaceAnswer::Get(got) = self.ask(query)? else { panic!("no get") };
        let mut bytes = Vec::new();
        let mut map = got.map.clone();
        loop {
            for piece in &map.pieces {
                assert_eq!(piece.offset, got.offset + bytes.len() as u64);
                let is_hole = piece.data == PieceData::Hole;
                assert!(is_hole || map.keys.get(piece.key as usize).is_some());
                bytes.extend(self.read(piece));
            }
            let Some(next) = map.next else { break };
            assert!(next > got.offset);
            let query = NamespaceQuery::Extents {
                content: got.object.content,
                offset: next,
                len: got.offset + got.len - next,
            };
            let NamespaceAnswer::Map(more) = self.ask(query)? else { panic!("no map") };
            map = more;
        }
        assert_eq!(bytes.len() as u64, got.len);
        Ok((got.object, bytes))
    }

    pub fn read(&self, piece: &Piece) -> Vec<u8> {
        let len = piece.len as usize;
        match &piece.data {
            PieceData::Inline { sealed, skip, .. } => sealed[*skip as usize..][..len].to_vec(),
            PieceData::Hole => vec![0; len],
            PieceData::Extent(extent) => {
                assert_eq!((extent.offset, extent.len), (piece.offset, piece.len));
                let from = (extent.region_offset + extent.skip) as usize;
                self.blocks[&extent.block][from..][..len].to_vec()
            }
        }
    }

    /// Frees all that was released, and forgets dead blocks.
    pub fn free_all(&mut self) {
        while self.ask(NamespaceQuery::OldestMoved).unwrap() != NamespaceAnswer::OldestMoved(None) {
            self.expand_moved(u64::MAX, u64::MAX);
        }
        loop {
            let command = NamespaceCommand::OutboxExpand { horizon_ms: u64::MAX, now_ms: 9 };
            let NamespaceOk::Expanded { more, .. } = self.ok(command) else { panic!("no step") };
            let rest = self
                .store
                .rows
                .get("state")
                .map_or(0, |rows| rows.keys().filter(|key| key.starts_with(b"O")).count());
            if !more && rest == 0 {
                break;
            }
        }
        loop {
            let query = NamespaceQuery::Outbox { after: None, limit: 100 };
            let Ok(NamespaceAnswer::Outbox { blocks, .. }) = self.ask(query) else {
                panic!("no outbox")
            };
            if blocks.is_empty() {
                break;
            }
            let blocks = blocks.iter().map(|dead| dead.block).collect();
            self.ok(NamespaceCommand::OutboxAck { blocks });
        }
    }

    pub fn list(
        &self,
        prefix: &[u8],
        delimiter: Option<&[u8]>,
        after: Option<ListAfter>,
        limit: u32,
    ) -> Listing {
        let query = NamespaceQuery::List {
            bucket: BUCKET,
            prefix: prefix.to_vec(),
            delimiter: delimiter.map(<[u8]>::to_vec),
            after,
            limit,
        };
        let NamespaceAnswer::List(listing) = self.ask(query).unwrap() else { panic!("no list") };
        listing
    }
}

pub fn one(done: NamespaceOk) -> Result<PutDone, NamespaceError> {
    let NamespaceOk::Put(mut results) = done else { panic!("no put") };
    assert_eq!(results.len(), 1);
    results.remove(0)
}

pub fn meta(bytes: &[u8]) -> ObjectMeta {
    ObjectMeta { etag: etag(bytes), ..ObjectMeta::default() }
}

pub fn etag(bytes: &[u8]) -> String {
    bytes.iter().fold(17u64, |hash, byte| hash.wrapping_mul(31) ^ u64::from(*byte)).to_string()
}
