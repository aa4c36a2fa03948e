//! Looks through what a stopped node keeps of the metadata groups, and changes nothing: Raft logs,
//! identities, floors, and all rows of each replica. Blocks.

use std::path::Path;

use nexusgrid_codec::id::GroupId;
use nexusgrid_env::{Disk, Env, KvRead, ScanRange};

use super::{Machines, ROOT_GROUP, group_dir, rot};
use crate::limits::{INSPECTED_FAULTS_MAX, INSPECTED_ROWS};
use crate::machine::HOST_FAMILIES;
use crate::raft::log::floor::FloorFile;
use crate::raft::log::inspect_log;
use crate::raft::state::{self, Identity};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaInspection {
    /// Replicas.
    pub groups: u64,
    /// Segments of Raft logs.
    pub segments: u64,
    /// Records in them.
    pub records: u64,
    /// Rows of the replicas.
    pub rows: u64,
    /// Bytes behind the last whole record of a log: what a loss of power leaves.
    pub torn_bytes: u64,
    /// Files that do not read as they were written, and replicas that were found rotten before.
    pub corrupt: u64,
    /// The first faults, for people.
    pub faults: Vec<String>,
}

impl MetaInspection {
    fn corrupt(&mut self, what: String) {
        self.corrupt += 1;
        if self.faults.len() < INSPECTED_FAULTS_MAX {
            self.faults.push(what);
        }
    }
}

/// Looks through the directory of a host that does not run. `visit` gets the rows of each replica that
/// reads well.
pub fn inspect(
    env: &Env,
    dir: &Path,
    machines: &Machines,
    mut visit: impl FnMut(GroupId, &dyn KvRead),
) -> std::io::Result<MetaInspection> {
    let disk = &*env.disk;
    let mut found = MetaInspection::default();
    for log in [dir.join("root").join("log"), dir.join("log")] {
        if disk.exists(&log)? {
            let seen = inspect_log(disk, &log)?;
            found.segments += seen.segments;
            found.records += seen.records;
            found.torn_bytes += seen.torn_bytes;
            seen.faults.into_iter().for_each(|what| found.corrupt(what));
        }
    }
    for group in groups(disk, dir)? {
        found.groups += 1;
        match look_at_group(env, dir, group, machines, &mut visit) {
            Ok(rows) => found.rows += rows,
            Err(what) => found.corrupt(format!("group {}: {what}", group.0)),
        }
    }
    Ok(found)
}

fn groups(disk: &dyn Disk, dir: &Path) -> std::io::Result<Vec<GroupId>> {
    let mut groups = Vec::new();
    if disk.exists(&group_dir(dir, ROOT_GROUP))? {
        groups.push(ROOT_GROUP);
    }
    let others = dir.join("groups");
    if disk.exists(&others)? {
        let names = disk.list(&others)?;
        groups.extend(names.iter().filter_map(|name| name.to_str()?.parse().ok()).map(GroupId));
    }
    Ok(groups)
}

/// Reads everything of a replica; its rows, or what is wrong.
fn look_at_group(
    env: &Env,
    dir: &Path,
    group: GroupId,
    machines: &Machines,
    visit: &mut impl FnMut(GroupId, &dyn KvRead),
) -> Result<u64, String> {
    let disk = &*env.disk;
    let dir = group_dir(dir, group);
    let said = |error: std::io::Error| error.to_string();
    let identity = Identity::load(disk, &dir).map_err(said)?;
    let Some(identity) = identity else { return Ok(0) };
    let (file, floor) = FloorFile::load(env.disk.clone(), &dir).map_err(said)?;
    if floor.is_none() || !file.is_whole().map_err(said)? {
        return Err("a copy of its floor is damaged".to_owned());
    }
    if rot::is_marked(disk, &dir).map_err(said)? {
        return Err("it was found rotten before and waits to be taken in anew".to_owned());
    }
    let machine = machines(group);
    let options = state::options(&*machine);
    let store = state::store_dir(&dir, identity.store);
    let kv = env.kv.open_read_only(&store, &options).map_err(|error| error.to_string())?;
    let families = HOST_FAMILIES.iter().chain(machine.families()).chain(machine.blob_families());
    let mut read = std::collections::BTreeSet::new();
    let mut count = 0;
    for family in families.filter(|family| read.insert(**family)) {
        let mut range = ScanRange::prefix(&[], INSPECTED_ROWS);
        loop {
            let rows = kv.scan(family, &range).map_err(|error| error.to_string())?;
            count += rows.len() as u64;
            match rows.last() {
                Some((key, _)) if rows.len() == INSPECTED_ROWS => {
                    range.start = [&key[..], &[0]].concat();
                }
                _ => break,
            }
        }
    }
    visit(group, &*kv);
    Ok(count)
}
