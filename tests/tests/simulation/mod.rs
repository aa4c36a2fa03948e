//! The grid and its metadata under simulated faults, many seeds of it.
//!
//! A seed decides everything: machines, delays, faults, clients. Each founds a grid of seven nodes,
//! lets clients work while machines die, lose power, part, sleep and lie, then ends the faults
//! and checks: histories are linearizable per key, everything acknowledged is there and listed,
//! nothing deleted is back, writes are served within 30 s, replicas agree, rows keep their
//! invariants. One seed in a hundred runs twice and must leave the same trace.
//!
//! `NEXUSGRID_SIM_SEEDS` says how many (100), `NEXUSGRID_SIM_SEED` the first: with it and one seed
//! a failure is replayed exactly. `NEXUSGRID_SIM_TRACE=file` keeps the trace.

mod clients;
mod cluster;
mod faults;
mod mutants;
mod run;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mutants::Mutant;
use parking_lot::Mutex;
use run::Outcome;

/// Worlds played at once.
const THREADS: u64 = 2;

/// So many seeds share one that runs twice.
const TWICE_EVERY: u64 = 100;

/// Seeds that once failed run always.
const KEPT: &[u64] = &[];

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => default,
    }
}

/// What all seeds came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    virtual_time: Duration,
    slowest_recovery: Duration,
    injected: BTreeMap<faults::Kind, u64>,
    counts: BTreeMap<&'static str, u64>,
    failures: BTreeMap<u64, Vec<String>>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.virtual_time += outcome.elapsed;
        self.slowest_recovery = self.slowest_recovery.max(outcome.recovery);
        for (kind, count) in outcome.injected {
            *self.injected.entry(kind).or_default() += count;
        }
        for (what, count) in outcome.counts {
            *self.counts.entry(what).or_default() += count;
        }
        if !outcome.wrongs.is_empty() {
            self.failures.insert(seed, outcome.wrongs);
        }
    }

    fn fail(&mut self, seed: u64, why: String) {
        self.failures.entry(seed).or_default().push(why);
    }
}

thread_local! {
    /// Panics of this thread's world: the tasks of a library end quietly otherwise.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.with(|panics| panics.borrow_mut().push(panic.to_string()));
            before(panic);
        }));
    });
}

fn play(seed: u64, twice: bool, sum: &Mutex<Sum>) {
    let played = catch_unwind(AssertUnwindSafe(|| {
        let outcome = run::run(seed, None);
        let again = twice.then(|| run::run(seed, None));
        (outcome, again)
    }));
    let panics = PANICS.take();
    let mut sum = sum.lock();
    if let Ok((outcome, again)) = played {
        let differs = again.is_some_and(|again| again.trace_hash != outcome.trace_hash);
        sum.add(seed, outcome);
        if differs {
            sum.fail(seed, "two runs left different traces".to_owned());
        }
    }
    panics.into_iter().for_each(|panic| sum.fail(seed, panic));
}

#[test]
fn seeds() {
    note_panics();
    let first = number("NEXUSGRID_SIM_SEED", 1);
    let count = number("NEXUSGRID_SIM_SEEDS", 100);
    let kept = KEPT.iter().copied().filter(|_| std::env::var_os("NEXUSGRID_SIM_SEED").is_none());
    let seeds: Vec<u64> = kept.chain(first..first + count).collect();
    let (sum, next) = (Mutex::new(Sum::default()), AtomicU64::new(0));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    play(*seed, seed % TWICE_EVERY == first % TWICE_EVERY, &sum);
                }
            });
        }
    });
    let sum = sum.into_inner();
    println!(
        "{} seeds, {:.2} simulated hours in {:.0?}, slowest recovery {:.1?}",
        sum.seeds,
        sum.virtual_time.as_secs_f64() / 3600.0,
        begun.elapsed(),
        sum.slowest_recovery,
    );
    println!("faults: {:?}", sum.injected);
    println!("operations: {:?}", sum.counts);
    for (seed, wrongs) in &sum.failures {
        println!("seed {seed} failed (replay: NEXUSGRID_SIM_SEED={seed} NEXUSGRID_SIM_SEEDS=1):");
        wrongs.iter().for_each(|wrong| println!("  {wrong}"));
    }
    let failed: Vec<u64> = sum.failures.keys().copied().collect();
    assert!(failed.is_empty(), "seeds {failed:?} failed");
}

fn is_caught(mutant: Mutant, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| run::run(seed, Some(mutant))));
        match outcome {
            Ok(outcome) if outcome.wrongs.is_empty() => {}
            Ok(outcome) => return println!("{mutant:?}, seed {seed}: {}", outcome.wrongs[0]),
            Err(_) => return println!("{mutant:?}, seed {seed}: panics"),
        }
    }
    panic!("nobody noticed {mutant:?}");
}

#[test]
fn stale_reads_are_caught() {
    is_caught(Mutant::StaleReads, 1..20);
}

#[test]
fn repeats_under_another_id_are_caught() {
    is_caught(Mutant::FreshIds, 1..20);
}

#[test]
fn an_acknowledgement_before_the_sync_is_caught() {
    is_caught(Mutant::NoSync, 1..20);
}
