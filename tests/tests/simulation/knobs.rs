//! What varies from seed to seed.

use std::time::Duration;

use nexusgrid_drive::DriveOptions;
use nexusgrid_env::Rng;
use nexusgrid_env::sim::SeededRng;
use nexusgrid_grid::GridOptions;
use nexusgrid_meta::HostOptions;
use nexusgrid_meta::raft::LogOptions;

use super::cluster::NODES;

/// What varies from seed to seed.
#[derive(Clone, Debug)]
pub struct Knobs {
    pub host: HostOptions,
    pub grid: GridOptions,
    pub drive: DriveOptions,
    /// Reader horizon.
    pub horizon: Duration,
}

/// The shorter reader horizon, in seconds.
pub const HORIZON_SHORT: u64 = 15;

impl Knobs {
    pub fn draw(rng: &SeededRng) -> Knobs {
        let snapshot_every_entries = [40, 150, 10_000][rng.below(3) as usize];
        let replace_after = Duration::from_secs([12, 60, 1800][rng.below(3) as usize]);
        let host = HostOptions {
            snapshot_every_entries,
            keep_entries: [5, 50][rng.below(2) as usize],
            replace_after,
            log: LogOptions {
                segment_bytes_max: [16 << 10, 256 << 10][rng.below(2) as usize],
                cache_bytes_max: [8 << 10, 1 << 20][rng.below(2) as usize],
                segments_soft_max: 3,
                ..LogOptions::default()
            },
            ..HostOptions::default()
        };
        let mut grid = GridOptions {
            block_bytes: 64 << 10,
            inline_bytes: 1 << 10,
            packed_bytes: 16 << 10,
            budget_bytes: 4 << 20,
            shard_deadline: Duration::from_secs(5),
            ..GridOptions::default()
        };
        grid.placement.hosts_expected = NODES as usize;
        grid.session.lease = Duration::from_secs([10, 60][rng.below(2) as usize]);
        // Half of the seeds collect garbage at once, and half give a dead node's slots away.
        let horizon = Duration::from_secs([HORIZON_SHORT, 600][rng.below(2) as usize]);
        grid.session.pin_after = horizon / 5;
        grid.session.rotate_after = Duration::from_secs(60);
        grid.care.collect_every = Duration::from_secs(1);
        grid.care.sweep_every = Duration::from_secs(10);
        grid.care.orphan_age = Duration::from_secs(20);
        grid.care.scrub_every = Duration::from_secs(5);
        grid.care.scrub_bytes = 256 << 10;
        grid.care.inventory_every = Duration::from_secs(20);
        grid.care.rewrite.every = Duration::from_secs(7);
        grid.care.remap.grace_stable = Duration::from_secs([8, 900][rng.below(2) as usize]);
        grid.care.remap.grace_urgent = Duration::from_secs(2);
        let drive = DriveOptions {
            segment_bytes: [256 << 10, 1 << 20][rng.below(2) as usize],
            maintain_every: Some(Duration::from_secs(5)),
            ..DriveOptions::small()
        };
        Knobs { host, grid, drive, horizon }
    }

    /// Whatever waits, waits briefly, so that a mutant meets it within a short run.
    pub fn haste(&mut self) {
        self.horizon = Duration::from_secs(HORIZON_SHORT);
        self.grid.session.pin_after = self.horizon / 5;
        self.grid.session.lease = Duration::from_secs(10);
        self.grid.session.rotate_after = Duration::from_secs(15);
        self.grid.care.remap.grace_stable = Duration::from_secs(8);
        self.host.replace_after = Duration::from_secs(12);
    }
}
