//! What a restore lost is remembered, whatever the sessions' floor says.

use nexusgrid_codec::id::{BlockId, GroupId, SessionId};

use super::support::*;
use crate::namespace::restore::restored;
use crate::namespace::types::*;

fn states(group: &Group, blocks: &[BlockId]) -> Vec<BlockState> {
    match group.ask(NamespaceQuery::ResolveBlocks { blocks: blocks.to_vec() }) {
        Ok(NamespaceAnswer::Blocks(states)) => states,
        other => panic!("{other:?}"),
    }
}

#[test]
fn blocks_of_what_was_lost_are_unheard_of_until_they_are_forgotten() {
    let mut group = Group::new();
    let old = group.session;
    group.ok(NamespaceCommand::CloseSession { session: old, now_ms: 1 });
    group.open();
    let open = group.session;
    group.put(b"k", b"v", 1, Precondition::None).unwrap();
    let kept = *group.blocks.keys().next().unwrap();
    let (checkpoint, index) = (group.store.index, 1 << 32);
    let batch = restored(&group.store, checkpoint, index, 7).unwrap();
    group.store.write(batch);
    group.store.index = index;

    let block = |session: SessionId, counter| BlockId { group: GroupId(1), session, counter };
    let never = block(old, 90);
    let of_open = block(open, 90);
    let later = block(SessionId(checkpoint + 5), 1);
    let asked = [kept, never, of_open, later];
    let is_live = |state: &BlockState| matches!(state, BlockState::Live { .. });
    let unheard = BlockState::Unheard;
    let now = states(&group, &asked);
    assert!(is_live(&now[0]));
    assert_eq!(now[1..], [BlockState::Unknown, unheard, unheard]);
    // Its writer may live, and what it commits now would not be told from what was lost.
    assert_eq!(
        group.put(b"k2", b"v", 1, Precondition::None),
        Err(NamespaceError::SessionClosed(open))
    );
    // New sessions lie behind the gap, and close, and go below the floor: the gap stays.
    group.open();
    assert!(group.session.0 > index);
    group.put(b"k3", b"v", 1, Precondition::None).unwrap();
    let session = group.session;
    group.ok(NamespaceCommand::CloseSession { session, now_ms: 9 });
    group.ok(NamespaceCommand::ForgetSessions { floor: SessionId(session.0 + 1) });
    assert_eq!(states(&group, &asked)[1..], [BlockState::Unknown, unheard, unheard]);
    let garbage = block(session, 90);
    assert_eq!(states(&group, &[garbage]), [BlockState::Unknown]);

    group.ok(NamespaceCommand::ForgetGaps);
    let unknown = BlockState::Unknown;
    assert_eq!(states(&group, &asked)[1..], [unknown, unknown, unknown]);
    assert!(is_live(&states(&group, &asked)[0]));
}
