//! The world: machines, their lives, virtual time.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, RngSeed};
use tokio::sync::watch;

use super::clock::{SimClock, WorldTime};
use super::disk::SimDisk;
use super::kv::SimEngine;
use super::net::SimNet;
use super::rng::SeededRng;
use super::trace::{Event, Trace};
use crate::exec::SimulatedMachine;
use crate::invariants::Memory;
use crate::{Env, Exec, Invariant, Invariants, NodeId, Rng, Rule, Rules};

/// Up to so long a simulated machine was up when its agent starts.
const UPTIME_AT_START_MAX: Duration = Duration::from_secs(3600);

/// A simulated world. Clones are the same world.
///
/// ```
/// use nexusgrid_env::{NodeId, sim::World};
/// use std::time::Duration;
///
/// let world = World::new(7);
/// world.run(async {
///     let env = world.start(NodeId(1));
///     env.clock.sleep(Duration::from_secs(3600)).await; // takes no real time
///     world.crash(NodeId(1));
///     assert!(env.disk.list(std::path::Path::new("/")).is_err());
/// });
/// ```
#[derive(Clone)]
pub struct World {
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    trace: Trace,
    time: Arc<WorldTime>,
    rng: Arc<SeededRng>,
    net: SimNet,
    machines: Mutex<BTreeMap<NodeId, Machine>>,
    memory: Arc<Mutex<Memory>>,
    rules: Rules,
}

struct Machine {
    disk: SimDisk,
    suspended: watch::Sender<bool>,
    blocking_micros: Arc<AtomicU64>,
    invariants: Invariants,
    /// Replaced when power returns.
    clock: Arc<SimClock>,
    lives: u64,
    /// The present life.
    env: Option<Env>,
}

impl World {
    /// A world in which everything follows from `seed`.
    pub fn new(seed: u64) -> World {
        World::build(seed, Rules::default())
    }

    /// As [`World::new`], but its agents break `rule`: to see that somebody notices.
    pub fn breaking(seed: u64, rule: Rule) -> World {
        World::build(seed, Rules::without(rule))
    }

    fn build(seed: u64, rules: Rules) -> World {
        let trace = Trace::default();
        let shared = Shared {
            seed,
            trace: trace.clone(),
            time: Arc::default(),
            rng: Arc::new(SeededRng::for_part(seed, "test")),
            net: SimNet::new(seed, trace),
            machines: Mutex::default(),
            memory: Arc::default(),
            rules,
        };
        World { shared: Arc::new(shared) }
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.shared.seed
    }

    /// Random choices for the test itself.
    pub fn rng(&self) -> Arc<SeededRng> {
        self.shared.rng.clone()
    }

    /// Runs `future` and the tasks it starts on one thread under virtual time, which moves on
    /// whenever all of them wait. Tasks left over at the end are dropped.
    ///
    /// # Panics
    /// When called inside another runtime, or if the runtime cannot be built.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        let seed = RngSeed::from_bytes(&self.shared.seed.to_le_bytes());
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(seed)
            .build()
            .expect("a runtime of one thread needs no resource that can lack");
        runtime.block_on(async {
            self.shared.time.begin();
            let output = future.await;
            self.shared.time.end();
            output
        })
    }

    /// Virtual time since the world began.
    pub fn elapsed(&self) -> Duration {
        self.shared.time.elapsed()
    }

    /// Hash of everything that happened. Two runs of a seed must agree.
    pub fn trace_hash(&self) -> u64 {
        self.shared.trace.hash()
    }

    /// The trace, to record events of one's own or to keep them.
    pub fn trace(&self) -> &Trace {
        &self.shared.trace
    }

    /// Events kept since [`Trace::keep_events`].
    pub fn events(&self) -> Vec<Event> {
        self.shared.trace.events()
    }

    /// The network.
    pub fn net(&self) -> &SimNet {
        &self.shared.net
    }

    /// The first breach of each invariant on each machine, over all its lives.
    pub fn broken(&self) -> Vec<(NodeId, Invariant, String)> {
        let machines = self.shared.machines.lock();
        let of = |(node, machine): (&NodeId, &Machine)| {
            let broken = machine.invariants.broken().into_iter();
            broken.map(|(invariant, detail)| (*node, invariant, detail)).collect::<Vec<_>>()
        };
        machines.iter().flat_map(of).collect()
    }

    fn trace_node(&self, node: NodeId, what: &str) {
        let at = self.elapsed();
        self.shared.trace.record(format_args!("{at:?} {node} {what}"));
    }

    /// Starts the agent of a machine, made on first use, on its surviving disk. If it runs, this
    /// is the running agent's [`Env`].
    pub fn start(&self, node: NodeId) -> Env {
        let mut machines = self.shared.machines.lock();
        let machine = machines.entry(node).or_insert_with(|| self.new_machine(node));
        if let Some(env) = &machine.env {
            return env.clone();
        }
        machine.lives += 1;
        let label = format!("{node} life {}", machine.lives);
        let exec = Exec::inline_on(SimulatedMachine {
            suspended: machine.suspended.subscribe(),
            blocking_micros: machine.blocking_micros.clone(),
        });
        let disk = machine.disk.mount();
        let env = Env {
            clock: machine.clock.clone(),
            kv: Arc::new(SimEngine::new(disk.clone())),
            disk,
            rng: Arc::new(SeededRng::for_part(self.shared.seed, &label)),
            exec: exec.clone(),
            invariants: machine.invariants.clone(),
            rules: self.shared.rules,
        };
        machine.env = Some(env.clone());
        self.shared.net.attach(node, machine.lives, exec, machine.suspended.subscribe());
        self.trace_node(node, "starts");
        env
    }

    fn new_machine(&self, node: NodeId) -> Machine {
        let suspended = watch::Sender::new(false);
        let clock = self.power_on_clock(node, 0, 0, &suspended);
        let disk =
            SimDisk::labelled(self.shared.seed, &format!("{node}"), self.shared.trace.clone());
        let invariants = Invariants::remembering(Arc::clone(&self.shared.memory));
        let blocking_micros = Arc::default();
        Machine { disk, suspended, blocking_micros, invariants, clock, lives: 0, env: None }
    }

    fn power_on_clock(
        &self,
        node: NodeId,
        lives: u64,
        skew_millis: i64,
        suspended: &watch::Sender<bool>,
    ) -> Arc<SimClock> {
        let rng = SeededRng::for_part(self.shared.seed, &format!("{node} boot {lives}"));
        let uptime = Duration::from_micros(rng.below(UPTIME_AT_START_MAX.as_micros() as u64));
        let time = self.shared.time.clone();
        Arc::new(SimClock::new(time, uptime, skew_millis, suspended.subscribe()))
    }

    /// Ends the life of a machine's agent, by `end`; nothing if it does not run.
    fn end_life(&self, node: NodeId, what: &str, end: impl FnOnce(&mut Machine)) {
        let env = {
            let mut machines = self.shared.machines.lock();
            let Some(machine) = machines.get_mut(&node) else { return };
            let env = machine.env.take();
            end(machine);
            machine.suspended.send_replace(false);
            env
        };
        self.trace_node(node, what);
        self.shared.net.detach(node);
        if let Some(env) = env {
            env.exec.stop();
        }
    }

    /// Power fails on a machine: what was not synced may be lost, every later use of its
    /// [`Env`] fails, its tasks end.
    pub fn crash(&self, node: NodeId) {
        self.end_life(node, "loses power", |machine| {
            machine.disk.crash();
            let skew_millis = machine.clock.skew_millis();
            machine.clock =
                self.power_on_clock(node, machine.lives, skew_millis, &machine.suspended);
        });
    }

    /// The agent's process dies at once (kill -9); the machine stays up and its disk loses
    /// nothing.
    pub fn kill(&self, node: NodeId) {
        self.end_life(node, "is killed", |machine| machine.disk.kill());
    }

    /// Starts the agent again, killing it first if it runs.
    pub fn restart(&self, node: NodeId) -> Env {
        if self.is_up(node) {
            self.kill(node);
        }
        self.start(node)
    }

    /// Whether a machine's agent runs (perhaps suspended).
    pub fn is_up(&self, node: NodeId) -> bool {
        self.shared.machines.lock().get(&node).is_some_and(|machine| machine.env.is_some())
    }

    /// The disk of a machine, to inject faults or to look at what is stored. Makes the machine
    /// on first use.
    pub fn disk(&self, node: NodeId) -> SimDisk {
        let mut machines = self.shared.machines.lock();
        machines.entry(node).or_insert_with(|| self.new_machine(node)).disk.clone()
    }

    fn with_machine(&self, node: NodeId, what: &str, work: impl FnOnce(&Machine)) {
        self.trace_node(node, what);
        let mut machines = self.shared.machines.lock();
        work(machines.entry(node).or_insert_with(|| self.new_machine(node)));
    }

    /// Suspends a machine: tasks of its [`Exec`], its sleeps and its network stand still, while
    /// its boot time goes on.
    pub fn suspend(&self, node: NodeId) {
        self.with_machine(node, "suspends", |machine| {
            machine.suspended.send_replace(true);
        });
    }

    /// Resumes a suspended machine; its agent is told of the jump first.
    pub fn resume(&self, node: NodeId) {
        self.with_machine(node, "resumes", |machine| {
            machine.clock.jump(Duration::ZERO);
            machine.suspended.send_replace(false);
        });
    }

    /// Sets how long each piece of blocking work (see [`Exec::blocking`]) takes on a machine: its
    /// disk is slow. Zero is the default.
    pub fn set_slow_disk(&self, node: NodeId, each: Duration) {
        self.with_machine(node, "has another disk speed", |machine| {
            machine.blocking_micros.store(each.as_micros() as u64, Ordering::Relaxed);
        });
    }

    /// A suspend and resume within one moment of virtual time: the machine's boot time jumps.
    pub fn jump(&self, node: NodeId, by: Duration) {
        self.with_machine(node, "jumps", |machine| machine.clock.jump(by));
    }

    /// Sets how far a machine's wall clock is off, in milliseconds.
    pub fn set_wall_skew(&self, node: NodeId, millis: i64) {
        self.with_machine(node, "skews", |machine| machine.clock.set_skew(millis));
    }

    /// Sets how fast a machine's clock runs: 20 000 ppm is 2 % fast.
    pub fn set_drift(&self, node: NodeId, ppm: i32) {
        self.with_machine(node, "drifts", |machine| machine.clock.set_drift(ppm));
    }
}
