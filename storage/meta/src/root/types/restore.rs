//! What is known of restores of metadata.

use nexusgrid_codec::id::GroupId;
use serde::{Deserialize, Serialize};

/// One restore of lost groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// The cluster's incarnation from then on.
    pub incarnation: u64,
    /// When, ms since 1970.
    pub at_ms: u64,
    /// The groups that were founded anew.
    pub groups: Vec<RestoredGroup>,
}

/// A group that was founded anew from a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredGroup {
    /// The group.
    pub group: GroupId,
    /// Replicas up to this generation are of the group that was lost (I15).
    pub generation: u16,
    /// Its newest entry that the checkpoint held.
    pub index: u64,
    /// When the checkpoint was taken, ms since 1970.
    pub checkpoint_ms: u64,
}

/// All restores, and whether deletes are frozen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restores {
    /// The cluster's incarnation: raised by every restore.
    pub incarnation: u64,
    /// Incarnations up to this one may delete: see [`Restores::is_frozen`].
    pub thawed: u64,
    /// All, the newest last.
    pub restores: Vec<Restore>,
}

impl Restores {
    /// Whether nothing may be deleted from drives, because metadata may be older than they.
    pub fn is_frozen(&self) -> bool {
        !self.restores.is_empty() && self.thawed < self.incarnation
    }
}
