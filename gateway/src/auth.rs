//! Who asks, and whether they may: the one place that makes an [`AuthenticatedRequest`].
//!
//! s3s verifies signatures with the secrets that [`Keys`] looks up (constant-time comparison, 15
//! minutes of clock skew, presigned URLs of at most seven days; Signature Version 2, where it is
//! taken at all, is checked by `signature_v2`). Then, and
//! for every operation, [`Doorkeeper::check`] looks the key up again, asks
//! [`nexusgrid_iam::authorize`], and leaves an [`AuthenticatedRequest`] in the request. Handlers
//! take their caller from there, and cannot make one themselves: the fields are private.
//! Who comes without credentials is the anonymous, whom only a bucket's own rules may allow
//! something. There is no credential of a default installation.

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use http::{Extensions, HeaderMap, Uri};
use nexusgrid_env::Clock;
use nexusgrid_grid::{BucketInfo, GridError, ObjectInfo, Tenant, VersionName};
use nexusgrid_iam::{
    AclOf, Action, Context, Decision, Principal, PrincipalKind, Resource, Rules as IamRules,
    Secret, authorize, authorize_identity,
};
use parking_lot::Mutex;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::CopySource;
use s3s::path::S3Path;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result};

use crate::access_log::{Asked, One};
use crate::context::{self, PeerAddress, Signature};
use crate::error::{access_denied, from_grid, not_implemented, refuse, unavailable};
use crate::identity::Directory;
use crate::identity::entities::Account;
use crate::identity::session::{self, SessionError};
use crate::metrics::Metrics;
use crate::operations::{self, Operation};
use crate::rules::{BucketRules, Rules, account_of};
use crate::s3::{Told, object_acl, read_error, version_name};
use crate::signature_v2::SignedByV2;
use crate::tenants;
use crate::turns::{Held, Lines};

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

/// Who signed with this key: with a temporary one, a token must say what it is.
pub(crate) async fn principal_of(
    directory: &Directory,
    id: &str,
    headers: &HeaderMap,
    uri: &Uri,
) -> S3Result<Arc<Principal>> {
    let in_query = || {
        let pairs = context::query_pairs(uri).into_iter();
        let mut tokens = pairs.filter(|(name, _)| name == "X-Amz-Security-Token");
        tokens.next().map(|(_, token)| token)
    };
    let in_header = headers.get("x-amz-security-token").and_then(|value| value.to_str().ok());
    let token = in_header.map(str::to_owned).or_else(in_query);
    if !session::is_temporary(id) {
        return match token {
            None => Ok(look_up(directory, id).await?.principal),
            Some(_) => Err(S3Error::new(S3ErrorCode::InvalidToken)),
        };
    }
    match directory.session_principal(id, token.as_deref()).await {
        Ok(principal) => Ok(Arc::new(principal)),
        Err(SessionError::Invalid) => Err(S3Error::new(S3ErrorCode::InvalidToken)),
        Err(SessionError::Expired) => Err(S3Error::new(S3ErrorCode::ExpiredToken)),
        Err(SessionError::Directory(error)) => Err(unavailable(error)),
    }
}

async fn look_up(keys: &Directory, id: &str) -> S3Result<AccessKey> {
    match keys.access_key(id).await {
        Ok(Some(key)) if key.principal.enabled => Ok(key),
        // A disabled key is told as an unknown one.
        Ok(_) => Err(S3Error::new(S3ErrorCode::InvalidAccessKeyId)),
        Err(error) => {
            tracing::warn!(%error, "request not served");
            Err(from_grid(GridError::Unavailable(error.0)))
        }
    }
}

/// Gives s3s the secrets to verify signatures with.
pub(crate) struct Keys(pub Arc<Directory>);

#[async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        if session::is_temporary(access_key) {
            let secret = self.0.session_secret(access_key).await.map_err(unavailable)?;
            return Ok(SecretKey::from(secret.expose()));
        }
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
    /// What the bucket's access log is to say, if it has one.
    pub(crate) asked: OnceLock<Asked>,
    /// What those who are told of it are to know of it.
    pub(crate) told: OnceLock<Told>,
    /// Objects of a request that is about several.
    pub(crate) several: Mutex<Vec<One>>,
    /// The code of the error that was answered.
    pub(crate) error: OnceLock<String>,
    /// Whose turn it is.
    pub(crate) held: Mutex<Held>,
}

/// A verified request for a known operation, which its caller may do.
#[derive(Clone)]
pub struct AuthenticatedRequest {
    principal: Arc<Principal>,
    operation: &'static Operation,
    action: Action,
    /// It may, unless the object's owner, list or tags say otherwise; or it may not, unless they do.
    may: bool,
    payload: PayloadMode,
    context: Arc<Context>,
    bucket: Option<Arc<BucketRules>>,
    now_unix_ms: u64,
    /// Where it is noted what the bucket's access log is to say.
    notes: Option<Arc<RequestNotes>>,
}

impl AuthenticatedRequest {
    /// The one that [`Doorkeeper::check`] left. Without it nothing is served.
    pub(crate) fn of<T>(request: &S3Request<T>) -> S3Result<AuthenticatedRequest> {
        // What was signed for another service is not for this one.
        if request.service.as_deref().is_some_and(|service| service != "s3") {
            return Err(access_denied());
        }
        Self::in_extensions(&request.extensions)
    }

    fn in_extensions(extensions: &Extensions) -> S3Result<AuthenticatedRequest> {
        extensions.get::<AuthenticatedRequest>().cloned().ok_or_else(access_denied)
    }

    /// Who asks.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The account that owns what the request makes; the anonymous own nothing.
    pub fn account(&self) -> S3Result<&str> {
        self.principal.account.as_deref().ok_or_else(access_denied)
    }

    /// What was laid down for the bucket that the path names, if it exists.
    pub fn bucket_rules(&self) -> S3Result<&Arc<BucketRules>> {
        self.bucket.as_ref().ok_or_else(|| from_grid(GridError::NoSuchBucket))
    }

    /// When it was let in, ms since 1970.
    pub(crate) fn now_unix_ms(&self) -> u64 {
        self.now_unix_ms
    }

    /// Whose share of the byte budget it uses.
    pub fn tenant(&self) -> Tenant {
        Tenant(self.principal.key.clone())
    }

    /// Who opens an upload: the account, or the ARN of who acts for it. Ceph's users are shown as
    /// accounts.
    pub fn initiator(&self) -> Tenant {
        let principal = &*self.principal;
        match (&principal.account, principal.kind) {
            (Some(account), PrincipalKind::Root) => Tenant(account.clone()),
            (Some(account), _) if principal.is_bare() => Tenant(account.clone()),
            _ => Tenant(principal.arn.clone()),
        }
    }

    /// How its body is protected.
    pub fn payload(&self) -> PayloadMode {
        self.payload
    }

    /// Which operation was asked for.
    pub fn operation(&self) -> &'static str {
        self.operation.name
    }

    /// Whether the bucket appears in the caller's list of buckets.
    pub fn sees_bucket(&self, bucket: &BucketInfo) -> bool {
        let owner = account_of(&bucket.owner);
        if self.principal.account.as_deref() != Some(owner.as_str()) {
            return false;
        }
        let rules = IamRules { owner: Some(owner.as_str()), ..IamRules::default() };
        let name = bucket.name.as_str();
        let may = |action, resource: Resource<'_>| {
            let now = self.now_unix_ms;
            authorize(&self.principal, action, &resource, &rules, &self.context, now).allowed()
        };
        // A key that is good for some buckets sees those; any other sees what its account owns.
        self.principal.kind != PrincipalKind::Service
            || may(Action::ListObjects, Resource::Bucket(name))
            || may(Action::PutObject, Resource::Object { bucket: name, key: "" })
    }

    /// Asks for something beyond what the request's own path names, in the same bucket.
    pub fn require(&self, action: Action, resource: &Resource<'_>) -> S3Result<()> {
        self.require_of(self.bucket_rules()?, action, resource)
    }

    /// Asks for something in a bucket that the caller is about to make.
    pub fn require_of_new(&self, action: Action, bucket: &str) -> S3Result<()> {
        let rules = IamRules { owner: self.principal.account.as_deref(), ..IamRules::default() };
        let resource = Resource::Bucket(bucket);
        decide(&self.principal, action, &resource, &rules, &self.context, self.now_unix_ms)
    }

    /// Asks for something by rules that the caller has made up for it.
    pub fn require_by(
        &self,
        action: Action,
        resource: &Resource<'_>,
        rules: &IamRules<'_>,
    ) -> S3Result<()> {
        decide(&self.principal, action, resource, rules, &self.context, self.now_unix_ms)
    }

    /// Asks for something in another bucket.
    pub fn require_of(
        &self,
        rules: &BucketRules,
        action: Action,
        resource: &Resource<'_>,
    ) -> S3Result<()> {
        let (context, now) = (self.context_of(rules), self.now_unix_ms);
        decide(&self.principal, action, resource, &rules.for_iam(None, None), &context, now)
    }

    /// What policies may ask about where it is about this bucket: its tags, not the path's bucket's.
    fn context_of(&self, rules: &BucketRules) -> Cow<'_, Context> {
        let own = self.bucket.as_deref();
        let is_own = own.is_some_and(|own| own.info.id == rules.info.id);
        let own_tags = own.map(BucketRules::tags).filter(|tags| !tags.is_empty());
        if is_own || (own_tags.is_none() && rules.tags().is_empty()) {
            return Cow::Borrowed(&self.context);
        }
        let mut context = Context::clone(&self.context);
        if let Some(tags) = own_tags {
            context::remove_bucket_tags(&mut context, tags);
        }
        context::add_bucket_tags(&mut context, rules.tags());
        Cow::Owned(context)
    }

    /// Asks for something done with a key that the grid keeps: its own account's policies decide.
    pub fn require_key(&self, action: &str, account: &str, arn: &str) -> S3Result<()> {
        let principal = &*self.principal;
        let is_own = principal.account.as_deref() == Some(account);
        let decision = authorize_identity(principal, action, arn, &self.context, self.now_unix_ms);
        if is_own && decision.allowed() {
            return Ok(());
        }
        tracing::info!(key = %principal.key, action, arn, ?decision, "denied");
        Err(access_denied())
    }

    /// Decides about an object now that it has been read, before anything of it is told: its owner,
    /// list and tags have a say. Every handler of an operation that
    /// [asks about its object](Operation::asks_of_object) calls this.
    pub fn admit(
        &self,
        key: &str,
        version: Option<VersionName>,
        object: Result<ObjectInfo, GridError>,
    ) -> S3Result<ObjectInfo> {
        let object = object.map_err(|error| self.read_error(key, version, error))?;
        self.admit_object(&object)?;
        Ok(object)
    }

    /// The same for an object that was opened.
    pub fn admit_object(&self, object: &ObjectInfo) -> S3Result<()> {
        // What the door allowed, only a foreign owner or a tag can take back.
        if self.may && object.meta.owner.is_none() && object.meta.tags.is_empty() {
            return Ok(());
        }
        self.admit_of(self.bucket_rules()?, self.action, object)
    }

    /// The same for an object of another bucket, and another action (a copy's source).
    pub fn admit_of(
        &self,
        rules: &BucketRules,
        action: Action,
        object: &ObjectInfo,
    ) -> S3Result<()> {
        let acl = object_acl(rules, &object.meta);
        let iam = rules.for_iam(object.meta.owner.as_deref(), Some(&acl));
        let resource = Resource::Object { bucket: &rules.info.name, key: &object.key };
        let is_logged = self.bucket.as_ref().is_some_and(|own| own.info.id == rules.info.id);
        let notes = self.notes.as_deref().filter(|_| is_logged);
        let mut context = self.context_of(rules);
        for (key, value) in &object.meta.tags {
            context.to_mut().add(format!("s3:ExistingObjectTag/{key}"), value.clone());
        }
        let now = self.now_unix_ms;
        decide(&self.principal, action, &resource, &iam, &context, now)?;
        note_list(notes, &self.principal, action, &resource, iam, &context, now);
        Ok(())
    }

    /// The answer to a read that failed.
    pub fn read_error(&self, key: &str, version: Option<VersionName>, error: GridError) -> S3Error {
        match self.bucket_rules() {
            Ok(rules) => self.read_error_of(rules, key, version, error),
            Err(error) => error,
        }
    }

    /// The same for another bucket. Whether a key exists is told to those who may list it.
    pub fn read_error_of(
        &self,
        rules: &BucketRules,
        key: &str,
        version: Option<VersionName>,
        error: GridError,
    ) -> S3Error {
        let missing = matches!(
            error,
            GridError::NoSuchKey | GridError::NoSuchVersion | GridError::DeleteMarker { .. }
        );
        if missing {
            let mut context = self.context_of(rules).into_owned();
            context.set("s3:prefix", key);
            let bucket = Resource::Bucket(&rules.info.name);
            let iam = rules.for_iam(None, None);
            let now = self.now_unix_ms;
            if !authorize(&self.principal, Action::ListObjects, &bucket, &iam, &context, now)
                .allowed()
            {
                return access_denied();
            }
        }
        read_error(error, version)
    }
}

fn decide(
    principal: &Principal,
    action: Action,
    resource: &Resource<'_>,
    rules: &IamRules<'_>,
    context: &Context,
    now_unix_ms: u64,
) -> S3Result<()> {
    match authorize(principal, action, resource, rules, context, now_unix_ms) {
        Decision::Allow => Ok(()),
        Decision::Deny(reason) => {
            tracing::info!(key = %principal.key, ?action, bucket = resource.bucket(), %reason, "denied");
            Err(access_denied())
        }
    }
}

/// Notes for a bucket's access log whether what was allowed would have been denied without lists.
fn note_list(
    notes: Option<&RequestNotes>,
    principal: &Principal,
    action: Action,
    resource: &Resource<'_>,
    rules: IamRules<'_>,
    context: &Context,
    now_unix_ms: u64,
) {
    let Some(asked) = notes.and_then(|notes| notes.asked.get()) else { return };
    let without = IamRules { bucket_acl: None, object_acl: None, ..rules };
    if !authorize(principal, action, resource, &without, context, now_unix_ms).allowed() {
        asked.acl_required.store(true, Ordering::Relaxed);
    }
}

/// Asks [`authorize`] for every request.
#[derive(Clone)]
pub(crate) struct Doorkeeper {
    pub lines: Lines,
    pub metrics: Metrics,
    pub directory: Arc<Directory>,
    pub rules: Arc<Rules>,
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl S3Access for Doorkeeper {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let notes = cx.extensions_mut().get::<Arc<RequestNotes>>().cloned();
        let peer = cx.extensions_mut().get::<PeerAddress>().copied();
        let by_version_2 = cx.extensions_mut().get::<SignedByV2>().cloned();
        let key = cx.credentials().map(|found| found.access_key.clone());
        let (key, signature) = match (key, by_version_2) {
            (None, Some(signed)) => {
                let signature = Signature::Version2 { in_query: signed.in_query() };
                (Some(signed.key().to_owned()), signature)
            }
            (key, _) => (key, Signature::Version4),
        };
        let principal = match key {
            None => Arc::new(Principal::anonymous()),
            Some(id) => {
                if let Some(notes) = &notes {
                    let _ = notes.key.set(id.clone());
                }
                principal_of(&self.directory, &id, cx.headers(), cx.uri()).await?
            }
        };
        let name = cx.s3_op().name();
        let (path, headers, uri) = (cx.s3_path(), cx.headers(), cx.uri());
        let of_tenant = tenants::of_path(path);
        let path = of_tenant.as_ref().map_or(path, |(_, path)| path);
        let ask = Ask { path, headers, uri, peer, signature };
        let request = self.let_in(principal, name, &ask, notes.as_ref()).await?;
        if let Some((tenant, _)) = of_tenant {
            self.check_tenant(&request, tenant).await?;
        }
        cx.extensions_mut().insert(request);
        Ok(())
    }
}

/// Whether what is known of an object, once it has been read, could allow what is denied without:
/// its list, or its tags where a policy asks for them.
fn object_has_a_say(principal: &Principal, action: Action, bucket: Option<&BucketRules>) -> bool {
    let by_list =
        matches!(action.acl(), AclOf::Object(_)) && bucket.is_some_and(BucketRules::has_acls);
    let documents = principal.policies.iter().chain(&principal.boundary).chain(&principal.session);
    by_list
        || documents.into_iter().any(|document| document.asks_for_object_tags())
        || bucket
            .and_then(BucketRules::policy)
            .is_some_and(nexusgrid_iam::policy::Document::asks_for_object_tags)
}

/// What a request says besides its caller and its operation.
pub(crate) struct Ask<'a> {
    /// Bucket and key.
    pub path: &'a S3Path,
    /// Its headers, of a form the fields that would be headers.
    pub headers: &'a HeaderMap,
    /// Path and query.
    pub uri: &'a Uri,
    /// Who is at the other end.
    pub peer: Option<PeerAddress>,
    /// How it is signed.
    pub signature: Signature,
}

impl Doorkeeper {
    /// Refuses what the named tenant has not. (A bucket that is to be made has no owner yet.)
    async fn check_tenant(&self, request: &AuthenticatedRequest, tenant: &str) -> S3Result<()> {
        let Some(rules) = &request.bucket else {
            return Err(S3Error::new(S3ErrorCode::InvalidBucketName));
        };
        if tenant.is_empty() {
            return Ok(());
        }
        let owner = account_of(&rules.info.owner);
        let accounts = self.directory.accounts().await.map_err(unavailable)?;
        let is_theirs = |account: &Account| account.id == owner && account.name == tenant;
        if accounts.all().any(is_theirs) { Ok(()) } else { Err(from_grid(GridError::NoSuchBucket)) }
    }

    /// The secret of a key, to check a signature with.
    pub async fn secret(&self, key: &str) -> S3Result<Secret> {
        if session::is_temporary(key) {
            return self.directory.session_secret(key).await.map_err(unavailable);
        }
        Ok(look_up(&self.directory, key).await?.secret)
    }

    /// Lets in an upload by form, whose signature has been checked: it is a `PutObject` whose
    /// headers were fields.
    pub async fn admit_form(
        &self,
        principal: Arc<Principal>,
        ask: &Ask<'_>,
        notes: &Arc<RequestNotes>,
    ) -> S3Result<AuthenticatedRequest> {
        self.let_in(principal, "PutObject", ask, Some(notes)).await
    }

    async fn let_in(
        &self,
        principal: Arc<Principal>,
        name: &str,
        ask: &Ask<'_>,
        notes: Option<&Arc<RequestNotes>>,
    ) -> S3Result<AuthenticatedRequest> {
        let now_unix_ms = self.clock.wall().0;
        let Some(operation) = operations::by_name(name) else {
            // Whether an operation exists here is nobody's business who has no key.
            return Err(if principal.is_anonymous() {
                access_denied()
            } else {
                not_implemented(format_args!("the operation {name}"))
            });
        };
        if let Some(notes) = notes {
            let _ = notes.operation.set(operation.name);
        }
        let resource = operation.resource(ask.path).ok_or_else(access_denied)?;
        let mut context = context::of_caller(&principal, now_unix_ms);
        context::add_connection(&mut context, ask.peer);
        context::add_request(&mut context, ask.headers, ask.uri);
        context::add_session_tags(&mut context, &principal);
        context::add_signature(&mut context, ask.signature);
        let bucket = match resource.bucket() {
            Some(bucket) if operation.action != Action::CreateBucket => {
                match self.rules.of(bucket).await {
                    Ok(rules) => Some(rules),
                    Err(error) => return Err(from_grid(error)),
                }
            }
            _ => None,
        };
        if let Some(rules) = &bucket {
            context::add_bucket_tags(&mut context, rules.tags());
        }
        if let (Some(rules), Some(notes)) = (&bucket, notes) {
            let key = match resource {
                Resource::Object { key, .. } => Some(key),
                Resource::Cluster
                | Resource::Bucket(_)
                | Resource::BucketAlways(_)
                | Resource::AllObjects(_) => None,
            };
            let names_version = context.single("s3:versionid").is_some();
            let caller = (principal.id.as_str(), notes.id.as_str());
            let told = Told::of(rules, key, caller, ask.headers, ask.peer, names_version);
            if let Some(told) = told {
                let _ = notes.told.set(told);
            }
            if let Some(asked) = Asked::of(rules, &principal, key, ask) {
                let _ = notes.asked.set(asked);
            }
        }
        let wants_version = context.single("s3:versionid").is_some();
        let action = match operation.versioned {
            Some(action) if wants_version => action,
            _ => operation.action,
        };
        let is_own_list = action == Action::ListBuckets
            && principal.kind == PrincipalKind::Service
            && principal.enabled;
        let mut may = true;
        if !operation.asks_for_each() && !is_own_list {
            let rules = bucket.as_ref().map(|rules| rules.for_iam(None, None)).unwrap_or_default();
            if operation.asks_of_object() {
                // The rest is decided when the object has been read: its handler reads it anyway.
                match authorize(&principal, action, &resource, &rules, &context, now_unix_ms) {
                    Decision::Allow => {}
                    Decision::Deny(reason)
                        if !reason.is_final()
                            && object_has_a_say(&principal, action, bucket.as_deref()) =>
                    {
                        may = false;
                    }
                    Decision::Deny(_) => {
                        decide(&principal, action, &resource, &rules, &context, now_unix_ms)?;
                    }
                }
            } else {
                decide(&principal, action, &resource, &rules, &context, now_unix_ms)?;
                let notes = notes.map(Arc::as_ref);
                note_list(notes, &principal, action, &resource, rules, &context, now_unix_ms);
            }
        }
        operation.check_features(ask.headers, ask.uri)?;
        if let Some(notes) = notes.filter(|_| operation.is_listing())
            && !self.lines.list(principal.account.as_deref(), &notes.held).await
        {
            self.metrics.refused.inc();
            return Err(from_grid(GridError::SlowDown));
        }
        let payload = PayloadMode::of(ask.headers)?;
        let context = Arc::new(context);
        let request = AuthenticatedRequest {
            principal,
            operation,
            action,
            may,
            payload,
            context,
            bucket,
            now_unix_ms,
            notes: notes.cloned(),
        };
        Ok(request)
    }
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
