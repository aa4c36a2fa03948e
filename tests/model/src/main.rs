//! `nexusgrid-model [COLD_DEPTH [WARM_DEPTH [WALK_SECONDS]]]`: runs the long checks, prints a table
//! and every counter-example. The counts in `docs/protocol-model.md` come from here.

use std::time::Duration;

use nexusgrid_model::{Outcome, Protocol, Rule, Rules, Scenario, Until, check, walk};

fn main() {
    let argument = |index: usize, default: usize| {
        std::env::args().nth(index).and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (cold_depth, warm_depth, walk_s) = (argument(1, 14), argument(2, 10), argument(3, 60));

    println!("| scenario | rules | search | states | depth | violated | wanted, not reached |");
    println!("|---|---|---|---|---|---|---|");
    for scenario in [
        Scenario::one_block(),
        Scenario::one_block().without_symmetry(),
        Scenario::two_slots(),
        Scenario::sleeping_survivor(),
        Scenario::two_blocks_single(),
    ] {
        run(&scenario, Rules::ALL, "all", Until::Exhausted);
    }
    run(&Scenario::two_blocks(), Rules::ALL, "all", Until::Depth(cold_depth));
    run(&Scenario::two_blocks().warm(), Rules::ALL, "all", Until::Depth(warm_depth));
    let two = Protocol { scenario: Scenario::two_blocks(), rules: Rules::ALL };
    let walked = walk(two, 1, Duration::from_secs(walk_s as u64));
    report(&Scenario::two_blocks(), "all", &format!("random walks, {walk_s} s"), &walked);

    for rule in Rule::NEEDED {
        let what = format!("without {}", rule.name());
        let found = run(&Scenario::showing(rule), Rules::without(rule), &what, Until::AnyViolated);
        for violation in found.violations {
            println!("\n{}:", violation.property);
            violation.steps.iter().for_each(|step| println!("    {step}"));
            println!();
        }
    }
}

fn run(scenario: &Scenario, rules: Rules, what: &str, until: Until) -> Outcome {
    let outcome = check(Protocol { scenario: scenario.clone(), rules }, until);
    report(scenario, what, &format!("{until:?}"), &outcome);
    outcome
}

fn report(scenario: &Scenario, what: &str, search: &str, outcome: &Outcome) {
    let symmetry = if scenario.alike.is_some() { "" } else { ", no symmetry" };
    let warm = if scenario.warm { ", warm" } else { "" };
    println!(
        "| {}{symmetry}{warm} | {what} | {search} | {} | {} | {} | {} |",
        scenario.name,
        outcome.states,
        outcome.depth,
        outcome.violations.len(),
        outcome.unreached.len(),
    );
}
