//! `nexusgrid fsck --offline`: looks through all that a stopped node keeps, and changes nothing.
//!
//! Drives against themselves, metadata against its checksums, and the two against each other as far as
//! this node's replicas go: their state is as old as the node's stop.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use futures_util::{FutureExt, future};
use nexusgrid_codec::{BlockId, DriveId, GroupId, PgId};
use nexusgrid_drive::{Inspection, ShardKey};
use nexusgrid_env::{Env, KvRead};
use nexusgrid_grid::care::names;
use nexusgrid_meta::host::inspect::{MetaInspection, inspect};
use nexusgrid_meta::namespace::types::{
    BlockState, LiveBlock, NamespaceAnswer, NamespaceQuery, VersionListing, decode_query_reply,
};
use nexusgrid_meta::root::topology::{PgState, Topology};
use nexusgrid_meta::{Machines, ROOT_GROUP, StateMachine};
use serde_json::{Value, json};

use super::directory::Directory;
use crate::config::Config;

/// Blocks asked for at a time.
const BATCH: u32 = 1_000;
/// Faults of the comparison that are described; all are counted.
const FAULTS_MAX: usize = 100;

/// What the comparison of metadata with drives found.
#[derive(Default)]
struct Compared {
    /// Shards that should be on this node's drives.
    expected: u64,
    /// Of these, not there.
    missing: u64,
    /// Of these, not there and on the repair queue.
    queued: u64,
    /// On the drives, of blocks on their way off them.
    awaiting_burial: u64,
    /// On the drives, and their writer may still commit them.
    pending: u64,
    /// On the drives, and metadata does not know them.
    orphans: u64,
    /// Shards of groups that this node has no replica of.
    not_compared: u64,
    faults: Vec<String>,
    /// Live blocks of which a shard is missing or does not read, and why.
    harmed: BTreeMap<BlockId, &'static str>,
    /// The same with the objects that have bytes in them, as far as this node's replicas know them.
    objects: Vec<Value>,
}

/// Looks; the report, and whether nothing is wrong.
pub async fn fsck(env: &Env, dir: &Path) -> anyhow::Result<(Value, bool)> {
    let (env, dir) = (env.clone(), dir.to_path_buf());
    env.exec.clone().blocking(move || look(&env, &dir)).await
}

fn look(env: &Env, dir: &Path) -> anyhow::Result<(Value, bool)> {
    let config = Config::load(env.disk.as_ref(), dir)?;
    let _lock = match env.disk.lock(&dir.join("lock")) {
        Ok(lock) => lock,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            bail!("an agent serves {}: stop it first, or ask without --offline", dir.display())
        }
        Err(error) => return Err(error).with_context(|| format!("locking {}", dir.display())),
    };
    let topology = Directory::open(env, dir)?.topology();
    let mut drives = BTreeMap::new();
    let mut corrupt = 0;
    let mut faults = Vec::new();
    for drive in &config.drives {
        match nexusgrid_drive::inspect(env, &drive.path) {
            Ok(found) => {
                let id = found.info.identity.drive;
                corrupt += found.corrupt + found.missing + found.dangling;
                faults.extend(found.faults.iter().map(|what| format!("drive {}: {what}", id.0)));
                drives.insert(id, found);
            }
            Err(error) => {
                corrupt += 1;
                faults.push(format!("{}: {error}", drive.path.display()));
            }
        }
    }
    let machines: Machines = Arc::new(super::serve::machine);
    let mut compared = Compared::default();
    let mut unread = None;
    let mut seen = BTreeSet::new();
    let metadata = inspect(env, &dir.join("meta"), &machines, |group, rows| {
        if group == ROOT_GROUP {
            return;
        }
        seen.insert(group);
        let machine = machines(group);
        let result = compare(rows, &*machine, group, &topology, &drives, &mut compared);
        if let Err(error) = result {
            unread = Some(error.context(format!("group {}", group.0)));
        }
    })?;
    if let Some(error) = unread {
        faults.push(format!("{error:#}"));
        corrupt += 1;
    }
    let held = drives.values().flat_map(|drive| drive.shards.keys());
    compared.not_compared = held.filter(|key| !seen.contains(&key.block.group)).count() as u64;
    faults.extend(metadata.faults.iter().cloned());
    faults.append(&mut compared.faults);
    let clean = corrupt == 0 && metadata.corrupt == 0 && compared.missing == 0;
    Ok((report(&drives, &metadata, &compared, &faults, clean), clean))
}

fn ask(
    rows: &dyn KvRead,
    machine: &dyn StateMachine,
    query: &NamespaceQuery,
) -> anyhow::Result<NamespaceAnswer> {
    let reply = machine.query(rows, &query.encode())?;
    decode_query_reply(&reply)?.map_err(|error| anyhow::anyhow!("{error}"))
}

fn compare(
    rows: &dyn KvRead,
    machine: &dyn StateMachine,
    group: GroupId,
    topology: &Topology,
    drives: &BTreeMap<DriveId, Inspection>,
    compared: &mut Compared,
) -> anyhow::Result<()> {
    let mut after = None;
    loop {
        let query = NamespaceQuery::LiveBlocks { after, limit: BATCH };
        let NamespaceAnswer::LiveBlocks { blocks, more } = ask(rows, machine, &query)? else {
            bail!("the answer to a blocks query does not fit");
        };
        blocks.iter().for_each(|block| compare_block(block, topology, drives, compared));
        after = blocks.last().map(|block| block.block);
        if !more || after.is_none() {
            break;
        }
    }
    for drive in drives.values() {
        let of_group: Vec<(ShardKey, PgId)> = drive
            .shards
            .iter()
            .filter(|(key, _)| key.block.group == group)
            .map(|(key, pg)| (*key, *pg))
            .collect();
        for page in of_group.chunks(BATCH as usize) {
            let blocks: Vec<BlockId> = page.iter().map(|(key, _)| key.block).collect();
            let answer = ask(rows, machine, &NamespaceQuery::ResolveBlocks { blocks })?;
            let NamespaceAnswer::Blocks(states) = answer else {
                bail!("the answer to a blocks query does not fit");
            };
            for ((key, _), state) in page.iter().zip(states) {
                let is_bad = || drives.values().any(|drive| drive.bad.contains(key));
                match state {
                    BlockState::Live { .. } if is_bad() => compared.harm(key.block, "corrupt"),
                    BlockState::Live { .. } => {}
                    BlockState::Dead => compared.awaiting_burial += 1,
                    BlockState::Pending => compared.pending += 1,
                    BlockState::Unknown | BlockState::Unheard => compared.orphans += 1,
                }
            }
        }
    }
    name_objects(rows, machine, group, topology, compared)
}

/// Says which objects of a group lack something here.
fn name_objects(
    rows: &dyn KvRead,
    machine: &dyn StateMachine,
    group: GroupId,
    topology: &Topology,
    compared: &mut Compared,
) -> anyhow::Result<()> {
    let harmed: Vec<(BlockId, &str)> = compared
        .harmed
        .iter()
        .filter(|(block, _)| block.group == group)
        .map(|(block, what)| (*block, *what))
        .collect();
    let blocks = harmed.iter().map(|(block, _)| *block).collect();
    // Refused: a bucket or an object that this replica has not, or not any more.
    let answer = |query: NamespaceQuery| -> anyhow::Result<NamespaceAnswer> {
        let reply = machine.query(rows, &query.encode())?;
        Ok(decode_query_reply(&reply)?
            .unwrap_or(NamespaceAnswer::Versions(VersionListing::default())))
    };
    let ask = |query: NamespaceQuery| future::ready(answer(query)).boxed();
    // It never waits.
    let names = names::objects_of(topology, group, blocks, &ask).now_or_never();
    let Some(names) = names.transpose()?.flatten() else {
        bail!("the answer to a listing does not fit");
    };
    for (block, what) in harmed {
        let objects = names.get(&block).map(Vec::as_slice).unwrap_or_default();
        compared.objects.push(json!({
            "block": block.to_string(),
            "what": what,
            "objects": super::administration::names(objects),
        }));
    }
    Ok(())
}

impl Compared {
    fn harm(&mut self, block: BlockId, what: &'static str) {
        if self.harmed.len() < FAULTS_MAX {
            self.harmed.insert(block, what);
        }
    }
}

/// Whether a live block's shards are where the map has them, on this node.
fn compare_block(
    block: &LiveBlock,
    topology: &Topology,
    drives: &BTreeMap<DriveId, Inspection>,
    compared: &mut Compared,
) {
    let Some(pg) = topology.pgs.get(&block.pg) else { return };
    // While slots move, what is missing is on its way.
    let moves = matches!(pg.state, PgState::Preparing(_));
    for (slot, drive) in (0u8..).zip(&pg.slots) {
        let Some(held) = drives.get(drive) else { continue };
        compared.expected += 1;
        let key = ShardKey { block: block.block, index: slot };
        if held.shards.contains_key(&key) {
            continue;
        }
        if block.missing_mask >> slot & 1 == 1 || moves {
            compared.queued += 1;
        } else if !held.tombstones.contains(&block.block) {
            compared.missing += 1;
            compared.harm(block.block, "missing");
            if compared.faults.len() < FAULTS_MAX {
                let what = format!("{key} of pg {} is missing on drive {}", block.pg.0, drive.0);
                compared.faults.push(what);
            }
        }
    }
}

fn report(
    drives: &BTreeMap<DriveId, Inspection>,
    metadata: &MetaInspection,
    compared: &Compared,
    faults: &[String],
    clean: bool,
) -> Value {
    let drive = |(id, found): (&DriveId, &Inspection)| {
        json!({
            "drive": id.0,
            "segments": found.segments,
            "shards": found.shards.len(),
            "trash": found.trash,
            "tombstones": found.tombstones.len(),
            "sound_bytes": found.sound_bytes,
            "torn_bytes": found.torn_bytes,
            "corrupt": found.corrupt,
            "missing": found.missing,
            "dangling": found.dangling,
        })
    };
    json!({
        "clean": clean,
        "drives": drives.iter().map(drive).collect::<Vec<_>>(),
        "metadata": {
            "groups": metadata.groups,
            "log_segments": metadata.segments,
            "log_records": metadata.records,
            "rows": metadata.rows,
            "torn_bytes": metadata.torn_bytes,
            "corrupt": metadata.corrupt,
        },
        "compared": {
            "expected": compared.expected,
            "missing": compared.missing,
            "queued": compared.queued,
            "awaiting_burial": compared.awaiting_burial,
            "pending": compared.pending,
            "orphans": compared.orphans,
            "not_compared": compared.not_compared,
        },
        "objects": compared.objects,
        "faults": faults,
    })
}
