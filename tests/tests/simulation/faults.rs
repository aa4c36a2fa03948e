//! What goes wrong in a run: a schedule drawn from the seed, and its end.
//!
//! Safety must hold under anything but bad drives in several machines: a drive that says EIO is lost
//! with all it holds, and one that lies is as good as lost, until repair has made others whole. So
//! one machine of a run has a bad drive. Everything else may happen at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::{DriveId, GroupId};
use nexusgrid_env::sim::{DiskFault, DiskOp, Effect, NetOptions, SeededRng};
use nexusgrid_env::{NodeId, Rng};
use nexusgrid_meta::root::types::{DriveState, RootCommand};

use super::cluster::{Cluster, GROUPS, NODES, nodes};

/// Tries to start an agent whose disk refuses.
const STARTS_MAX: usize = 20;

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Kill,
    KillLeader,
    KillAll,
    PowerLoss,
    PowerLossAll,
    Partition,
    OneWay,
    Isolate,
    RoughNetwork,
    SlowNetwork,
    Jump,
    Suspend,
    DriveError,
    LogError,
    DiskFull,
    SlowDisk,
    LyingDrive,
    WallClock,
    Drift,
    /// A drive is to be emptied, and not any more: slots move.
    Drain,
    /// A machine is off for longer than its slots wait.
    Away,
    /// The disk with a machine's metadata is replaced.
    Wipe,
}

const KINDS: [Kind; 22] = [
    Kind::Kill,
    Kind::KillLeader,
    Kind::KillAll,
    Kind::PowerLoss,
    Kind::PowerLossAll,
    Kind::Partition,
    Kind::OneWay,
    Kind::Isolate,
    Kind::RoughNetwork,
    Kind::SlowNetwork,
    Kind::Jump,
    Kind::Suspend,
    Kind::DriveError,
    Kind::LogError,
    Kind::DiskFull,
    Kind::SlowDisk,
    Kind::LyingDrive,
    Kind::WallClock,
    Kind::Drift,
    Kind::Drain,
    Kind::Away,
    Kind::Wipe,
];

/// How a fault ends, by itself or at the latest when all do.
enum Mend {
    Start(NodeId),
    Resume(NodeId),
    Links(Vec<(NodeId, NodeId)>),
    GoodNetwork,
    FastNetwork(NodeId),
    /// A process that saw an error of its disk is started anew.
    GoodDisk(NodeId),
    FastDisk(NodeId),
    Undrain(NodeId),
}

/// Brings faults about.
pub struct Nemesis {
    cluster: Arc<Cluster>,
    rng: SeededRng,
    kinds: Vec<Kind>,
    /// The one machine whose drive may be bad.
    bad: NodeId,
    /// The drive that is to be emptied.
    drained: Option<NodeId>,
    mends: BTreeMap<(Duration, u64), Mend>,
    mends_made: u64,
    pub injected: BTreeMap<Kind, u64>,
}

impl Nemesis {
    /// Faults of the given kinds; of a few that the seed chooses if none are given.
    pub fn new(cluster: &Arc<Cluster>, kinds: Option<Vec<Kind>>) -> Nemesis {
        let rng = SeededRng::for_part(cluster.world.seed(), "nemesis");
        // Few kinds at a time find more than all of them always.
        let count = rng.between(0, 6);
        let drawn = (0..count).map(|_| KINDS[rng.below(KINDS.len() as u64) as usize]).collect();
        let kinds = kinds.unwrap_or(drawn);
        let bad = NodeId(rng.between(1, NODES));
        Nemesis {
            cluster: Arc::clone(cluster),
            rng,
            kinds,
            bad,
            drained: None,
            mends: BTreeMap::new(),
            mends_made: 0,
            injected: BTreeMap::new(),
        }
    }

    /// Whether nothing will go wrong.
    pub fn is_idle(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The machine whose drive went bad, if one did.
    pub fn bad_drive(&self) -> Option<NodeId> {
        let went_bad = [Kind::LyingDrive, Kind::DriveError];
        went_bad.iter().any(|kind| self.injected.contains_key(kind)).then_some(self.bad)
    }

    fn any_node(&self) -> NodeId {
        NodeId(self.rng.between(1, NODES))
    }

    fn any_set(&self, size: u64) -> Vec<NodeId> {
        let mut set = BTreeSet::new();
        while (set.len() as u64) < size {
            set.insert(self.any_node());
        }
        set.into_iter().collect()
    }

    /// Between moments and a good while, more often short.
    fn span(&self) -> Duration {
        let most_ms = [300, 3_000, 15_000][self.rng.below(3) as usize];
        Duration::from_millis(self.rng.between(1, most_ms))
    }

    fn mend_later(&mut self, mend: Mend) {
        let millis = self.span().as_millis() as u64;
        self.mend_in(mend, millis);
    }

    /// Has the root group told; it may take a while to hear.
    fn set_drive(&self, node: NodeId, state: DriveState) {
        let cluster = Arc::clone(&self.cluster);
        drop(tokio::spawn(async move {
            let command = RootCommand::SetDriveState { drive: DriveId(node.0), state };
            if let Err(error) = cluster.root(&command).await {
                cluster.world.trace().record(format_args!("{node} {state:?}: {error}"));
            }
        }));
    }

    fn mend_in(&mut self, mend: Mend, millis: u64) {
        let due = self.cluster.world.elapsed() + Duration::from_millis(millis);
        self.mends_made += 1;
        self.mends.insert((due, self.mends_made), mend);
    }

    /// Faults for so long.
    pub async fn run(&mut self, duration: Duration) {
        if self.is_idle() {
            return tokio::time::sleep(duration).await;
        }
        let end = self.cluster.world.elapsed() + duration;
        let pause_max_ms = [500, 2_000, 6_000][self.rng.below(3) as usize];
        let mut next = self.cluster.world.elapsed();
        loop {
            let now = self.cluster.world.elapsed();
            if now >= end {
                return;
            }
            if let Some(entry) = self.mends.first_entry()
                && entry.key().0 <= now
            {
                let mend = entry.remove();
                self.mend(mend).await;
                continue;
            }
            if next <= now {
                let kind = self.kinds[self.rng.below(self.kinds.len() as u64) as usize];
                if self.inject(kind) {
                    *self.injected.entry(kind).or_default() += 1;
                }
                next = now + Duration::from_millis(self.rng.between(50, pause_max_ms));
                continue;
            }
            let due = self.mends.first_key_value().map_or(next, |((due, _), _)| (*due).min(next));
            tokio::time::sleep(due.min(end) - now).await;
        }
    }

    fn down(&mut self, node: NodeId, power: bool) -> bool {
        if !self.cluster.world.is_up(node) {
            return false;
        }
        if power {
            self.cluster.crash(node)
        } else {
            self.cluster.kill(node)
        }
        self.mend_later(Mend::Start(node));
        true
    }

    fn cut(&mut self, pairs: Vec<(NodeId, NodeId)>) {
        for (from, to) in &pairs {
            self.cluster.cut(*from, *to);
        }
        self.mend_later(Mend::Links(pairs));
    }

    /// Brings one about; false if it cannot be now.
    fn inject(&mut self, kind: Kind) -> bool {
        let node = self.any_node();
        let world = self.cluster.world.clone();
        match kind {
            Kind::Kill => return self.down(node, false),
            Kind::PowerLoss => return self.down(node, true),
            Kind::KillLeader => {
                let group = GroupId(self.rng.below(u64::from(GROUPS) + 1) as u32);
                let power = self.rng.chance(0.5);
                let Some((leader, _)) = self.cluster.leader(group) else { return false };
                return self.down(leader, power);
            }
            Kind::KillAll | Kind::PowerLossAll => {
                // Not again before all are back.
                if nodes().any(|node| !world.is_up(node)) {
                    return false;
                }
                for node in nodes() {
                    self.down(node, kind == Kind::PowerLossAll);
                }
            }
            Kind::Partition => {
                let side = self.any_set(self.rng.between(1, NODES / 2));
                let pairs = side.iter().flat_map(|a| {
                    let others = nodes().filter(|b| !side.contains(b));
                    others.flat_map(|b| [(*a, b), (b, *a)])
                });
                self.cut(pairs.collect());
            }
            Kind::Isolate => {
                let others = nodes().filter(|other| *other != node);
                let inward = self.rng.chance(0.5);
                let pairs = others.map(|other| if inward { (other, node) } else { (node, other) });
                self.cut(pairs.collect());
            }
            Kind::OneWay => {
                let count = self.rng.between(1, 8);
                let pairs = (0..count).map(|_| (self.any_node(), self.any_node()));
                self.cut(pairs.filter(|(from, to)| from != to).collect());
            }
            Kind::RoughNetwork => {
                world.net().set_options(NetOptions {
                    loss: [0.02, 0.1, 0.3][self.rng.below(3) as usize],
                    late: [0.0, 0.01, 0.05][self.rng.below(3) as usize],
                    late_min: Duration::from_millis(500),
                    late_max: Duration::from_secs(60),
                    ..NetOptions::rough()
                });
                self.mend_later(Mend::GoodNetwork);
            }
            Kind::SlowNetwork => {
                world.net().set_slow(node, self.rng.between(2, 100) as u32);
                self.mend_in(Mend::FastNetwork(node), self.rng.between(100, 15_000));
            }
            Kind::Jump => world.jump(node, Duration::from_secs(self.rng.between(1, 7200))),
            Kind::Suspend => {
                if !world.is_up(node) || self.cluster.links.lock().suspended.contains(&node) {
                    return false;
                }
                self.cluster.suspend(node);
                self.mend_later(Mend::Resume(node));
            }
            Kind::DriveError | Kind::LogError => {
                let (node, part) =
                    if kind == Kind::DriveError { (self.bad, "/drive") } else { (node, "/meta") };
                let ops = [
                    &[DiskOp::Sync][..],
                    &[DiskOp::Write],
                    &[DiskOp::Read],
                    &[DiskOp::Read, DiskOp::Write, DiskOp::Sync],
                ];
                let ops = ops[self.rng.below(ops.len() as u64) as usize];
                let fault = DiskFault::new(ops, Effect::Eio).on(part).after(self.rng.below(20));
                world.disk(node).inject(if self.rng.chance(0.5) { fault.times(1) } else { fault });
                self.mend_later(Mend::GoodDisk(node));
            }
            Kind::DiskFull => {
                let part = if self.rng.chance(0.5) { "/drive" } else { "/meta" };
                let ops = [DiskOp::Write, DiskOp::Open, DiskOp::CreateDir];
                let fault = DiskFault::new(&ops, Effect::Full).on(part);
                world.disk(node).inject(fault);
                self.mend_later(Mend::GoodDisk(node));
            }
            Kind::SlowDisk => {
                world.set_slow_disk(node, Duration::from_millis(self.rng.between(1, 300)));
                self.mend_later(Mend::FastDisk(node));
            }
            Kind::LyingDrive => {
                let effects = [Effect::FlipBit, Effect::LostWrite, Effect::Misdirected];
                let effect = effects[self.rng.below(3) as usize];
                let ops = [DiskOp::Write, DiskOp::Read];
                let ops = if self.rng.chance(0.5) { &ops[..1] } else { &ops[..] };
                let fault = DiskFault::new(ops, effect).on("/drive").after(self.rng.below(10));
                world.disk(self.bad).inject(fault.times(self.rng.between(1, 3)));
            }
            Kind::WallClock => {
                let skew = self.rng.between(0, 7_200_000) as i64 - 3_600_000;
                world.set_wall_skew(node, skew);
            }
            Kind::Drift => world.set_drift(node, self.rng.between(0, 40_000) as i32 - 20_000),
            Kind::Drain => {
                // There is one spare host.
                if self.drained.is_some() {
                    return false;
                }
                self.drained = Some(node);
                self.set_drive(node, DriveState::Draining);
                self.mend_in(Mend::Undrain(node), self.rng.between(3_000, 20_000));
            }
            Kind::Away => {
                if !world.is_up(node) {
                    return false;
                }
                match self.rng.below(3) {
                    0 => self.cluster.kill(node),
                    1 => self.cluster.crash(node),
                    _ => {
                        self.cluster.suspend(node);
                        self.mend_in(Mend::Resume(node), self.rng.between(10_000, 40_000));
                        return true;
                    }
                }
                self.mend_in(Mend::Start(node), self.rng.between(10_000, 40_000));
            }
            Kind::Wipe => {
                // One voter of five may forget what it said.
                if self.injected.contains_key(&Kind::Wipe) || !world.is_up(node) {
                    return false;
                }
                self.cluster.kill(node);
                let wiped = world.disk(node).mount().remove_dir_all(Path::new("/meta"));
                if wiped.is_err() {
                    world.trace().record(format_args!("{node} cannot be wiped"));
                }
                self.mend_later(Mend::Start(node));
            }
        }
        true
    }

    async fn mend(&mut self, mend: Mend) {
        let world = self.cluster.world.clone();
        match mend {
            Mend::Start(node) => {
                if !world.is_up(node) && self.cluster.start(node).await.is_err() {
                    self.mend_later(Mend::Start(node));
                }
            }
            Mend::Resume(node) => self.cluster.resume(node),
            Mend::Links(pairs) => {
                pairs.into_iter().for_each(|(from, to)| self.cluster.mend(from, to))
            }
            Mend::GoodNetwork => world.net().set_options(NetOptions::default()),
            Mend::FastNetwork(node) => world.net().set_slow(node, 1),
            Mend::GoodDisk(node) => {
                world.disk(node).clear_faults();
                if world.is_up(node) {
                    self.cluster.kill(node);
                    self.mend_later(Mend::Start(node));
                }
            }
            Mend::FastDisk(node) => world.set_slow_disk(node, Duration::ZERO),
            Mend::Undrain(node) => {
                self.drained = None;
                self.set_drive(node, DriveState::Active);
            }
        }
    }

    /// The end of all faults: every machine runs, sees every other, and has a good disk again.
    pub async fn heal(&mut self) -> Result<(), String> {
        let world = self.cluster.world.clone();
        world.net().set_options(NetOptions::default());
        world.net().heal();
        self.cluster.links.lock().cuts.clear();
        let mends = std::mem::take(&mut self.mends);
        for node in nodes() {
            world.net().set_slow(node, 1);
            world.set_slow_disk(node, Duration::ZERO);
            world.set_wall_skew(node, 0);
            world.set_drift(node, 0);
            world.disk(node).clear_faults();
            if self.cluster.links.lock().suspended.contains(&node) {
                self.cluster.resume(node);
            }
        }
        for mend in mends.into_values() {
            if let Mend::GoodDisk(node) = mend {
                self.cluster.kill(node);
            }
        }
        // An agent tries again to open a drive that it could not.
        for (node, member) in self.cluster.members() {
            if member.drive().is_none() {
                self.cluster.kill(node);
            }
        }
        for node in nodes() {
            self.start(node).await?;
        }
        if self.injected.contains_key(&Kind::Drain) {
            self.undrain().await?;
        }
        Ok(())
    }

    /// No drive is to be emptied any more.
    async fn undrain(&mut self) -> Result<(), String> {
        self.drained = None;
        let (_, member) = self.cluster.members().into_iter().next().ok_or("nobody is up")?;
        let map = member.grid.topology();
        for drive in map.drives.values().filter(|drive| drive.state != DriveState::Failed) {
            let command = RootCommand::SetDriveState { drive: drive.id, state: DriveState::Active };
            self.cluster.root(&command).await?;
        }
        Ok(())
    }

    async fn start(&self, node: NodeId) -> Result<(), String> {
        let mut last = Ok(());
        for _ in 0..STARTS_MAX {
            if self.cluster.world.is_up(node) {
                return Ok(());
            }
            last = self.cluster.start(node).await;
            if last.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        last
    }

    /// Power fails everywhere at once and returns.
    pub async fn blackout(&mut self) -> Result<(), String> {
        nodes().for_each(|node| self.cluster.crash(node));
        for node in nodes() {
            self.start(node).await?;
        }
        Ok(())
    }
}
