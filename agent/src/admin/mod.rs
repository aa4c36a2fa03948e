//! Administration of a running agent: JSON over a Unix socket in the node's directory.
//!
//! Whoever may open the socket (mode 0600) administers the grid: the machine's own file permissions
//! are the authentication, so that no default password exists. One request and one answer per
//! connection, each a line of JSON.

pub mod client;
pub mod server;

use serde::{Deserialize, Serialize};

/// Name of the socket inside a node's directory.
pub const SOCKET_NAME: &str = "agent.sock";

/// Longest request or answer line, in bytes.
pub const LINE_LEN_MAX: u64 = 16 << 20;

/// Where events go.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum EventTarget {
    /// They are posted to a URL.
    Webhook {
        /// The URL.
        url: String,
    },
    /// They are published to a subject of a NATS server.
    Nats {
        /// The server's URL.
        url: String,
        /// The subject.
        subject: String,
    },
}

/// What an administrator asks of an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum AdminRequest {
    /// The state of the grid as this node sees it.
    Status,
    /// Mounts of the machine that is asked.
    MountList,
    /// What an access key may do with a bucket that is mounted with it.
    MountRights {
        /// The bucket.
        bucket: String,
        /// The key.
        key: crate::drive::Credentials,
    },
    /// All nodes.
    NodeList,
    /// Moves all data off a node, or takes that back.
    NodeDrain {
        /// `7` or `n7`.
        id: String,
        /// Takes it back.
        cancel: bool,
    },
    /// Takes a node out of the grid.
    NodeRemove {
        /// `7` or `n7`.
        id: String,
        /// It does not come back.
        lost: bool,
        /// Even if blocks are lost with it.
        data_loss: bool,
    },
    /// All drives.
    DriveList,
    /// Empties a drive, or takes an empty one out of the grid.
    DriveRemove {
        /// Its id.
        id: u64,
        /// It cannot be read any more.
        lost: bool,
        /// Even if blocks are lost with it.
        data_loss: bool,
    },
    /// Takes a new drive of the node that is asked into use.
    DriveAdd {
        /// Its directory on that node.
        path: std::path::PathBuf,
    },
    /// Changes a drive's share of the grid.
    DriveWeight {
        /// Its id.
        id: u64,
        /// Relative to the other drives'; new drives have their size in GiB.
        weight: u32,
    },
    /// This node's background jobs.
    WorkerList,
    /// Lets a background job rest, or work again, on all nodes.
    WorkerPause {
        /// Its name.
        name: String,
        /// Whether it is to rest.
        paused: bool,
    },
    /// Bounds what a background job moves, on all nodes.
    WorkerRate {
        /// Its name.
        name: String,
        /// Bytes per second on one drive; `None`: its default.
        bytes_per_second: Option<u64>,
    },
    /// Has this node read all that it keeps, now.
    Scrub,
    /// Compares metadata with drives.
    Fsck {
        /// Puts what is missing on the repair queues.
        repair: bool,
    },
    /// Takes a checkpoint of every group now.
    MetadataCheckpoint,
    /// The newest checkpoints that this node knows of.
    MetadataList,
    /// Restores lost groups from their checkpoints; shows what it would do unless it is confirmed.
    MetadataRestore {
        /// The cluster's id, as the plan shows it.
        confirm: Option<String>,
        /// What is newer than the checkpoints may be lost.
        newer_lost: bool,
        /// What cannot be read now may be lost as well.
        #[serde(default)]
        accept_older: bool,
    },
    /// Lets deletes happen again after a restore; shows what would go unless it is confirmed.
    MetadataThaw {
        /// The incarnation that was looked at.
        incarnation: Option<u64>,
    },
    /// All placement groups.
    PgList,
    /// All buckets.
    BucketList,
    /// Makes a bucket.
    BucketCreate {
        /// Its name.
        name: String,
    },
    /// Removes an empty bucket.
    BucketDelete {
        /// Its name.
        name: String,
    },
    /// Targets of events.
    EventTargets,
    /// Sets a target of events up.
    EventTargetSet {
        /// Whose: an account's id.
        account: String,
        /// Its name.
        name: String,
        /// Where it leads.
        target: EventTarget,
        /// What signs, or opens the server.
        secret: Option<String>,
    },
    /// Removes a target of events.
    EventTargetRemove {
        /// Whose: an account's id.
        account: String,
        /// Its name.
        name: String,
    },
    /// Messages that a target did not take.
    EventDead {
        /// Whose: an account's id.
        account: String,
        /// Its name.
        name: String,
    },
    /// Tries messages that a target did not take again, or forgets them.
    EventRaise {
        /// Whose: an account's id.
        account: String,
        /// Its name.
        name: String,
        /// Tries them again.
        again: bool,
    },
    /// What a bucket holds.
    BucketShow {
        /// Its name.
        name: String,
    },
    /// Sets the most that a bucket may hold.
    BucketQuota {
        /// Its name.
        name: String,
        /// Bytes; `None`: no quota.
        bytes: Option<u64>,
    },
    /// A bucket's snapshots.
    SnapshotList {
        /// The bucket.
        bucket: String,
    },
    /// Takes a snapshot.
    SnapshotCreate {
        /// The bucket.
        bucket: String,
        /// The directory in it; empty: all of it.
        directory: String,
        /// Its name; `None`: the time.
        name: Option<String>,
    },
    /// Drops a snapshot.
    SnapshotDelete {
        /// The bucket.
        bucket: String,
        /// Its name.
        name: String,
    },
    /// All access keys, without secrets.
    KeyList,
    /// Accounts.
    AccountList,
    /// A new account, with a key.
    AccountCreate {
        /// What people call it.
        name: String,
        /// Its owner's address.
        email: String,
        /// Whether its ARNs go without its number.
        bare_arns: bool,
    },
    /// What an account holds, and the most that it may.
    AccountShow {
        /// Its id.
        id: String,
    },
    /// Sets the most that an account may hold.
    AccountQuota {
        /// Its id.
        id: String,
        /// Bytes; `None`: no quota.
        bytes: Option<u64>,
        /// Objects; `None`: no quota.
        objects: Option<u64>,
    },
    /// Removes an account that owns nothing.
    AccountDelete {
        /// Its id.
        id: String,
    },
    /// One operation of the IAM's interface, as an account itself.
    Identity {
        /// The account's id.
        account: String,
        /// The operation's name and parameters, as forms have them.
        fields: Vec<(String, String)>,
    },
    /// One operation of the KMS' interface, as an account itself.
    Kms {
        /// The account's id.
        account: String,
        /// The operation's name.
        operation: String,
        /// Its parameters.
        parameters: serde_json::Value,
    },
    /// Makes an access key; the answer is the only place that shows its secret.
    KeyCreate {
        /// What it is for.
        name: String,
        /// May do everything.
        admin: bool,
        /// Buckets it may read.
        read: Vec<String>,
        /// Buckets it may read and write.
        write: Vec<String>,
    },
    /// Removes an access key.
    KeyDelete {
        /// Its id.
        id: String,
    },
    /// Makes a one-time join token.
    TokenCreate {
        /// Seconds it is good for.
        ttl_seconds: u64,
    },
}

/// An agent's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminAnswer {
    /// What was asked for.
    Ok(serde_json::Value),
    /// Why not, and what to do.
    Error(String),
}
