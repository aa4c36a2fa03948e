//! Contents that move to other blocks.

use nexusgrid_codec::id::{BlockId, Epoch, PgId};

use super::support::*;
use crate::namespace::limits;
use crate::namespace::types::*;

/// A PG of three copies.
const COPIES: PgId = PgId(9);

impl Group {
    /// All extents that pass, however many queries that takes.
    pub fn find(&self, filter: &ExtentFilter) -> Vec<FoundExtent> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let query = NamespaceQuery::FindExtents { filter: filter.clone(), after, limit: 3 };
            let Ok(NamespaceAnswer::FoundExtents { found, next }) = self.ask(query) else {
                panic!("no extents")
            };
            all.extend(found);
            after = next;
            if after.is_none() {
                return all;
            }
        }
    }

    pub fn all_extents(&self) -> Vec<FoundExtent> {
        let any = |k, m| CodeFilter { k, m, over: None };
        self.find(&ExtentFilter { blocks: vec![], codes: vec![any(4, 2), any(1, 2)] })
    }

    /// The command that moves extents into one block of copies.
    pub fn rewriting(&mut self, found: &[FoundExtent]) -> NamespaceCommand {
        let block = self.next_block();
        let mut bytes = Vec::new();
        let swaps = found
            .iter()
            .map(|FoundExtent { content, extent: old, .. }| {
                let from = (old.region_offset + old.skip) as usize;
                let new = Extent {
                    block,
                    pg: COPIES,
                    region_offset: bytes.len() as u32,
                    region_len: old.len as u32,
                    skip: 0,
                    k: 1,
                    m: 2,
                    ..*old
                };
                bytes.extend_from_slice(&self.blocks[&old.block][from..][..old.len as usize]);
                Swap { content: *content, old: *old, new }
            })
            .collect();
        let new = NewBlock {
            block,
            pg: COPIES,
            epoch: Epoch(1),
            len: bytes.len() as u32,
            k: 1,
            m: 2,
            missing_mask: 4 * (block.counter & 1),
        };
        self.blocks.insert(block, bytes);
        let now_ms = self.store.index;
        NamespaceCommand::Rewrite { session: self.session, blocks: vec![new], swaps, now_ms }
    }

    pub fn rewrite(&mut self, found: &[FoundExtent]) -> u32 {
        let command = self.rewriting(found);
        let NamespaceOk::Rewritten(count) = self.ok(command) else { panic!("not rewritten") };
        count
    }

    pub fn expand_moved(&mut self, covered: u64, horizon_ms: u64) {
        self.ok(NamespaceCommand::ExpandMoved { covered, horizon_ms, now_ms: 9 });
    }

    fn state(&self, block: BlockId) -> BlockState {
        let query = NamespaceQuery::ResolveBlocks { blocks: vec![block] };
        let Ok(NamespaceAnswer::Blocks(states)) = self.ask(query) else { panic!("no states") };
        states[0]
    }

    fn codes(&self) -> Vec<(u8, u64, u64, u64)> {
        let Ok(NamespaceAnswer::Codes(codes)) = self.ask(NamespaceQuery::Codes) else {
            panic!("no codes")
        };
        codes.iter().map(|code| (code.k, code.blocks, code.block_bytes, code.bytes)).collect()
    }
}

#[test]
fn what_moved_reads_as_before_and_the_old_block_waits_for_the_horizon() {
    let mut group = Group::new();
    group.put(b"k", b"some bytes in blocks", 2, Precondition::None).unwrap();
    let (before, bytes) = group.get(b"k", RangeSpec::Full).unwrap();
    let found = group.all_extents();
    assert_eq!(found.len(), 2);
    assert_eq!(group.codes(), [(4, 2, 20, 20)]);
    let old = found[0].extent.block;
    assert_eq!(group.rewrite(&found), 2);
    group.check();
    assert_eq!(group.get(b"k", RangeSpec::Full).unwrap(), (before, bytes));
    // Counted where it is now; the old blocks live, for readers, and repair keeps them whole.
    assert_eq!(group.codes(), [(1, 1, 20, 20), (4, 2, 20, 0)]);
    assert!(matches!(group.state(old), BlockState::Live { live_bytes: 10, .. }));
    let Ok(NamespaceAnswer::OldestMoved(Some((sequence, released_ms)))) =
        group.ask(NamespaceQuery::OldestMoved)
    else {
        panic!("nothing waits")
    };
    assert_eq!(sequence, group.store.index);
    // Neither before the horizon has passed, nor before a checkpoint knows the new place.
    group.expand_moved(u64::MAX, released_ms - 1);
    group.expand_moved(sequence - 1, u64::MAX);
    group.ok(NamespaceCommand::OutboxExpand { horizon_ms: u64::MAX, now_ms: 9 });
    assert!(matches!(group.state(old), BlockState::Live { .. }));
    group.expand_moved(sequence, released_ms);
    assert_eq!(group.state(old), BlockState::Dead);
    assert_eq!(group.codes(), [(1, 1, 20, 20)]);
    group.check();
}

#[test]
fn what_changed_meanwhile_is_left_alone() {
    let mut group = Group::new();
    group.put(b"gone", b"deleted meanwhile", 1, Precondition::None).unwrap();
    group.put(b"kept", b"still there", 1, Precondition::None).unwrap();
    group.put(b"moved", b"moved by another", 1, Precondition::None).unwrap();
    let found = group.all_extents();
    let command = group.rewriting(&found);
    let lonely = group.rewriting(&found[2..]);
    group.delete(&[b"gone"]).unwrap();
    assert_eq!(group.rewrite(&found[2..]), 1);
    let NamespaceOk::Rewritten(count) = group.ok(command) else { panic!("not rewritten") };
    assert_eq!(count, 1);
    group.check();
    assert_eq!(group.get(b"kept", RangeSpec::Full).unwrap().1, b"still there");
    assert_eq!(group.get(b"moved", RangeSpec::Full).unwrap().1, b"moved by another");
    // A block that nothing moved to dies at once.
    let NamespaceCommand::Rewrite { blocks, .. } = &lonely else { panic!("no rewrite") };
    let block = blocks[0].block;
    assert_eq!(group.ok(lonely.clone()), NamespaceOk::Rewritten(0));
    assert_eq!(group.state(block), BlockState::Dead);
    assert_eq!(group.apply(lonely), Err(NamespaceError::BlockBound(block)));
    group.check();
}

#[test]
fn a_rewrite_is_checked_like_a_commit() {
    let mut group = Group::new();
    group.put(b"k", b"some bytes", 1, Precondition::None).unwrap();
    let found = group.all_extents();
    let change = |group: &mut Group, change: &dyn Fn(&mut Vec<NewBlock>, &mut Vec<Swap>)| {
        let NamespaceCommand::Rewrite { session, mut blocks, mut swaps, now_ms } =
            group.rewriting(&found)
        else {
            panic!("no rewrite")
        };
        change(&mut blocks, &mut swaps);
        group.apply(NamespaceCommand::Rewrite { session, blocks, swaps, now_ms })
    };
    let extents = Err(Malformed::Extents.into());
    assert_eq!(change(&mut group, &|_, swaps| swaps[0].new.len -= 1), extents);
    assert_eq!(change(&mut group, &|_, swaps| swaps[0].new.region_len -= 1), extents);
    assert_eq!(change(&mut group, &|_, swaps| swaps[0].new.k = 4), extents);
    let foreign = Err(Malformed::Blocks.into());
    assert_eq!(change(&mut group, &|blocks, _| blocks.clear()), foreign);
    let reply = change(&mut group, &|blocks, _| blocks[0].missing_mask = 6);
    assert!(matches!(reply, Err(NamespaceError::NoQuorum(_))));
    let many = |_: &mut Vec<NewBlock>, swaps: &mut Vec<Swap>| {
        *swaps = vec![swaps[0]; limits::SWAPS_MAX + 1];
    };
    assert_eq!(change(&mut group, &many), Err(NamespaceError::TooLarge));
    group.ok(NamespaceCommand::FencePg { pg: COPIES, epoch: Epoch(2) });
    let reply = change(&mut group, &|_, _| {});
    assert!(matches!(reply, Err(NamespaceError::Fenced(_))));
    let session = group.session;
    group.ok(NamespaceCommand::CloseSession { session, now_ms: 1 });
    assert_eq!(change(&mut group, &|_, _| {}), Err(NamespaceError::SessionClosed(session)));
    group.check();
    assert_eq!(group.all_extents(), found);
}

#[test]
fn extents_are_found_by_block_by_code_and_by_size() {
    let mut group = Group::new();
    let large = vec![7; limits::PACKED_BYTES_MAX as usize + 1];
    group.put(b"large", &large, 3, Precondition::None).unwrap();
    for number in 0..5u8 {
        group.put(&[b's', number], &[number; 50], 1, Precondition::None).unwrap();
    }
    group.check();
    let code = |k, m, over| ExtentFilter { blocks: vec![], codes: vec![CodeFilter { k, m, over }] };
    assert_eq!(group.find(&code(4, 2, None)).len(), 8);
    assert_eq!(group.find(&code(4, 2, Some(limits::PACKED_BYTES_MAX))).len(), 3);
    assert_eq!(group.find(&code(2, 2, None)), []);
    let two: Vec<FoundExtent> = group.find(&code(4, 2, None)).split_off(6);
    let blocks = two.iter().map(|found| found.extent.block).collect();
    assert_eq!(group.find(&ExtentFilter { blocks, codes: vec![] }), two);
}
