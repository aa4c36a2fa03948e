//! Who asks, and whether they may: the one place that makes an [`AuthenticatedRequest`].
//!
//! s3s verifies signatures with the secrets that [`Keys`] looks up (constant-time comparison, 15
//! minutes of clock skew, presigned URLs of at most seven days, no Signature Version 2). Then, and
//! for every operation, [`Doorkeeper::check`] looks the key up again, asks
//! [`nexusgrid_iam::authorize`], and leaves an [`AuthenticatedRequest`] in the request. Handlers
//! take their caller from there, and cannot make one themselves: the fields are private.
//! There is no anonymous access, and no credential of a default installation.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use http::{Extensions, HeaderMap};
use nexusgrid_env::Clock;
use nexusgrid_grid::{Tenant, VersionName};
use nexusgrid_iam::{Action, Context, Decision, Principal, Resource, Secret, authorize};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::{CopyObjectInput, CopySource, UploadPartCopyInput};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result};

use crate::error::{access_denied, not_implemented, refuse};
use crate::operations::{self, Operation};
use crate::s3::version_name;

/// An access key as the source of keys has it.
#[derive(Clone)]
pub struct AccessKey {
    /// Who it is and what it may do.
    pub principal: Arc<Principal>,
    /// What it signs with.
    pub secret: Secret,
}

/// The keys cannot be looked up now: the client should try again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("access keys cannot be looked up: {0}")]
pub struct KeysUnavailable(pub String);

/// Where access keys come from (in the product: the root group's state on this node).
#[async_trait]
pub trait KeySource: Send + Sync + 'static {
    /// The key of this id, `None` if there is none.
    async fn access_key(&self, id: &str) -> Result<Option<AccessKey>, KeysUnavailable>;
}

/// A shared source of keys.
pub type SharedKeys = Arc<dyn KeySource>;

async fn look_up(keys: &SharedKeys, id: &str) -> S3Result<AccessKey> {
    match keys.access_key(id).await {
        Ok(Some(key)) if key.principal.enabled => Ok(key),
        // A disabled key is told as an unknown one.
        Ok(_) => Err(S3Error::new(S3ErrorCode::InvalidAccessKeyId)),
        Err(error) => {
            tracing::warn!(%error, "request not served");
            Err(crate::error::from_grid(nexusgrid_grid::GridError::Unavailable(error.0)))
        }
    }
}

/// Gives s3s the secrets to verify signatures with.
pub(crate) struct Keys(pub SharedKeys);

#[async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let key = look_up(&self.0, access_key).await?;
        Ok(SecretKey::from(key.secret.expose()))
    }
}

/// How the body of a request is protected. Whoever reads a body matches on it, without a wildcard,
/// so that a new form cannot slip past a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadMode {
    /// The signature covers a SHA-256 of the body.
    Signed,
    /// The body is not signed (the request is).
    Unsigned,
    /// Each chunk is signed.
    Chunks,
    /// Each chunk is signed, and a trailer with a checksum.
    ChunksWithTrailer,
    /// Chunks are not signed; a trailer carries a checksum.
    UnsignedChunksWithTrailer,
}

impl PayloadMode {
    fn of(headers: &HeaderMap) -> S3Result<PayloadMode> {
        let Some(value) = headers.get("x-amz-content-sha256") else {
            // Only presigned URLs may come without; s3s has refused the others.
            return Ok(PayloadMode::Unsigned);
        };
        match value.as_bytes() {
            b"UNSIGNED-PAYLOAD" => Ok(PayloadMode::Unsigned),
            b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD" => Ok(PayloadMode::Chunks),
            b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" => Ok(PayloadMode::ChunksWithTrailer),
            b"STREAMING-UNSIGNED-PAYLOAD-TRAILER" => Ok(PayloadMode::UnsignedChunksWithTrailer),
            hash if hash.len() == 64 && hash.iter().all(u8::is_ascii_hexdigit) => {
                Ok(PayloadMode::Signed)
            }
            _ => Err(not_implemented("this value of x-amz-content-sha256")),
        }
    }

    /// Whether a checksum follows the body.
    pub fn has_trailer(self) -> bool {
        match self {
            PayloadMode::ChunksWithTrailer | PayloadMode::UnsignedChunksWithTrailer => true,
            PayloadMode::Signed | PayloadMode::Unsigned | PayloadMode::Chunks => false,
        }
    }
}

/// What the server notes about a request: its id from the start, the rest as it becomes known.
#[derive(Debug, Default)]
pub struct RequestNotes {
    /// Sent with the reply and written to the log.
    pub id: String,
    /// The operation, once routed.
    pub operation: OnceLock<&'static str>,
    /// The access key's id, once verified.
    pub key: OnceLock<String>,
}

/// A verified request of a known key for a known operation, which the key may do.
#[derive(Clone)]
pub struct AuthenticatedRequest {
    principal: Arc<Principal>,
    operation: &'static Operation,
    payload: PayloadMode,
    context: Context,
}

impl AuthenticatedRequest {
    /// The one that [`Doorkeeper::check`] left. Without it nothing is served.
    pub(crate) fn of<T>(request: &S3Request<T>) -> S3Result<AuthenticatedRequest> {
        Self::in_extensions(&request.extensions)
    }

    fn in_extensions(extensions: &Extensions) -> S3Result<AuthenticatedRequest> {
        extensions.get::<AuthenticatedRequest>().cloned().ok_or_else(access_denied)
    }

    /// Who asks.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Whose share of the byte budget it uses.
    pub fn tenant(&self) -> Tenant {
        Tenant(self.principal.key.to_string())
    }

    /// How its body is protected.
    pub fn payload(&self) -> PayloadMode {
        self.payload
    }

    /// Which operation was asked for.
    pub fn operation(&self) -> &'static str {
        self.operation.name
    }

    /// Whether the bucket may appear in the caller's list of buckets.
    pub fn sees_bucket(&self, bucket: &str) -> bool {
        self.principal.sees_bucket(bucket, &self.context)
    }

    /// Asks for something beyond what the request's own path names (a copy's source).
    pub fn require(&self, action: Action, resource: &Resource<'_>) -> S3Result<()> {
        decide(&self.principal, action, resource, &self.context)
    }
}

fn decide(
    principal: &Principal,
    action: Action,
    resource: &Resource<'_>,
    context: &Context,
) -> S3Result<()> {
    match authorize(principal, action, resource, context) {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) => {
            tracing::info!(key = %principal.key, ?action, bucket = resource.bucket(), %reason, "denied");
            Err(access_denied())
        }
    }
}

/// Asks [`authorize`] for every request.
pub(crate) struct Doorkeeper {
    pub keys: SharedKeys,
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl S3Access for Doorkeeper {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let notes = cx.extensions_mut().get::<Arc<RequestNotes>>().cloned();
        let Some(credentials) = cx.credentials() else {
            return Err(access_denied());
        };
        let id = credentials.access_key.clone();
        let name = cx.s3_op().name();
        if let Some(notes) = &notes {
            let _ = notes.key.set(id.clone());
        }
        let key = look_up(&self.keys, &id).await?;
        let Some(operation) = operations::by_name(name) else {
            return Err(not_implemented(format_args!("the operation {name}")));
        };
        if let Some(notes) = &notes {
            let _ = notes.operation.set(operation.name);
        }
        let resource = operation.resource(cx.s3_path()).ok_or_else(access_denied)?;
        let context = Context { now_unix_ms: self.clock.wall().0 };
        decide(&key.principal, operation.action, &resource, &context)?;
        operation.check_features(cx.headers(), cx.uri())?;
        let payload = PayloadMode::of(cx.headers())?;
        let request =
            AuthenticatedRequest { principal: key.principal, operation, payload, context };
        cx.extensions_mut().insert(request);
        Ok(())
    }

    async fn copy_object(&self, request: &mut S3Request<CopyObjectInput>) -> S3Result<()> {
        check_source(&AuthenticatedRequest::of(request)?, &request.input.copy_source)
    }

    async fn upload_part_copy(&self, request: &mut S3Request<UploadPartCopyInput>) -> S3Result<()> {
        check_source(&AuthenticatedRequest::of(request)?, &request.input.copy_source)
    }
}

fn check_source(request: &AuthenticatedRequest, source: &CopySource) -> S3Result<()> {
    let (bucket, key, _) = copy_source(source)?;
    request.require(Action::GetObject, &Resource::Object { bucket, key })
}

/// Bucket, key and version that a copy reads.
pub(crate) fn copy_source(source: &CopySource) -> S3Result<(&str, &str, Option<VersionName>)> {
    match source {
        CopySource::Bucket { key, .. } if key.is_empty() => {
            Err(refuse(nexusgrid_grid::RejectKind::InvalidRequest, "the copy source names no key"))
        }
        CopySource::Bucket { bucket, key, version_id } => {
            Ok((bucket, key, version_name(version_id.as_deref())?))
        }
        CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => {
            Err(not_implemented("a copy source other than bucket/key"))
        }
    }
}
