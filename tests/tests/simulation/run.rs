//! One seed, from the founding of a grid to the last check.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::{DriveId, GroupId};
use nexusgrid_drive::ShardKey;
use nexusgrid_env::sim::{SeededRng, World};
use nexusgrid_env::{Invariant, NodeId, ScanRange};
use nexusgrid_grid::Precondition;
use nexusgrid_meta::namespace::audit::audit;
use nexusgrid_meta::namespace::rows::{self, BlockRow};
use nexusgrid_meta::root::topology::PgState;
use nexusgrid_meta::rows::codec;

use super::clients::{Book, Client, places};
use super::cluster::{Cluster, GROUPS, Member, NODES, machine_of, nodes};
use super::faults::{Kind, Nemesis};
use super::knobs::{HORIZON_SHORT, Knobs};
use super::mutants::Mutant;
use super::tide::Tide;

/// Writes are served again so long after the last fault.
const RECOVERY_MAX: Duration = Duration::from_secs(30);

/// Slots that moved off a failed drive are whole again so long after that.
const MOVES_MAX: Duration = Duration::from_secs(120);

/// Nothing that was deleted is on a drive so long after that: the horizon, leases of sessions that
/// died, and two looks at an orphan.
const GARBAGE_MAX: Duration = Duration::from_secs(300);

/// Methods that change what drives hold.
const WRITES_OF_SHARDS: std::ops::Range<u16> = 0x0301..0x0309;

/// Everything is replayed within so long.
pub const REPLAYED_WITHIN: Duration = Duration::from_secs(2);

/// Between two writes of a tide.
const TIDE_PACE: Duration = Duration::from_millis(30);

/// One in so many seeds waits until tombstones are gone before messages are replayed.
const FORGETS_EVERY: u64 = 8;

/// Shards of one page of a drive's list.
const PAGE: usize = 1000;

/// What a seed came to.
pub struct Outcome {
    pub trace_hash: u64,
    pub elapsed: Duration,
    pub recovery: Duration,
    pub injected: BTreeMap<Kind, u64>,
    pub counts: BTreeMap<&'static str, u64>,
    /// Empty if all held.
    pub wrongs: Vec<String>,
}

/// Runs one seed, with a bug put in if one is given.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Outcome {
    let world = match mutant.and_then(Mutant::rule) {
        Some(rule) => World::breaking(seed, rule),
        None => World::new(seed),
    };
    if std::env::var_os("NEXUSGRID_SIM_TRACE").is_some() {
        world.trace().keep_events();
    }
    let mut outcome = Outcome {
        trace_hash: 0,
        elapsed: Duration::ZERO,
        recovery: Duration::ZERO,
        injected: BTreeMap::new(),
        counts: BTreeMap::new(),
        wrongs: Vec::new(),
    };
    let book = Arc::new(Book::default());
    let mut went_bad = false;
    if let Err(error) = world.run(play(&world, mutant, &book, &mut outcome, &mut went_bad)) {
        outcome.wrongs.push(error);
    }
    // A drive that lies loses what it acknowledged, and forgets: not the grid's fault.
    let by_drives = [Invariant::I2, Invariant::I3, Invariant::I5, Invariant::I9];
    for (node, invariant, detail) in world.broken() {
        if !(went_bad && by_drives.contains(&invariant)) {
            outcome.wrongs.push(format!("{invariant} is broken on {node}: {detail}"));
        }
    }
    outcome.wrongs.extend(book.check());
    outcome.counts = book.counts();
    outcome.trace_hash = world.trace_hash();
    outcome.elapsed = world.elapsed();
    // A machine that is off holds nothing: what runs refers to its network, and that to what runs.
    nodes().for_each(|node| world.kill(node));
    if let Some(path) = std::env::var_os("NEXUSGRID_SIM_TRACE") {
        let lines: String = world
            .events()
            .iter()
            .map(|event| format!("{} {}\n", event.index, event.text))
            .collect();
        let _ = std::fs::write(path, lines);
    }
    outcome
}

async fn play(
    world: &World,
    mutant: Option<Mutant>,
    book: &Arc<Book>,
    outcome: &mut Outcome,
    went_bad: &mut bool,
) -> Result<(), String> {
    let rng = SeededRng::for_part(world.seed(), "knobs");
    let mut knobs = Knobs::draw(&rng);
    if mutant.is_some() {
        knobs.haste();
    }
    let cluster = Cluster::found(world, knobs, mutant).await?;
    world.net().keep_requests(WRITES_OF_SHARDS);
    let first = Client::new(&cluster, book, "first client");
    first.make_buckets().await?;

    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..rng.between(2, 6))
        .map(|number| Client::new(&cluster, book, &format!("client {number}")))
        .map(|client| tokio::spawn(client.run(stopped.clone())))
        .collect();
    // A mutant is met the sooner the more goes on.
    let tide = Tide::new(&cluster);
    if mutant.is_some() {
        tide.make_buckets().await?;
    }
    let is_ruleless = mutant.and_then(Mutant::rule).is_some();
    let tides: Vec<_> = (0..if is_ruleless { 4 } else { 0 })
        .map(|number| {
            let tide = Arc::clone(&tide);
            tokio::spawn(tide.run(format!("tide {number}"), TIDE_PACE, stopped.clone()))
        })
        .collect();
    let mut nemesis = Nemesis::new(&cluster, mutant.map(Mutant::faults));
    book.expect_answers(nemesis.is_idle());
    nemesis.run(Duration::from_secs(rng.between(10, 40))).await;
    outcome.injected = nemesis.injected.clone();
    *went_bad = nemesis.bad_drive().is_some();
    if mutant.is_some() && !world.broken().is_empty() {
        return Ok(());
    }
    let healed = nemesis.heal().await;
    let calm = world.elapsed();
    stop.send_replace(true);
    healed?;

    let settler = Client::new(&cluster, book, "settler");
    writes_return(&cluster, &settler, calm).await?;
    outcome.recovery = world.elapsed() - calm;
    for client in clients.into_iter().chain(tides) {
        client.await.map_err(|error| error.to_string())?;
    }
    everything_is_there(&settler).await?;
    tide.check(NodeId(1)).await?;
    if rng.chance(0.5) {
        let dark = world.elapsed();
        nemesis.blackout().await?;
        writes_return(&cluster, &settler, dark).await?;
        everything_is_there(&settler).await?;
    }
    replicas_agree(&cluster).await?;
    rows_are_sound(&cluster)?;
    moves_end(&cluster).await?;
    shards_are_there(&cluster, nemesis.bad_drive()).await?;
    if nemesis.bad_drive().is_some() {
        return Ok(());
    }
    nothing_returned(&cluster).await?;
    let is_short = cluster.knobs.horizon.as_secs() == HORIZON_SHORT;
    if is_short && mutant.is_none() {
        garbage_goes(&cluster).await?;
    }
    if mutant.is_none() && is_short && world.seed().is_multiple_of(FORGETS_EVERY) {
        tombstones_go(&cluster).await?;
    }
    // All that was ever sent to a drive arrives once more.
    world.net().replay_requests(REPLAYED_WITHIN);
    tokio::time::sleep(2 * REPLAYED_WITHIN).await;
    nothing_returned(&cluster).await?;
    tide.check(NodeId(2)).await?;
    everything_is_there(&settler).await
}

/// I9: no drive holds a block that was erased while the drive had a slot of its placement group.
pub async fn nothing_returned(cluster: &Cluster) -> Result<(), String> {
    for (node, member) in cluster.members() {
        let Some(drive) = member.drive() else { continue };
        let map = member.grid.topology();
        let mut after = None;
        loop {
            let page = drive.list_blocks(after, PAGE).await.map_err(|error| error.to_string())?;
            let Some(last) = page.last() else { break };
            after = Some(last.key);
            for shard in &page {
                let block = shard.key.block;
                let is_mapped = map.pgs.get(&shard.pg).is_some_and(|pg| {
                    !matches!(pg.state, PgState::Preparing(_))
                        && pg.slots.contains(&DriveId(node.0))
                });
                let is_erased = member.env.invariants.remembers(Invariant::I9, &block.to_bytes());
                if is_mapped && is_erased && !shard.trashed {
                    return Err(format!("I9: {block}, which was erased, is on {node} again"));
                }
            }
        }
    }
    Ok(())
}

/// Nobody needs a tombstone any more, within [`GARBAGE_MAX`]: what refuses the blocks now is the floor.
pub async fn tombstones_go(cluster: &Cluster) -> Result<(), String> {
    let since = cluster.world.elapsed();
    loop {
        let mut left = 0;
        for (_, member) in cluster.members() {
            if let Some(drive) = member.drive() {
                left += drive.usage().await.map_err(|error| error.to_string())?.tombstones;
            }
        }
        if left == 0 {
            return Ok(());
        }
        if cluster.world.elapsed() - since > GARBAGE_MAX {
            return Err(format!("{left} tombstones are left after {GARBAGE_MAX:?}"));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Whatever a writer could not place is filled, within [`MOVES_MAX`].
pub async fn holes_close(cluster: &Cluster) -> Result<(), String> {
    let since = cluster.world.elapsed();
    loop {
        let (_, leader) = cluster.leader(GroupId(0)).ok_or("the root group has no leader")?;
        let report = leader.grid.fsck(false).await;
        if report.as_ref().is_ok_and(|report| report.is_clean() && report.queued == 0) {
            return Ok(());
        }
        if cluster.world.elapsed() - since > MOVES_MAX {
            return Err(format!("holes are left after {MOVES_MAX:?}: {report:?}"));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What was overwritten, deleted or never committed leaves every drive, within [`GARBAGE_MAX`].
pub async fn garbage_goes(cluster: &Cluster) -> Result<(), String> {
    // Before the horizon has passed, what was deleted counts as there, and is there.
    tokio::time::sleep(cluster.knobs.horizon).await;
    let since = cluster.world.elapsed();
    loop {
        let (_, leader) = cluster.leader(GroupId(0)).ok_or("the root group has no leader")?;
        let report = leader.grid.fsck(false).await;
        let is_gone = report.as_ref().is_ok_and(|report| {
            report.is_clean()
                && report.held == report.shards
                && report.awaiting_burial + report.orphans + report.misplaced == 0
        });
        if is_gone {
            return Ok(());
        }
        if cluster.world.elapsed() - since > GARBAGE_MAX {
            return Err(format!("garbage is left after {GARBAGE_MAX:?}: {report:?}"));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Slots that moved because a drive failed have all that they need, within [`MOVES_MAX`].
pub async fn moves_end(cluster: &Cluster) -> Result<(), String> {
    let since = cluster.world.elapsed();
    loop {
        let (_, leader) = cluster.leader(GroupId(0)).ok_or("the root group has no leader")?;
        let map = leader.grid.topology();
        let moving = map.pgs.values().find(|pg| matches!(pg.state, PgState::Preparing(_)));
        let Some(pg) = moving else { return Ok(()) };
        if cluster.world.elapsed() - since > MOVES_MAX {
            let members = cluster.members();
            let workers = members.iter().flat_map(|(_, member)| member.node.workers().list());
            let why: BTreeSet<String> = workers.filter_map(|worker| worker.error).collect();
            return Err(format!("{pg:?} is not clean after {MOVES_MAX:?}: {why:?}"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Each node stores an object again, in each of the groups.
async fn writes_return(cluster: &Cluster, client: &Client, since: Duration) -> Result<(), String> {
    for (index, node) in nodes().enumerate() {
        let place = places().nth(3 * (index % 4)).ok_or("no such place")?;
        while !client.put(node, place, Precondition::default()).await {
            if cluster.world.elapsed() - since > RECOVERY_MAX {
                return Err(format!(
                    "{node} cannot write {place:?} {RECOVERY_MAX:?} after the last fault"
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let took = cluster.world.elapsed() - since;
    if took > RECOVERY_MAX { Err(format!("writes returned after {took:?} only")) } else { Ok(()) }
}

/// Every key can be read, at two nodes, and listings say the same.
pub async fn everything_is_there(client: &Client) -> Result<(), String> {
    let mut values = BTreeMap::new();
    for place in places() {
        for _ in 0..2 {
            let node = NodeId(client.rng.between(1, NODES));
            let mut tries = 0;
            let value = loop {
                let begun = client.cluster.world.elapsed();
                if let Some(value) = client.get(node, place).await {
                    let took = client.cluster.world.elapsed() - begun;
                    if took > Duration::from_secs(2) {
                        client.book.count("slow reads in the calm");
                    }
                    break value;
                }
                tries += 1;
                if tries > 5 {
                    return Err(format!("{place:?} cannot be read at {node} after the faults"));
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            };
            if *values.entry(place).or_insert(value) != value {
                return Err(format!(
                    "{place:?} has two values and nobody writes: {values:?}, {value:?}"
                ));
            }
        }
    }
    let buckets: std::collections::BTreeSet<&'static str> =
        places().map(|(bucket, _)| bucket).collect();
    for bucket in buckets {
        let node = NodeId(client.rng.between(1, NODES));
        let Some(listed) = client.list(node, bucket).await else {
            return Err(format!("{bucket} cannot be listed at {node}"));
        };
        for (place, value) in values.iter().filter(|((of, _), _)| *of == bucket) {
            let key = place.1;
            let found = listed.get(key).copied().flatten();
            // A write of unknown outcome may still arrive from a bad network: whether this one may is
            // for the history to judge.
            if found != *value && client.get(node, *place).await != Some(found) {
                return Err(format!("{bucket} lists {key} as {found:?}, a read gives {value:?}"));
            }
        }
    }
    Ok(())
}

/// All replicas that applied the same entries hold the same rows.
pub async fn replicas_agree(cluster: &Cluster) -> Result<(), String> {
    for group in (0..=GROUPS).map(GroupId) {
        cluster
            .until("replicas at the same entry", || {
                let applied = replicas(cluster, group)
                    .into_iter()
                    .map(|(_, applied, _)| applied)
                    .collect::<Vec<_>>();
                applied.len() >= 3 && applied.iter().all(|index| *index == applied[0])
            })
            .await
            .map_err(|error| {
                let status = |(_, member): (NodeId, Arc<Member>)| member.host.status(group);
                let all: Vec<_> = cluster.members().into_iter().map(status).collect();
                format!("group {}: {error}: {all:#?}", group.0)
            })?;
        let mut first: Option<(NodeId, Vec<_>)> = None;
        for (node, _, member) in replicas(cluster, group) {
            let rows = member.host.local_rows(group).map_err(|error| error.to_string())?;
            let mut all = Vec::new();
            for family in machine_of(group).families() {
                let found = rows.scan(family, &ScanRange::prefix(b"", usize::MAX));
                all.push((*family, found.map_err(|error| error.to_string())?));
            }
            match &first {
                None => first = Some((node, all)),
                Some((other, rows)) if *rows != all => {
                    return Err(format!(
                        "group {}: {other} and {node} hold different rows",
                        group.0
                    ));
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

/// Replicas that vote, as their leader has it: one that was replaced while it was away may not know.
fn replicas(cluster: &Cluster, group: GroupId) -> Vec<(NodeId, u64, Arc<Member>)> {
    let Some((_, leader)) = cluster.leader(group) else { return Vec::new() };
    let Ok(status) = leader.host.status(group) else { return Vec::new() };
    let votes = |id| status.members.iter().any(|view| view.voter && view.id == id);
    let of_member = |(node, member): (NodeId, Arc<Member>)| {
        let own = member.host.status(group).ok()?;
        votes(own.raft_id).then_some((node, own.applied_index, member))
    };
    cluster.members().into_iter().filter_map(of_member).collect()
}

pub fn rows_are_sound(cluster: &Cluster) -> Result<(), String> {
    for group in (1..=GROUPS).map(GroupId) {
        let (_, leader) =
            cluster.leader(group).ok_or_else(|| format!("group {} has no leader", group.0))?;
        let rows = leader.host.local_rows(group).map_err(|error| error.to_string())?;
        let found = audit(&*rows).map_err(|error| error.to_string())?;
        if !found.is_empty() {
            return Err(format!("group {}: {found:?}", group.0));
        }
    }
    Ok(())
}

/// I2: a shard of a live block is on its drive, or in the repair queue. What a bad drive lost is for
/// scrub and repair to find.
pub async fn shards_are_there(cluster: &Cluster, bad: Option<NodeId>) -> Result<(), String> {
    for group in (1..=GROUPS).map(GroupId) {
        let (_, leader) =
            cluster.leader(group).ok_or_else(|| format!("group {} has no leader", group.0))?;
        let rows = leader.host.local_rows(group).map_err(|error| error.to_string())?;
        let found = rows.scan(rows::CONTENT, &ScanRange::prefix(b"b", usize::MAX));
        for (key, row) in found.map_err(|error| error.to_string())? {
            let block = rows::parse_block(&key).ok_or("a block's key")?;
            let row: BlockRow = codec::decode(&row).map_err(|error| error.to_string())?;
            let map = leader.grid.topology();
            let pg = map.pgs.get(&row.pg).ok_or_else(|| format!("{block} is in no known PG"))?;
            for (index, drive) in (0u8..).zip(&pg.slots) {
                let node = map.drives.get(drive).ok_or("a drive of a PG is unknown")?.node;
                // A slot that moves is in the queue as a whole, until its new drive has everything.
                let moves = match &pg.state {
                    PgState::Preparing(remap) => remap.moves.iter().any(|made| made.slot == index),
                    _ => false,
                };
                if moves || row.missing_mask & (1 << index) != 0 || bad == Some(node) {
                    continue;
                }
                let member = cluster.member(node).ok_or("a node is down")?;
                let drive = member.drive().ok_or_else(|| format!("{node} has no drive"))?;
                let stat = drive
                    .stat(ShardKey { block, index })
                    .await
                    .map_err(|error| error.to_string())?;
                if !stat.is_some_and(|stat| !stat.trashed && stat.pg == row.pg) {
                    return Err(format!(
                        "I2: {block}/{index} is neither on {node} nor in the repair queue"
                    ));
                }
            }
        }
    }
    Ok(())
}
