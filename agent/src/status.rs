//! What `nexusgrid status` says: the grid as one node sees it, and how much more it can lose.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// The state of the grid.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StatusReport {
    /// The cluster's id.
    pub cluster: String,
    /// The node that answers.
    pub answered_by: u64,
    /// Whether every node is alive, every group has the voters it should have, and placement groups
    /// for new writes are open.
    pub ready: bool,
    /// What keeps `ready` from being true, and other things an administrator should know.
    pub warnings: Vec<String>,
    /// The nodes.
    pub nodes: Vec<NodeStatus>,
    /// The Raft groups.
    pub groups: Vec<GroupStatus>,
    /// Placement groups by code.
    pub codes: Vec<CodeStatus>,
    /// What moves and what should.
    pub repair: RepairStatus,
    /// What is in another code than the one that today's hosts allow; `None`: not known now.
    #[serde(default)]
    pub recode: Option<RecodeStatus>,
    /// Background jobs of the answering node that have something to do, rest or failed.
    #[serde(default)]
    pub workers: Vec<WorkerProgress>,
    /// How many more hosts may be lost before data is.
    pub data_host_losses: u32,
    /// How many more hosts may be lost before a metadata group stops.
    pub metadata_host_losses: u32,
}

/// One node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its id.
    pub id: u64,
    /// The machine.
    pub host: String,
    /// Its zone.
    pub zone: String,
    /// `storage`, `meta`, `gateway`.
    pub roles: Vec<String>,
    /// Where other nodes reach it.
    pub address: String,
    /// Where S3 clients reach it.
    pub s3: String,
    /// `alive`, `suspect`, `dead`, `joining`, `leaving` or `removed`.
    pub state: String,
    /// Number of its drives.
    pub drives: u32,
}

/// One Raft group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its id; 0 is the root group.
    pub id: u32,
    /// The leading node, if this node knows one.
    pub leader: Option<u64>,
    /// The voting nodes.
    pub voters: Vec<u64>,
    /// How many voters it should have with the nodes there are.
    pub voters_wanted: u32,
}

/// The placement groups of one code.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CodeStatus {
    /// `4+2`, `3 copies`, …
    pub code: String,
    /// How many take new blocks.
    pub open: u32,
    /// How many there are.
    pub total: u32,
}

/// Slots of placement groups on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairStatus {
    /// Placement groups of which a slot moves now.
    pub moving: u32,
    /// Slots that must still move: on failed, removed and leaving drives.
    pub to_move: u32,
    /// Slots on nodes that do not answer: they move when the nodes stay away.
    pub down: u32,
    /// Placement groups that lose data with the next drive.
    pub urgent: u32,
    /// Placement groups of which too few shards are left.
    pub beyond_repair: u32,
}

/// What a grid that grew has still to bring into its new code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecodeStatus {
    /// Bytes of plaintext.
    pub bytes: u64,
    /// Those that survive the loss of fewer hosts than they will.
    pub under_protected_bytes: u64,
}

/// A background job that is worth a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerProgress {
    /// Its name.
    pub name: String,
    /// Paused by an administrator, on all nodes.
    pub paused: bool,
    /// Things left to do, if it is known.
    pub left: Option<u64>,
    /// Seconds until nothing is left, at the rate so far.
    pub eta_seconds: Option<u64>,
    /// Why its last round ended early.
    pub error: Option<String>,
}

impl StatusReport {
    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "cluster {}  {}  (seen from n{})",
            self.cluster,
            if self.ready { "ready" } else { "not ready" },
            self.answered_by
        );
        let _ = writeln!(
            text,
            "survives the loss of: {} more host(s) for data, {} for metadata",
            self.data_host_losses, self.metadata_host_losses
        );
        for code in &self.codes {
            let _ = writeln!(
                text,
                "placement groups {}: {} open of {}",
                code.code, code.open, code.total
            );
        }
        let repair = &self.repair;
        if *repair != RepairStatus::default() {
            let _ = writeln!(
                text,
                "repair: {} placement groups move, {} slots wait to, {} are on nodes that are down; \
                 {} groups are urgent, {} beyond repair",
                repair.moving, repair.to_move, repair.down, repair.urgent, repair.beyond_repair
            );
        }
        if let Some(recode) = self.recode.filter(|recode| *recode != RecodeStatus::default()) {
            let _ = writeln!(
                text,
                "recode: {} are not yet in the code that today's hosts allow; {} under-protected until \
                 then",
                megabytes(recode.bytes),
                megabytes(recode.under_protected_bytes)
            );
        }
        for worker in &self.workers {
            let mut line = format!("worker {}:", worker.name);
            if worker.paused {
                line.push_str(" paused");
            }
            if let Some(left) = worker.left {
                let _ = write!(line, " {left} left");
            }
            if let Some(seconds) = worker.eta_seconds {
                let _ = write!(line, ", about {} min", seconds.div_ceil(60));
            }
            if let Some(error) = &worker.error {
                let _ = write!(line, " ({error})");
            }
            let _ = writeln!(text, "{line}");
        }
        for group in &self.groups {
            let name = if group.id == 0 { "root".to_owned() } else { format!("meta {}", group.id) };
            let leader =
                group.leader.map_or_else(|| "none".to_owned(), |leader| format!("n{leader}"));
            let voters: Vec<String> =
                group.voters.iter().map(|voter| format!("n{voter}")).collect();
            let _ = writeln!(
                text,
                "group {name:<8} leader {leader:<5} voters {} of {}: {}",
                group.voters.len(),
                group.voters_wanted,
                voters.join(" ")
            );
        }
        let _ = writeln!(
            text,
            "{:<6} {:<16} {:<10} {:<9} {:<22} {:<22} {:>6}  roles",
            "node", "host", "zone", "state", "address", "s3", "drives"
        );
        for node in &self.nodes {
            let _ = writeln!(
                text,
                "{:<6} {:<16} {:<10} {:<9} {:<22} {:<22} {:>6}  {}",
                format!("n{}", node.id),
                node.host,
                node.zone,
                node.state,
                node.address,
                node.s3,
                node.drives,
                node.roles.join(",")
            );
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        text
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
