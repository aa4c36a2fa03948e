//! The actions there are, what each needs, and what each applies to.

use crate::{Grant, Resource};

/// Something a principal wants to do. One list for all doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// See the names of the buckets (each door shows only those with a grant).
    ListBuckets,
    /// Create a bucket.
    CreateBucket,
    /// Learn that a bucket exists, and where.
    HeadBucket,
    /// Delete an empty bucket.
    DeleteBucket,
    /// List a bucket's keys.
    ListObjects,
    /// List a bucket's unfinished multipart uploads.
    ListUploads,
    /// Read an object's bytes or metadata.
    GetObject,
    /// Write an object, whole or in parts.
    PutObject,
    /// Delete an object, or a version of one.
    DeleteObject,
    /// List the parts of an unfinished upload.
    ListParts,
    /// Throw an unfinished upload away.
    AbortUpload,
    /// Change what a bucket does with its objects: versioning, locks.
    ConfigureBucket,
    /// Delete a version that is under governance, or shorten its time.
    BypassRetention,
    /// See nodes, drives, placement groups, health.
    ReadCluster,
    /// Change nodes, drives, keys, grants, settings.
    ManageCluster,
}

/// What an action asks of a principal that is no administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Any valid key will do.
    Authentication,
    /// This grant on the bucket concerned.
    Grant(Grant),
    /// Nothing less than an administrator's key.
    Administrator,
}

impl Action {
    /// Every action there is.
    pub const ALL: [Action; 15] = [
        Action::ListBuckets,
        Action::CreateBucket,
        Action::HeadBucket,
        Action::DeleteBucket,
        Action::ListObjects,
        Action::ListUploads,
        Action::GetObject,
        Action::PutObject,
        Action::DeleteObject,
        Action::ListParts,
        Action::AbortUpload,
        Action::ConfigureBucket,
        Action::BypassRetention,
        Action::ReadCluster,
        Action::ManageCluster,
    ];

    /// What the action asks for. No wildcard arm: a new action must be given its rule here.
    pub fn needs(self) -> Needs {
        match self {
            Action::ListBuckets => Needs::Authentication,
            Action::HeadBucket | Action::ListObjects | Action::GetObject => {
                Needs::Grant(Grant::READ)
            }
            // Unfinished uploads are the business of those who write.
            Action::ListUploads
            | Action::PutObject
            | Action::DeleteObject
            | Action::ListParts
            | Action::AbortUpload => Needs::Grant(Grant::WRITE),
            Action::DeleteBucket | Action::ConfigureBucket | Action::BypassRetention => {
                Needs::Grant(Grant::OWNER)
            }
            Action::CreateBucket | Action::ReadCluster | Action::ManageCluster => {
                Needs::Administrator
            }
        }
    }

    /// Whether the action can be done to such a resource at all.
    pub fn applies_to(self, resource: &Resource<'_>) -> bool {
        match self {
            Action::ListBuckets | Action::ReadCluster | Action::ManageCluster => {
                matches!(resource, Resource::Cluster)
            }
            Action::CreateBucket
            | Action::HeadBucket
            | Action::DeleteBucket
            | Action::ConfigureBucket
            | Action::ListObjects
            | Action::ListUploads => matches!(resource, Resource::Bucket(_)),
            // Several objects of one bucket at once (multi-delete) are asked for by bucket.
            Action::DeleteObject | Action::BypassRetention => {
                !matches!(resource, Resource::Cluster)
            }
            Action::GetObject | Action::PutObject | Action::ListParts | Action::AbortUpload => {
                matches!(resource, Resource::Object { .. })
            }
        }
    }
}
