//! The protocol holds with all rules and fails without any one of them. The counts are those that
//! `docs/protocol-model.md` publishes: whoever changes the model changes them there too.

use nexusgrid_model::properties::{COMPLETE, READABLE, STAYS_DELETED};
use nexusgrid_model::scenario::{Scenario, bits};
use nexusgrid_model::{Outcome, Protocol, Rule, Rules, Until, check};

fn holds(scenario: Scenario, until: Until) -> Outcome {
    let outcome = check(Protocol { scenario, rules: Rules::ALL }, until);
    assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    outcome
}

fn fails_without(rule: Rule, property: &'static str) {
    let protocol = Protocol { scenario: Scenario::showing(rule), rules: Rules::without(rule) };
    let outcome = check(protocol, Until::Violated(property));
    let violation = outcome.violations.iter().find(|violation| violation.property == property);
    let violation = violation.expect("a counter-example shows that the rule is needed");
    assert!(!violation.steps.is_empty());
}

#[test]
fn one_block_holds_exhaustively() {
    let outcome = holds(Scenario::one_block(), Until::Exhausted);
    assert_eq!(outcome.unreached, [""; 0]);
    assert_eq!(outcome.states, 382_380);
}

/// Symmetry leaves nothing out: without it, the same properties hold.
#[test]
fn one_block_holds_without_symmetry() {
    let outcome = holds(Scenario::one_block().without_symmetry(), Until::Exhausted);
    assert_eq!(outcome.unreached, [""; 0]);
    assert_eq!(outcome.states, 682_889);
}

#[test]
fn two_slots_hold_exhaustively() {
    let outcome = holds(Scenario::two_slots(), Until::Exhausted);
    assert_eq!(outcome.unreached, [""; 0]);
    assert_eq!(outcome.states, 252_524);
}

#[test]
fn a_sleeping_survivor_holds_exhaustively() {
    let outcome = holds(Scenario::sleeping_survivor(), Until::Exhausted);
    assert_eq!(outcome.unreached, [""; 0]);
    assert_eq!(outcome.states, 37_026);
}

#[test]
fn two_blocks_hold_within_a_bound() {
    let outcome = holds(Scenario::two_blocks(), Until::Depth(12));
    assert_eq!(outcome.states, 768_809);
}

#[test]
fn two_blocks_hold_within_a_bound_from_a_warm_start() {
    let outcome = holds(Scenario::two_blocks().warm(), Until::Depth(8));
    assert_eq!(outcome.states, 1_188_434);
}

#[test]
fn without_r1_a_late_write_is_acknowledged_and_lost() {
    fails_without(Rule::DriveFence, COMPLETE);
}

#[test]
fn without_r2_a_write_slips_in_behind_the_list() {
    fails_without(Rule::FenceThenList, COMPLETE);
}

#[test]
fn without_r3_acknowledgements_of_two_epochs_make_no_quorum() {
    fails_without(Rule::OneEpochQuorum, COMPLETE);
}

#[test]
fn without_r4_a_dead_worker_brings_a_deleted_block_back() {
    fails_without(Rule::FillSession, STAYS_DELETED);
}

#[test]
fn without_r5_a_fill_outlives_the_tombstone() {
    fails_without(Rule::TombstoneHold, STAYS_DELETED);
}

#[test]
fn without_r6_a_late_put_outlives_the_tombstone() {
    fails_without(Rule::SessionFloor, STAYS_DELETED);
}

#[test]
fn without_r7_a_woken_drive_brings_a_deleted_block_back() {
    fails_without(Rule::RejoinReconcile, STAYS_DELETED);
}

#[test]
fn without_the_slack_two_remaps_leave_too_little() {
    fails_without(Rule::RemapWithinSlack, READABLE);
}

#[test]
fn without_the_sleeper_s_list_repair_misses_a_block() {
    fails_without(Rule::SleeperIsListed, COMPLETE);
}

/// Not needed beside the others in what is modelled; see [`Rule::WakeReadsMap`].
#[test]
fn a_woken_drive_is_fenced_even_before_it_reads_the_map() {
    for scenario in [Scenario::one_block(), Scenario::sleeping_survivor()] {
        let rules = Rules::without(Rule::WakeReadsMap);
        let outcome = check(Protocol { scenario, rules }, Until::Exhausted);
        assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
    }
}

#[test]
fn slots_follow_the_remaps() {
    let scenario = Scenario::two_blocks();
    let drives = |epoch| (0..4).map(|slot| scenario.drive(epoch, slot)).collect::<Vec<_>>();
    assert_eq!(drives(1), [0, 1, 2, 3]);
    assert_eq!(drives(2), [4, 1, 2, 3]);
    assert_eq!(drives(3), [0, 1, 2, 3]);
    assert_eq!(drives(4), [0, 5, 2, 3]);
    assert_eq!(bits(scenario.mapped(2)).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(scenario.remap_of(1).is_none() && scenario.remap_of(5).is_none());
}
