//! What the root group can be told to do, and what it answers when it did.

use nexusgrid_codec::id::{DriveId, Epoch, GroupId, PgId};
use nexusgrid_env::{NodeId, Roles};
use serde::{Deserialize, Serialize};

use super::{
    AccessKey, Addresses, BucketKey, BucketSettings, ClusterSettings, DriveState, Fingerprint,
    Init, NewDrive, NewNode, NewPg, NodeState, RaftId, RecordWrite, Restore, RootError, Sighting,
    SpaceMark, WorkerSetting,
};
use crate::namespace::types::BucketId;
use crate::rows::codec::{self, DecodeError};

/// What the root group can be told to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootCommand {
    /// Makes the cluster; refused if there is one. → [`RootOk::Node`].
    Init(Box<Init>),
    /// Replaces the settings. → [`RootOk::Done`].
    SetSettings(ClusterSettings),
    /// Stores a one-time join token. → [`RootOk::Done`].
    CreateToken {
        /// Public half.
        id: String,
        /// SHA-256 of the secret half.
        secret_hash: [u8; 32],
        /// From then on it is refused.
        expires_ms: u64,
        /// Roles a node that joins with it may have.
        roles: Roles,
        /// Now.
        now_ms: u64,
    },
    /// Removes a token. → [`RootOk::Done`].
    RevokeToken {
        /// Public half.
        id: String,
    },
    /// Admits a node (Joining) and uses the token up. The same token with the same key
    /// again answers the same id. → [`RootOk::Node`].
    RedeemToken {
        /// Public half.
        token: String,
        /// SHA-256 of the secret that was shown.
        secret_hash: [u8; 32],
        /// The node.
        node: NewNode,
        /// Now.
        now_ms: u64,
    },
    /// Draws the next generation of a node's certificate: `current` must be the newest, or the one
    /// before it with the same new key (the answer to the last renewal was lost); anything else is
    /// a cloned disk and refused, as is a removed node. → [`RootOk::CertGeneration`].
    RenewNodeCert {
        /// The node.
        node: NodeId,
        /// The generation of the certificate it shows.
        current: u32,
        /// Of the public key to certify.
        key_hash: Fingerprint,
    },
    /// Changes a node's addresses. → [`RootOk::Done`].
    SetNodeAddresses {
        /// The node.
        node: NodeId,
        /// Where to reach it now.
        addresses: Addresses,
    },
    /// Moves a node along its life. Removed is final. → [`RootOk::Done`].
    SetNodeState {
        /// The node.
        node: NodeId,
        /// Where to.
        state: NodeState,
        /// Now.
        now_ms: u64,
    },
    /// Draws the next Raft generation of a node (I15). → [`RootOk::RaftId`].
    NextRaftGeneration {
        /// The node.
        node: NodeId,
    },
    /// Adds a drive, or finds it by incarnation. → [`RootOk::Drive`].
    AddDrive(NewDrive),
    /// Changes a drive's state. Removed is final. → [`RootOk::Done`].
    SetDriveState {
        /// The drive.
        drive: DriveId,
        /// Where to.
        state: DriveState,
    },
    /// Changes a drive's size and weight. → [`RootOk::Done`].
    SetDriveSize {
        /// The drive.
        drive: DriveId,
        /// Usable bytes.
        size_bytes: u64,
        /// Relative share.
        weight: u32,
    },
    /// Makes a PG (Active, epoch 1) if I11 holds. → [`RootOk::Pg`].
    CreatePg(NewPg),
    /// No new blocks for a PG. → [`RootOk::Done`].
    ClosePg {
        /// The PG.
        pg: PgId,
    },
    /// Says how full a PG is; one at its cap is closed. → [`RootOk::Done`].
    SetPgUse {
        /// The PG.
        pg: PgId,
        /// Bytes of blocks in it.
        used_bytes: u64,
    },
    /// Begins a remap (R1, R2): epoch + 1 with other drives in some slots. → [`RootOk::Epoch`].
    PreparePg {
        /// The PG.
        pg: PgId,
        /// The epoch it has: another is refused.
        from: Epoch,
        /// Slot → its new drive.
        moves: Vec<(u8, DriveId)>,
        /// Now.
        now_ms: u64,
    },
    /// Ends a remap, or a repair session, begun at this epoch. → [`RootOk::Done`].
    CleanPg {
        /// The PG.
        pg: PgId,
        /// The epoch that is complete.
        epoch: Epoch,
    },
    /// Opens a repair session on a PG (R4): the one before is closed. → [`RootOk::FillSession`].
    OpenFillSession {
        /// The PG.
        pg: PgId,
        /// The worker's node.
        worker: NodeId,
    },
    /// Closes a repair session. → [`RootOk::Done`].
    CloseFillSession {
        /// The PG.
        pg: PgId,
        /// The session.
        session: u64,
    },
    /// Makes a bucket in the group with the fewest. The same name by the same owner:
    /// [`RootError::BucketOwned`]. → [`RootOk::Bucket`].
    CreateBucket {
        /// Globally unique, S3's rules.
        name: String,
        /// Whose.
        owner: String,
        /// Its settings.
        settings: BucketSettings,
        /// Version 1 of its key, sealed by the master key.
        sealed_key: Vec<u8>,
        /// Now.
        now_ms: u64,
    },
    /// First phase of a delete: nobody writes to it any more. → [`RootOk::Bucket`].
    BeginDeleteBucket {
        /// Its name.
        name: String,
    },
    /// The group said that it is not empty: back to Active. → [`RootOk::Done`].
    CancelDeleteBucket {
        /// Its id.
        bucket: BucketId,
    },
    /// Second phase, after its group dropped it. → [`RootOk::Done`].
    FinishDeleteBucket {
        /// Its id.
        bucket: BucketId,
    },
    /// Changes settings. → [`RootOk::Done`].
    SetBucketSettings {
        /// Its id.
        bucket: BucketId,
        /// New settings.
        settings: BucketSettings,
    },
    /// Adds a version of a bucket's key: exactly the newest + 1. → [`RootOk::Done`].
    PutBucketKey(BucketKey),
    /// Makes an access key. → [`RootOk::Done`].
    CreateKey(AccessKey),
    /// Removes an access key. → [`RootOk::Done`].
    DeleteKey {
        /// Its id.
        id: String,
    },
    /// Says who votes in a group: a hint for those that look for it. → [`RootOk::Done`].
    SetGroupVoters {
        /// The group.
        group: GroupId,
        /// Its voters.
        voters: Vec<RaftId>,
    },
    /// What a node saw of others. Down needs two reporters from two hosts (or every other host
    /// that is up, if there is but one); Up and Asleep need one. → [`RootOk::Done`].
    Report {
        /// Who saw it.
        reporter: NodeId,
        /// Whom, and what.
        sightings: Vec<(NodeId, Sighting)>,
        /// Now.
        now_ms: u64,
    },
    /// Says how full a drive is. → [`RootOk::Done`].
    SetDriveUse {
        /// The drive.
        drive: DriveId,
        /// Bytes taken of its size.
        used_bytes: u64,
        /// Which mark it has passed.
        mark: SpaceMark,
    },
    /// Pauses, resumes or tunes a kind of background worker on all nodes. → [`RootOk::Done`].
    SetWorker {
        /// Its name.
        name: String,
        /// What holds from now on.
        setting: WorkerSetting,
    },
    /// Notes that metadata groups are founded anew from checkpoints: the incarnation must be the next
    /// one. From now on nothing is deleted from drives. → [`RootOk::Done`].
    RecordRestore(Restore),
    /// Lets deletes happen again in this incarnation: it must be the present one. → [`RootOk::Done`].
    Thaw {
        /// The incarnation that was looked at.
        incarnation: u64,
    },
    /// Makes the bucket that holds the cluster's own objects. Its name is none of S3's.
    /// → [`RootOk::Bucket`], also if it is there.
    CreateSystemBucket {
        /// Version 1 of its key, sealed by the master key.
        sealed_key: Vec<u8>,
        /// Now.
        now_ms: u64,
    },
    /// Changes records, all or none. → [`RootOk::Done`].
    WriteRecords(Vec<RecordWrite>),
}

/// A command's success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootOk {
    /// Done, nothing to say.
    Done,
    /// The node's id.
    Node(NodeId),
    /// The drive's id.
    Drive(DriveId),
    /// The PG's id.
    Pg(PgId),
    /// The PG's epoch.
    Epoch(Epoch),
    /// The repair session.
    FillSession(u64),
    /// A fresh Raft id.
    RaftId(RaftId),
    /// The generation of the certificate to sign.
    CertGeneration(u32),
    /// The bucket and its group.
    Bucket {
        /// Its id.
        bucket: BucketId,
        /// Who holds its rows.
        group: GroupId,
    },
}

/// A command's reply.
pub type RootReply = Result<RootOk, RootError>;

/// Reads the reply to a command.
pub fn decode_reply(bytes: &[u8]) -> Result<RootReply, DecodeError> {
    codec::decode(bytes)
}

codec::wire!(RootCommand);
