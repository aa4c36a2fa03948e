//! The actions there are, and what each is done to. One list for all doors.

use crate::acl::Permission;

/// What an action is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The grid, or an account's identities.
    Cluster,
    /// A bucket as a whole.
    Bucket,
    /// An object.
    Object,
}

/// The access control list that may allow an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclOf {
    /// No list allows it.
    None,
    /// The bucket's.
    Bucket(Permission),
    /// The object's.
    Object(Permission),
}

macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident $name:literal $scope:ident $acl:expr;)*) => {
        /// Something a principal wants to do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Action {
            $($(#[$doc])* #[doc = concat!("`", $name, "`.")] $variant,)*
        }

        impl Action {
            /// Every action there is.
            pub const ALL: &'static [Action] = &[$(Action::$variant),*];

            /// As policies name it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Action::$variant => $name,)*
                }
            }

            /// What it is done to.
            pub const fn scope(self) -> Scope {
                match self {
                    $(Action::$variant => Scope::$scope,)*
                }
            }

            /// Which access control list may allow it.
            pub const fn acl(self) -> AclOf {
                match self {
                    $(Action::$variant => $acl,)*
                }
            }
        }
    };
}

use AclOf::{Bucket as B, None as N, Object as O};
use Permission::{Read, ReadAcp, Write, WriteAcp};

actions! {
    ReadCluster "nexusgrid:ReadCluster" Cluster N;
    ManageCluster "nexusgrid:ManageCluster" Cluster N;

    ListBuckets "s3:ListAllMyBuckets" Cluster N;
    CreateBucket "s3:CreateBucket" Bucket N;
    DeleteBucket "s3:DeleteBucket" Bucket N;
    /// Lists keys; also asked for by `HeadBucket`.
    ListObjects "s3:ListBucket" Bucket B(Read);
    ListVersions "s3:ListBucketVersions" Bucket B(Read);
    ListUploads "s3:ListBucketMultipartUploads" Bucket B(Read);
    GetBucketLocation "s3:GetBucketLocation" Bucket B(Read);
    GetBucketAcl "s3:GetBucketAcl" Bucket B(ReadAcp);
    PutBucketAcl "s3:PutBucketAcl" Bucket B(WriteAcp);
    GetBucketPolicy "s3:GetBucketPolicy" Bucket N;
    PutBucketPolicy "s3:PutBucketPolicy" Bucket N;
    DeleteBucketPolicy "s3:DeleteBucketPolicy" Bucket N;
    GetBucketPolicyStatus "s3:GetBucketPolicyStatus" Bucket N;
    GetBucketVersioning "s3:GetBucketVersioning" Bucket N;
    PutBucketVersioning "s3:PutBucketVersioning" Bucket N;
    GetBucketTagging "s3:GetBucketTagging" Bucket N;
    PutBucketTagging "s3:PutBucketTagging" Bucket N;
    GetBucketCors "s3:GetBucketCORS" Bucket N;
    PutBucketCors "s3:PutBucketCORS" Bucket N;
    GetLifecycle "s3:GetLifecycleConfiguration" Bucket N;
    PutLifecycle "s3:PutLifecycleConfiguration" Bucket N;
    GetBucketEncryption "s3:GetEncryptionConfiguration" Bucket N;
    PutBucketEncryption "s3:PutEncryptionConfiguration" Bucket N;
    GetBucketObjectLock "s3:GetBucketObjectLockConfiguration" Bucket N;
    PutBucketObjectLock "s3:PutBucketObjectLockConfiguration" Bucket N;
    GetOwnershipControls "s3:GetBucketOwnershipControls" Bucket N;
    PutOwnershipControls "s3:PutBucketOwnershipControls" Bucket N;
    GetPublicAccessBlock "s3:GetBucketPublicAccessBlock" Bucket N;
    PutPublicAccessBlock "s3:PutBucketPublicAccessBlock" Bucket N;
    GetBucketNotification "s3:GetBucketNotification" Bucket N;
    PutBucketNotification "s3:PutBucketNotification" Bucket N;
    GetBucketLogging "s3:GetBucketLogging" Bucket N;
    PutBucketLogging "s3:PutBucketLogging" Bucket N;
    GetBucketWebsite "s3:GetBucketWebsite" Bucket N;
    PutBucketWebsite "s3:PutBucketWebsite" Bucket N;
    DeleteBucketWebsite "s3:DeleteBucketWebsite" Bucket N;
    GetRequestPayment "s3:GetBucketRequestPayment" Bucket N;
    PutRequestPayment "s3:PutBucketRequestPayment" Bucket N;
    GetReplication "s3:GetReplicationConfiguration" Bucket N;
    PutReplication "s3:PutReplicationConfiguration" Bucket N;
    GetAccelerate "s3:GetAccelerateConfiguration" Bucket N;
    PutAccelerate "s3:PutAccelerateConfiguration" Bucket N;

    GetObject "s3:GetObject" Object O(Read);
    GetObjectVersion "s3:GetObjectVersion" Object O(Read);
    GetObjectAttributes "s3:GetObjectAttributes" Object O(Read);
    GetObjectVersionAttributes "s3:GetObjectVersionAttributes" Object O(Read);
    PutObject "s3:PutObject" Object B(Write);
    DeleteObject "s3:DeleteObject" Object B(Write);
    DeleteObjectVersion "s3:DeleteObjectVersion" Object N;
    GetObjectAcl "s3:GetObjectAcl" Object O(ReadAcp);
    GetObjectVersionAcl "s3:GetObjectVersionAcl" Object O(ReadAcp);
    PutObjectAcl "s3:PutObjectAcl" Object O(WriteAcp);
    PutObjectVersionAcl "s3:PutObjectVersionAcl" Object O(WriteAcp);
    GetObjectTagging "s3:GetObjectTagging" Object N;
    GetObjectVersionTagging "s3:GetObjectVersionTagging" Object N;
    PutObjectTagging "s3:PutObjectTagging" Object N;
    PutObjectVersionTagging "s3:PutObjectVersionTagging" Object N;
    DeleteObjectTagging "s3:DeleteObjectTagging" Object N;
    DeleteObjectVersionTagging "s3:DeleteObjectVersionTagging" Object N;
    GetObjectRetention "s3:GetObjectRetention" Object N;
    PutObjectRetention "s3:PutObjectRetention" Object N;
    GetObjectLegalHold "s3:GetObjectLegalHold" Object N;
    PutObjectLegalHold "s3:PutObjectLegalHold" Object N;
    BypassGovernance "s3:BypassGovernanceRetention" Object N;
    RestoreObject "s3:RestoreObject" Object N;
    ListParts "s3:ListMultipartUploadParts" Object B(Write);
    AbortUpload "s3:AbortMultipartUpload" Object B(Write);
}
