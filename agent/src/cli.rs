//! The command line. What is not built yet is not listed.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::drive::MountArgs;
use crate::events::EventCommand;
use crate::identities::cli::{
    GroupCommand, PolicyCommand, ProviderCommand, RoleCommand, UserCommand,
};
use crate::kms::KmsCommand;
use crate::snapshots::SnapshotCommand;

/// A storage-first private cloud: one agent per machine.
#[derive(Debug, Parser)]
#[command(name = "nexusgrid", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Print answers as JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

/// `mount -t nexusgrid` and lines of `fstab` call this program as `mount.nexusgrid BUCKET DIR [-sfnv] [-o …]`.
pub fn as_mount_helper(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    let is_helper = arguments.first().is_some_and(|first| {
        std::path::Path::new(first).file_name().is_some_and(|name| name == "mount.nexusgrid")
    });
    if is_helper {
        // Said of every file system; none is asked of this one.
        let is_said = |argument: &OsString| {
            argument.to_str().is_some_and(|text| ["-s", "-n", "-v"].contains(&text))
        };
        arguments.retain(|argument| !is_said(argument));
        for argument in arguments.iter_mut().filter(|argument| *argument == "-f") {
            *argument = OsString::from("--fake");
        }
        arguments.insert(1, OsString::from("mount"));
    }
    arguments
}

/// Where a running agent is found.
#[derive(Clone, Debug, Args)]
pub struct NodeDir {
    /// The node's directory.
    #[arg(long, env = "NEXUSGRID_DIR", default_value = "/var/lib/nexusgrid")]
    pub dir: PathBuf,
}

/// What a new node is; written into its `nexusgrid.toml` unless that exists.
#[derive(Clone, Debug, Args)]
pub struct NewNode {
    /// The node's directory.
    #[command(flatten)]
    pub node: NodeDir,
    /// A drive: a directory, best the root of a file system of its own. May be repeated.
    /// Default: `drive` in the node's directory.
    #[arg(long = "drive", value_name = "PATH")]
    pub drives: Vec<PathBuf>,
    /// Address for other agents, TCP and UDP.
    #[arg(long, value_name = "ADDR:PORT")]
    pub rpc_listen: Option<SocketAddr>,
    /// The address other agents reach `--rpc-listen` at.
    #[arg(long, value_name = "ADDR:PORT")]
    pub rpc_advertise: Option<SocketAddr>,
    /// Address of the S3 endpoint.
    #[arg(long, value_name = "ADDR:PORT")]
    pub s3_listen: Option<SocketAddr>,
    /// Address of metrics and health.
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin_listen: Option<SocketAddr>,
    /// The physical machine, if several agents share one.
    #[arg(long)]
    pub host: Option<String>,
    /// Rack, room or site.
    #[arg(long)]
    pub zone: Option<String>,
    /// The machine is switched off at times: it will hold shards, but not vote.
    #[arg(long)]
    pub sleepy: bool,
    /// Hold shards only: no keys, no vote.
    #[arg(long)]
    pub storage_only: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole grid on this machine, with a tour.
    Demo {
        /// How many nodes.
        #[arg(long, default_value_t = 7)]
        nodes: usize,
        /// Where they keep their files.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// S3 address of the first node; the others take the ports that follow.
        #[arg(long, default_value = "127.0.0.1:9000", value_name = "ADDR:PORT")]
        s3: SocketAddr,
        /// Port for agents of the first node; the others take the ports that follow, metrics
        /// those 100 above.
        #[arg(long, default_value_t = 7600)]
        rpc_port: u16,
        /// The directory whose files the tour stores.
        #[arg(long, default_value = "/usr/include", value_name = "DIR")]
        source: PathBuf,
        /// End after the tour, with its exit status.
        #[arg(long)]
        once: bool,
        /// A setting of all nodes' configuration when they are founded, as TOML has it:
        /// `s3.sse_c_without_tls=true`. May be given more than once.
        #[arg(long = "set", value_name = "NAME=VALUE")]
        settings: Vec<String>,
    },
    /// Found a cluster with this machine as its first node.
    Init(NewNode),
    /// Run this node's agent.
    Serve(NodeDir),
    /// Join tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Join a cluster.
    Join {
        /// Any gateway node's agent address.
        #[arg(value_name = "ADDR:PORT")]
        address: SocketAddr,
        /// What `nexusgrid token create` printed there.
        #[arg(long, env = "NEXUSGRID_TOKEN", hide_env_values = true)]
        token: String,
        /// What this node is.
        #[command(flatten)]
        new: NewNode,
    },
    /// The state of the grid, and what more it can lose.
    Status(NodeDir),
    /// Mount a bucket on a directory of this machine.
    Mount(MountArgs),
    /// Unmount a bucket.
    Umount {
        /// Where it is mounted.
        #[arg(value_name = "DIR")]
        at: PathBuf,
        /// At once out of sight, and at an end when its last user is.
        #[arg(long)]
        lazy: bool,
    },
    /// Mounts of this machine.
    Mounts(NodeDir),
    /// What serves a mount; `mount` starts it.
    #[command(hide = true)]
    MountDaemon,
    /// Nodes.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Drives.
    #[command(subcommand)]
    Drive(DriveCommand),
    /// Placement groups.
    #[command(subcommand)]
    Pg(PgCommand),
    /// Buckets.
    #[command(subcommand)]
    Bucket(BucketCommand),
    /// Snapshots: what buckets were.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Accounts: each owns its buckets, users and keys.
    #[command(subcommand)]
    Account(AccountCommand),
    /// Users of an account.
    #[command(subcommand)]
    User(UserCommand),
    /// Groups of users.
    #[command(subcommand)]
    Group(GroupCommand),
    /// Roles: what others may take on for a while.
    #[command(subcommand)]
    Role(RoleCommand),
    /// Managed policies.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Identity providers, whose tokens give sessions.
    #[command(subcommand)]
    Provider(ProviderCommand),
    /// Where events of buckets go.
    #[command(subcommand)]
    Event(EventCommand),
    /// Keys that the grid keeps, for encryption with SSE-KMS.
    #[command(subcommand)]
    Kms(KmsCommand),
    /// Access keys of the founders and of services; `user key` has those of users.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Background jobs of this node.
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// Have this node read and check all that it keeps, now; `worker ls` shows how far it is.
    Scrub(NodeDir),
    /// Compare metadata with drives, over the whole grid, while it runs.
    Fsck {
        /// Put what is missing on the repair queue.
        #[arg(long)]
        repair: bool,
        /// Look through all that this node keeps, while its agent does not run; changes nothing.
        #[arg(long, conflicts_with = "repair")]
        offline: bool,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// Copies of metadata in the grid, and what to do when metadata is lost.
    #[command(subcommand)]
    Metadata(MetadataCommand),
    /// Print shell completions.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

/// Bytes per second, or what a worker has by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub Option<u64>);

/// Reads megabytes per second: a positive number, or `default`.
fn rate(text: &str) -> Result<Rate, String> {
    if text == "default" {
        return Ok(Rate(None));
    }
    match text.parse::<f64>() {
        Ok(megabytes) if megabytes.is_finite() && (0.001..=1e6).contains(&megabytes) => {
            Ok(Rate(Some((megabytes * 1e6) as u64)))
        }
        _ => Err("a number of megabytes per second from 0.001 to 1000000, or `default`".to_owned()),
    }
}

/// Bytes, or no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub Option<u64>);

/// Reads a number of bytes, with or without a unit, or `none`.
fn size(text: &str) -> Result<Size, String> {
    if text == "none" {
        return Ok(Size(None));
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim_end_matches('B') {
        "" => Some(1),
        "K" | "k" => Some(1_000),
        "M" => Some(1_000_000),
        "G" => Some(1_000_000_000),
        "T" => Some(1_000_000_000_000),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        "Ti" => Some(1u64 << 40),
        _ => None,
    };
    let bytes = number.parse::<u64>().ok().zip(factor).and_then(|(n, unit)| n.checked_mul(unit));
    bytes.map(|bytes| Size(Some(bytes))).ok_or_else(|| {
        "a number of bytes such as 500G (powers of 1000) or 500Gi (of 1024), or `none`".to_owned()
    })
}

/// Background jobs.
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// List them: what they did, what is left, and when they will be done.
    Ls(NodeDir),
    /// Bound what one moves, on all nodes; it stays so.
    Rate {
        /// Its name, as `worker ls` shows it.
        name: String,
        /// Megabytes per second on one drive, or `default`.
        #[arg(value_name = "MB/S", value_parser = crate::cli::rate)]
        rate: Rate,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// Let one rest after its present round, on all nodes, until it is resumed.
    Pause {
        /// Its name, as `worker ls` shows it.
        name: String,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// Let one work again, on all nodes.
    Resume {
        /// Its name, as `worker ls` shows it.
        name: String,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
}

/// Copies of metadata.
#[derive(Debug, Subcommand)]
pub enum MetadataCommand {
    /// List the newest checkpoint of every group.
    Ls(NodeDir),
    /// Take a checkpoint of every group now.
    Checkpoint(NodeDir),
    /// Restore groups that lost their majority for good, from their newest checkpoints. Shows what it
    /// would do unless both confirmations are given.
    Restore {
        /// First confirmation: the cluster's id, as the plan shows it.
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
        /// Second confirmation.
        #[arg(long, requires = "confirm")]
        yes_i_understand_that_newer_changes_are_lost: bool,
        /// Give up what cannot be read at the moment as well: an older checkpoint will do.
        #[arg(long, requires = "confirm")]
        accept_older: bool,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// Let deletes happen again after a restore. Shows what would go unless it is confirmed.
    Thaw {
        /// Confirmation: the incarnation, as this command shows it.
        #[arg(long, value_name = "NUMBER")]
        incarnation: Option<u64>,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
}

/// Join tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Print a new token: good once.
    Create {
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
        /// Minutes it is good for, 1 to 1440.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=1440))]
        ttl: u64,
    },
}

/// Nodes.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List them.
    Ls(NodeDir),
    /// Move all data off a node, so that it can be removed.
    Drain {
        /// The node, as `node ls` shows it.
        #[arg(value_name = "NODE")]
        id: String,
        /// Let it stay after all.
        #[arg(long)]
        cancel: bool,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// Take a node out of the grid for good. Refused while it holds data.
    Remove {
        /// The node, as `node ls` shows it.
        #[arg(value_name = "NODE")]
        id: String,
        /// What may be given up.
        #[command(flatten)]
        vouched: Vouched,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
}

/// What an administrator vouches for.
#[derive(Clone, Copy, Debug, Args)]
pub struct Vouched {
    /// It does not come back: rebuild at once what it held.
    #[arg(long)]
    pub lost: bool,
    /// Even if blocks are lost with it.
    #[arg(long, requires = "lost")]
    pub data_loss: bool,
}

/// Drives.
#[derive(Debug, Subcommand)]
pub enum DriveCommand {
    /// List them.
    Ls(NodeDir),
    /// Take a new drive of the asked node into use, now and after its next start.
    Add {
        /// Its directory there: best the root of a file system of its own.
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// Change a drive's share of the grid: the balancer moves what is too much or too little.
    Weight {
        /// The drive, as `drive ls` shows it.
        #[arg(value_name = "DRIVE")]
        id: u64,
        /// Relative to the other drives'; a new drive's is its size in GiB.
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
        weight: u32,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// Empty a drive; once it is empty, take it out of the grid.
    Remove {
        /// The drive, as `drive ls` shows it.
        #[arg(value_name = "DRIVE")]
        id: u64,
        /// What may be given up.
        #[command(flatten)]
        vouched: Vouched,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
}

/// Placement groups.
#[derive(Debug, Subcommand)]
pub enum PgCommand {
    /// List them.
    Ls(NodeDir),
}

/// Buckets.
#[derive(Debug, Subcommand)]
pub enum BucketCommand {
    /// List them.
    Ls(NodeDir),
    /// Make one.
    Create {
        /// Its name.
        name: String,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// What one holds, and the most it may.
    Show {
        /// Its name.
        name: String,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// Set the most that one may hold, or `none`.
    Quota {
        /// Its name.
        name: String,
        /// Bytes, or with a unit: `500G` (powers of 1000), `500Gi` (of 1024), or `none`.
        #[arg(value_parser = size)]
        bytes: Size,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// Remove an empty one.
    Delete {
        /// Its name.
        name: String,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
}

/// Accounts.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// List them.
    Ls(NodeDir),
    /// Make one with an access key of its own; its secret is shown this once.
    Create {
        /// What people call it.
        name: String,
        /// Its owner's e-mail address; access control lists may name the account by it.
        #[arg(long)]
        email: String,
        /// Write ARNs of what it holds without its number, as Ceph does for users in no account
        /// (`arn:aws:iam:::user/ann`). One account at most.
        #[arg(long)]
        bare_arns: bool,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// Show one: what its buckets hold together, and the most that they may.
    Show {
        /// Its id: twelve digits.
        id: String,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// Set the most that all its buckets may hold together; what is not named is without bounds.
    Quota {
        /// Its id: twelve digits.
        id: String,
        /// Bytes of objects, all their versions: `500G` (powers of 1000), `500Gi` (of 1024), or `none`.
        #[arg(long, value_parser = size, default_value = "none")]
        bytes: Size,
        /// Objects, all their versions: a number, or `none`.
        #[arg(long, value_parser = size, default_value = "none")]
        objects: Size,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// Remove one that owns no bucket and no identity.
    Delete {
        /// Its id: twelve digits.
        id: String,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
}

/// Access keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List them, without secrets.
    Ls(NodeDir),
    /// Make one; its secret is shown this once.
    Create {
        /// What it is for.
        name: String,
        /// May do everything.
        #[arg(long)]
        admin: bool,
        /// A bucket it may read. May be repeated.
        #[arg(long, value_name = "BUCKET")]
        read: Vec<String>,
        /// A bucket it may read and write. May be repeated.
        #[arg(long, value_name = "BUCKET")]
        write: Vec<String>,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// Remove one.
    Delete {
        /// Its id.
        id: String,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_mount_says_is_understood() {
        let said = |words: &str| {
            let words = words.split(' ').map(OsString::from);
            match Cli::parse_from(as_mount_helper(words)).command {
                Command::Mount(mount) => mount,
                other => panic!("{other:?}"),
            }
        };
        let mount = said("/sbin/mount.nexusgrid files /mnt/files -s -v -n -o rw,_netdev");
        assert_eq!((mount.bucket.as_str(), mount.fake), ("files", false));
        assert_eq!(mount.options, ["rw", "_netdev"]);
        assert!(said("mount.nexusgrid files /mnt/files -f -o ro").fake);
    }
}
