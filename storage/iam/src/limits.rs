//! Named limits of documents and identities. Where the AWS service has one of its own, it is that.

/// Bytes of a bucket's policy.
pub const BUCKET_POLICY_BYTES_MAX: usize = 20 * 1024;
/// Bytes of a managed policy.
pub const MANAGED_POLICY_BYTES_MAX: usize = 6 * 1024;
/// Bytes of a policy inside a user, a group or a role.
pub const INLINE_POLICY_BYTES_MAX: usize = 10 * 1024;
/// Bytes of a role's trust policy.
pub const TRUST_POLICY_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a policy passed to open a session.
pub const SESSION_POLICY_BYTES_MAX: usize = 2 * 1024;
/// Statements of a document.
pub const STATEMENTS_MAX: usize = 1_000;
/// Values of one element of a statement.
pub const LIST_MAX: usize = 1_000;
/// Bytes of a condition's key.
pub const KEY_BYTES_MAX: usize = 256;
/// Grants of an access control list.
pub const ACL_GRANTS_MAX: usize = 100;
/// Values of one key of a request.
pub const CONTEXT_VALUES_MAX: usize = 1_000;
