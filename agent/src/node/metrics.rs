//! What Raft groups, drives and the grid of this node count, for the metrics page. The gateway
//! registers its own.
//!
//! Read at each scrape, from memory; only a drive's space is asked every [`USAGE_EVERY`], for the
//! answer reads its index.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nexusgrid_codec::{DriveId, GroupId};
use nexusgrid_drive::{DriveState, Usage};
use nexusgrid_env::{Env, Invariants};
use nexusgrid_gateway::SharedRegistry;
use nexusgrid_grid::{Grid, GridNode, ShardService};
use nexusgrid_meta::MetaHost;
use nexusgrid_meta::host::GroupStatus;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// A gauge's name, its help, and how to read it off.
type Gauge<T> = (&'static str, &'static str, fn(&T) -> u64);

/// How often drives are asked how full they are.
const USAGE_EVERY: Duration = Duration::from_secs(10);

/// Values of one metric with their labels.
type Rows<'a> = Vec<(Vec<(&'a str, String)>, u64)>;

/// What is read at a scrape.
struct NodeMetrics {
    meta: MetaHost,
    grid: Grid,
    shards: Arc<ShardService>,
    usage: Mutex<BTreeMap<DriveId, Usage>>,
    invariants: Invariants,
}

impl fmt::Debug for NodeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeMetrics").finish_non_exhaustive()
    }
}

/// Enters the node's parts in the registry.
pub fn register(env: &Env, registry: &SharedRegistry, meta: &MetaHost, node: &GridNode) {
    let metrics = Arc::new(NodeMetrics {
        meta: meta.clone(),
        grid: node.grid(),
        shards: node.shard_service(),
        usage: Mutex::default(),
        invariants: env.invariants.clone(),
    });
    let boxed: Box<dyn Collector> = Box::new(Arc::clone(&metrics));
    registry.lock().sub_registry_with_prefix("nexusgrid").register_collector(boxed);
    let clock = Arc::clone(&env.clock);
    env.exec.spawn(async move {
        loop {
            let mut usage = BTreeMap::new();
            for (drive, store) in metrics.shards.drives() {
                // A drive that fails says so by its state.
                if let Ok(used) = store.usage().await {
                    usage.insert(drive, used);
                }
            }
            *metrics.usage.lock() = usage;
            clock.sleep(USAGE_EVERY).await;
        }
    });
}

/// One metric and its help, with or without labels.
fn write(
    encoder: &mut DescriptorEncoder<'_>,
    kind: MetricType,
    name: &str,
    help: &str,
    rows: &Rows<'_>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in rows {
        let row = metric.encode_family(labels)?;
        match kind {
            MetricType::Counter => ConstCounter::new(*value).encode(row)?,
            _ => ConstGauge::new(i64::try_from(*value).unwrap_or(i64::MAX)).encode(row)?,
        }
    }
    Ok(())
}

impl NodeMetrics {
    fn raft(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let groups: Vec<_> = self
            .meta
            .groups()
            .into_iter()
            .filter_map(|group| self.meta.status(group).ok())
            .collect();
        let gauges: [Gauge<GroupStatus>; 6] = [
            ("raft_incarnation", "How often this node was taken into the group", |status| {
                u64::from(nexusgrid_meta::raft::types::generation_of(status.raft_id))
            }),
            ("raft_term", "Term of a Raft group", |status| status.term),
            ("raft_last_index", "Newest entry in the log here", |status| status.last_index),
            ("raft_applied_index", "Newest entry applied here", |status| status.applied_index),
            ("raft_purged_index", "Entries up to here left the log", |status| status.purged_index),
            ("raft_leader", "1 where this node leads", |status| u64::from(status.leader.is_me)),
        ];
        let label = |group: GroupId| vec![("group", group.0.to_string())];
        let rot = self.meta.rot();
        let rows = rot.iter().map(|(kind, count)| (vec![("kind", kind.name().to_owned())], *count));
        let help = "Rotten files met in what this node keeps of the groups";
        write(encoder, MetricType::Counter, "meta_rot", help, &rows.collect())?;
        for (name, help, value) in gauges {
            let rows = groups.iter().map(|status| (label(status.group), value(status)));
            write(encoder, MetricType::Gauge, name, help, &rows.collect())?;
        }
        let bytes = |group| self.meta.log_bytes(group).unwrap_or_default();
        let rows = groups.iter().map(|status| (label(status.group), bytes(status.group)));
        let help = "Bytes of entries in the log here";
        write(encoder, MetricType::Gauge, "raft_log_bytes", help, &rows.collect())
    }

    fn drives(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let label = |drive: DriveId| vec![("drive", drive.0.to_string())];
        let drives = self.shards.drives();
        let healthy = drives.iter().map(|(drive, store)| {
            (label(*drive), u64::from(matches!(*store.state().borrow(), DriveState::Healthy)))
        });
        let help = "1 while the drive serves, 0 once it failed";
        write(encoder, MetricType::Gauge, "drive_healthy", help, &healthy.collect())?;
        let usage = self.usage.lock().clone();
        let gauges: [Gauge<Usage>; 7] = [
            ("drive_shards", "Shards served", |usage| usage.shards),
            ("drive_shard_bytes", "Bytes of their bodies", |usage| usage.shard_bytes),
            ("drive_trash_bytes", "Bytes of shards in the trash", |usage| usage.trash_bytes),
            ("drive_segments", "Segment files", |usage| usage.segments),
            ("drive_reclaimable_bytes", "Dead bytes in segments", |usage| usage.reclaimable_bytes),
            ("drive_capacity_bytes", "What the store may use at most", |usage| {
                usage.capacity_bytes
            }),
            ("drive_available_bytes", "What of it is left", |usage| usage.available_bytes),
        ];
        for (name, help, value) in gauges {
            let rows = usage.iter().map(|(drive, usage)| (label(*drive), value(usage)));
            write(encoder, MetricType::Gauge, name, help, &rows.collect())?;
        }
        let mut counters: BTreeMap<&str, Rows<'_>> = BTreeMap::new();
        for (drive, store) in &drives {
            for (name, value) in store.metrics().rows() {
                counters.entry(name).or_default().push((label(*drive), value));
            }
        }
        for (name, rows) in counters {
            // A maximum goes up only, but counts nothing.
            let kind = if name.ends_with("_max") { MetricType::Gauge } else { MetricType::Counter };
            write(encoder, kind, &format!("drive_{name}"), "See the drive's counters", &rows)?;
        }
        Ok(())
    }

    fn grid(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for row in self.grid.metrics().rows() {
            let kind = if row.is_gauge { MetricType::Gauge } else { MetricType::Counter };
            let name = format!("grid_{}", row.name);
            write(encoder, kind, &name, row.help, &vec![(Vec::new(), row.value)])?;
        }
        Ok(())
    }
}

impl NodeMetrics {
    fn invariants(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let tallies = self.invariants.tallies();
        let label = |name: &str| vec![("invariant", name.to_owned())];
        let checked = tallies.iter().map(|of| (label(of.invariant.name()), of.checked));
        let help = "Looks at an invariant";
        write(encoder, MetricType::Counter, "invariant_checked", help, &checked.collect())?;
        let broken = tallies.iter().map(|of| (label(of.invariant.name()), of.broken));
        let help = "Looks that found it broken";
        write(encoder, MetricType::Counter, "invariant_broken", help, &broken.collect())
    }
}

impl Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.raft(&mut encoder)?;
        self.drives(&mut encoder)?;
        self.grid(&mut encoder)?;
        self.invariants(&mut encoder)
    }
}
