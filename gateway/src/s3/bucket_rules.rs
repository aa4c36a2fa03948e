//! What owners lay down for a bucket: policy, public access block, ownership, tags, CORS,
//! encryption, who pays.
//!
//! Each is read and checked here, stored as a record, and read again by [`crate::rules`].

use async_trait::async_trait;
use http::StatusCode;
use nexusgrid_grid::GridError;
use nexusgrid_iam::limits as iam_limits;
use nexusgrid_iam::policy::{Document, DocumentKind, InvalidDocument};
use s3s::dto::*;
use s3s::xml::{Deserialize, Deserializer, Serialize, Serializer};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::encryption::check_default;
use super::{Handle, Handlers};
use crate::auth::AuthenticatedRequest;
use crate::error::{access_denied, custom, from_grid, invalid_argument};
use crate::limits;
use crate::rules::{BucketRules, Kind, Ownership, PublicAccessBlock};

/// What is there as XML.
pub(crate) fn xml<T: Serialize>(value: &T) -> S3Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match value.serialize(&mut Serializer::new(&mut bytes)) {
        Ok(()) => Ok(bytes),
        Err(_) => Err(S3Error::new(S3ErrorCode::InternalError)),
    }
}

/// The inverse of [`xml`]; what cannot be read is an error.
pub(crate) fn read_xml<T>(text: &[u8]) -> S3Result<T>
where
    T: for<'a> Deserialize<'a>,
{
    T::deserialize(&mut Deserializer::new(text))
        .map_err(|_| S3Error::new(S3ErrorCode::InternalError))
}

fn stored<T>(rules: &BucketRules, kind: Kind, missing: &'static str, text: &str) -> S3Result<T>
where
    T: for<'a> Deserialize<'a>,
{
    let found = rules.text(kind).ok_or_else(|| custom(missing, StatusCode::NOT_FOUND, text))?;
    read_xml(found)
}

impl Handlers {
    /// Counts a change for the bucket's owner; refuses if there were too many lately.
    pub(super) fn may_lay_down(&self, caller: &AuthenticatedRequest) -> S3Result<()> {
        match self.directory.may_change(&caller.bucket_rules()?.info.owner) {
            true => Ok(()),
            false => Err(from_grid(GridError::SlowDown)),
        }
    }

    /// Sets what the owner lays down for the bucket, or takes it away: each as one change.
    pub(super) async fn lay_down(
        &self,
        caller: &AuthenticatedRequest,
        values: Vec<(Kind, Option<Vec<u8>>)>,
    ) -> S3Result<()> {
        self.may_lay_down(caller)?;
        self.rules.set(&caller.bucket_rules()?.info, values).await.map_err(from_grid)
    }
}

pub(super) fn no_content<T>(output: T) -> S3Result<S3Response<T>> {
    Ok(S3Response::with_status(output, StatusCode::NO_CONTENT))
}

/// Checks a bucket's tags; `repeats`: a tag may have several values.
fn check_tags(tags: &[Tag], most: usize, repeats: bool) -> S3Result<()> {
    let invalid = |text: &str| custom("InvalidTag", StatusCode::BAD_REQUEST, text);
    if tags.len() > most {
        return Err(custom(
            "BadRequest",
            StatusCode::BAD_REQUEST,
            &format!("There are at most {most} tags."),
        ));
    }
    let mut seen = std::collections::BTreeSet::new();
    for tag in tags {
        let key = tag.key.as_deref().unwrap_or("");
        let value = tag.value.as_deref().unwrap_or("");
        let length = |text: &str| text.chars().count();
        if key.is_empty() || length(key) > limits::TAG_KEY_CHARS_MAX {
            return Err(invalid("The TagKey you have provided is invalid"));
        }
        if length(value) > limits::TAG_VALUE_CHARS_MAX {
            return Err(invalid("The TagValue you have provided is invalid"));
        }
        if key.starts_with("aws:") {
            return Err(invalid("System tags cannot be added/updated by requester"));
        }
        if !seen.insert((key, if repeats { value } else { "" })) {
            return Err(invalid("Cannot provide multiple Tags with the same key"));
        }
    }
    Ok(())
}

// ---- policy ----

fn malformed(error: &InvalidDocument) -> S3Error {
    custom("MalformedPolicy", StatusCode::BAD_REQUEST, &error.to_string())
}

#[async_trait]
impl Handle<PutBucketPolicyInput, PutBucketPolicyOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<PutBucketPolicyInput>,
    ) -> S3Result<S3Response<PutBucketPolicyOutput>> {
        let input = request.input;
        let rules = caller.bucket_rules()?;
        let kind = DocumentKind::Bucket(&input.bucket);
        let document = Document::parse(&input.policy, kind, iam_limits::BUCKET_POLICY_BYTES_MAX)
            .map_err(|error| malformed(&error))?;
        if let Some(key) = document.unknown_key() {
            let text = format!("Policy has an invalid condition key: {key}");
            return Err(malformed(&InvalidDocument::Element(text)));
        }
        if document.allows_all_but() {
            let text = "Allow with NotPrincipal is not supported.".to_owned();
            return Err(malformed(&InvalidDocument::Element(text)));
        }
        let block = rules.public_access_block().unwrap_or_default();
        if block.block_policy && document.is_public() {
            return Err(access_denied());
        }
        let binds = input.confirm_remove_self_bucket_access.unwrap_or(false);
        let values = vec![
            (Kind::Policy, Some(input.policy.into_bytes())),
            (Kind::PolicyBindsOwner, binds.then(|| b"yes".to_vec())),
        ];
        self.lay_down(&caller, values).await?;
        no_content(PutBucketPolicyOutput::default())
    }
}

#[async_trait]
impl Handle<GetBucketPolicyInput, GetBucketPolicyOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<GetBucketPolicyInput>,
    ) -> S3Result<S3Response<GetBucketPolicyOutput>> {
        let text = caller.bucket_rules()?.text(Kind::Policy);
        let text = text.ok_or_else(|| S3Error::new(S3ErrorCode::NoSuchBucketPolicy))?;
        let policy = Some(String::from_utf8_lossy(text).into_owned());
        Ok(S3Response::new(GetBucketPolicyOutput { policy }))
    }
}

#[async_trait]
impl Handle<DeleteBucketPolicyInput, DeleteBucketPolicyOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<DeleteBucketPolicyInput>,
    ) -> S3Result<S3Response<DeleteBucketPolicyOutput>> {
        let values = vec![(Kind::Policy, None), (Kind::PolicyBindsOwner, None)];
        self.lay_down(&caller, values).await?;
        no_content(DeleteBucketPolicyOutput::default())
    }
}

#[async_trait]
impl Handle<GetBucketPolicyStatusInput, GetBucketPolicyStatusOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<GetBucketPolicyStatusInput>,
    ) -> S3Result<S3Response<GetBucketPolicyStatusOutput>> {
        let rules = caller.bucket_rules()?;
        let by_acl = rules.has_acls() && rules.acl().is_public();
        let is_public = Some(by_acl || rules.policy_is_public());
        let policy_status = Some(PolicyStatus { is_public });
        Ok(S3Response::new(GetBucketPolicyStatusOutput { policy_status }))
    }
}

// ---- public access block ----

#[async_trait]
impl Handle<PutPublicAccessBlockInput, PutPublicAccessBlockOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<PutPublicAccessBlockInput>,
    ) -> S3Result<S3Response<PutPublicAccessBlockOutput>> {
        let given = request.input.public_access_block_configuration;
        let block = PublicAccessBlock {
            block_acls: given.block_public_acls.unwrap_or(false),
            ignore_acls: given.ignore_public_acls.unwrap_or(false),
            block_policy: given.block_public_policy.unwrap_or(false),
            restrict_buckets: given.restrict_public_buckets.unwrap_or(false),
        };
        self.lay_down(&caller, vec![(Kind::PublicAccess, Some(json(&block)?))]).await?;
        Ok(S3Response::new(PutPublicAccessBlockOutput::default()))
    }
}

fn json<T: serde::Serialize>(value: &T) -> S3Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|_| S3Error::new(S3ErrorCode::InternalError))
}

#[async_trait]
impl Handle<GetPublicAccessBlockInput, GetPublicAccessBlockOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<GetPublicAccessBlockInput>,
    ) -> S3Result<S3Response<GetPublicAccessBlockOutput>> {
        let block = caller.bucket_rules()?.public_access_block().ok_or_else(|| {
            custom(
                "NoSuchPublicAccessBlockConfiguration",
                StatusCode::NOT_FOUND,
                "The public access block configuration was not found",
            )
        })?;
        let configuration = PublicAccessBlockConfiguration {
            block_public_acls: Some(block.block_acls),
            ignore_public_acls: Some(block.ignore_acls),
            block_public_policy: Some(block.block_policy),
            restrict_public_buckets: Some(block.restrict_buckets),
        };
        Ok(S3Response::new(GetPublicAccessBlockOutput {
            public_access_block_configuration: Some(configuration),
        }))
    }
}

#[async_trait]
impl Handle<DeletePublicAccessBlockInput, DeletePublicAccessBlockOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<DeletePublicAccessBlockInput>,
    ) -> S3Result<S3Response<DeletePublicAccessBlockOutput>> {
        self.lay_down(&caller, vec![(Kind::PublicAccess, None)]).await?;
        no_content(DeletePublicAccessBlockOutput::default())
    }
}

// ---- ownership ----

/// The ownership that a request names.
pub(crate) fn ownership(name: &str) -> S3Result<Ownership> {
    Ownership::parse(name).ok_or_else(|| invalid_argument(format!("ObjectOwnership: {name}")))
}

/// As it is stored.
pub(crate) fn ownership_record(ownership: Ownership) -> S3Result<Vec<u8>> {
    json(&ownership)
}

#[async_trait]
impl Handle<PutBucketOwnershipControlsInput, PutBucketOwnershipControlsOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<PutBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<PutBucketOwnershipControlsOutput>> {
        let rules = request.input.ownership_controls.rules;
        let [rule] = rules.as_slice() else {
            return Err(S3Error::new(S3ErrorCode::MalformedXML));
        };
        let ownership = ownership(rule.object_ownership.as_str())?;
        let acl = caller.bucket_rules()?.acl();
        let grants_others = acl
            .grants
            .iter()
            .any(|grant| grant.grantee != nexusgrid_iam::acl::Grantee::Account(acl.owner.clone()));
        if ownership == Ownership::BucketOwnerEnforced && grants_others {
            return Err(custom(
                "InvalidBucketAclWithObjectOwnership",
                StatusCode::BAD_REQUEST,
                "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
            ));
        }
        self.lay_down(&caller, vec![(Kind::Ownership, Some(json(&ownership)?))]).await?;
        Ok(S3Response::new(PutBucketOwnershipControlsOutput::default()))
    }
}

#[async_trait]
impl Handle<GetBucketOwnershipControlsInput, GetBucketOwnershipControlsOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<GetBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<GetBucketOwnershipControlsOutput>> {
        let ownership = caller.bucket_rules()?.ownership().ok_or_else(|| {
            custom(
                "OwnershipControlsNotFoundError",
                StatusCode::NOT_FOUND,
                "The bucket ownership controls were not found",
            )
        })?;
        let object_ownership = ObjectOwnership::from(ownership.name().to_owned());
        let rules = vec![OwnershipControlsRule { object_ownership }];
        Ok(S3Response::new(GetBucketOwnershipControlsOutput {
            ownership_controls: Some(OwnershipControls { rules }),
        }))
    }
}

#[async_trait]
impl Handle<DeleteBucketOwnershipControlsInput, DeleteBucketOwnershipControlsOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<DeleteBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<DeleteBucketOwnershipControlsOutput>> {
        self.lay_down(&caller, vec![(Kind::Ownership, None)]).await?;
        no_content(DeleteBucketOwnershipControlsOutput::default())
    }
}

// ---- tags ----

#[async_trait]
impl Handle<PutBucketTaggingInput, PutBucketTaggingOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<PutBucketTaggingInput>,
    ) -> S3Result<S3Response<PutBucketTaggingOutput>> {
        let tagging = request.input.tagging;
        check_tags(&tagging.tag_set, limits::TAGS_MAX, self.repeats_tags(&caller).await?)?;
        self.lay_down(&caller, vec![(Kind::Tagging, Some(xml(&tagging)?))]).await?;
        no_content(PutBucketTaggingOutput::default())
    }
}

#[async_trait]
impl Handle<GetBucketTaggingInput, GetBucketTaggingOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<GetBucketTaggingInput>,
    ) -> S3Result<S3Response<GetBucketTaggingOutput>> {
        let missing = "The TagSet does not exist";
        let rules = caller.bucket_rules()?;
        let tagging: Tagging = stored(rules, Kind::Tagging, "NoSuchTagSet", missing)?;
        Ok(S3Response::new(GetBucketTaggingOutput { tag_set: tagging.tag_set }))
    }
}

#[async_trait]
impl Handle<DeleteBucketTaggingInput, DeleteBucketTaggingOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<DeleteBucketTaggingInput>,
    ) -> S3Result<S3Response<DeleteBucketTaggingOutput>> {
        self.lay_down(&caller, vec![(Kind::Tagging, None)]).await?;
        no_content(DeleteBucketTaggingOutput::default())
    }
}

// ---- CORS ----

fn check_cors(rules: &[CORSRule]) -> S3Result<()> {
    if rules.is_empty() || rules.len() > limits::CORS_RULES_MAX {
        return Err(S3Error::new(S3ErrorCode::MalformedXML));
    }
    for rule in rules {
        for method in &rule.allowed_methods {
            if !["GET", "PUT", "POST", "DELETE", "HEAD"].contains(&method.as_str()) {
                return Err(custom(
                    "InvalidRequest",
                    StatusCode::BAD_REQUEST,
                    &format!("Found unsupported HTTP method in CORS config: {method}"),
                ));
            }
        }
        let headers = rule.allowed_headers.iter().flatten();
        let wild = headers.chain(&rule.allowed_origins).any(|text| text.matches('*').count() > 1);
        if wild || rule.allowed_methods.is_empty() || rule.allowed_origins.is_empty() {
            return Err(custom(
                "InvalidRequest",
                StatusCode::BAD_REQUEST,
                "A CORS rule names methods and origins, each with at most one wildcard",
            ));
        }
    }
    Ok(())
}

#[async_trait]
impl Handle<PutBucketCorsInput, PutBucketCorsOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<PutBucketCorsInput>,
    ) -> S3Result<S3Response<PutBucketCorsOutput>> {
        let configuration = request.input.cors_configuration;
        check_cors(&configuration.cors_rules)?;
        self.lay_down(&caller, vec![(Kind::Cors, Some(xml(&configuration)?))]).await?;
        Ok(S3Response::new(PutBucketCorsOutput::default()))
    }
}

#[async_trait]
impl Handle<GetBucketCorsInput, GetBucketCorsOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<GetBucketCorsInput>,
    ) -> S3Result<S3Response<GetBucketCorsOutput>> {
        let missing = "The CORS configuration does not exist";
        let rules = caller.bucket_rules()?;
        let found: CORSConfiguration =
            stored(rules, Kind::Cors, "NoSuchCORSConfiguration", missing)?;
        Ok(S3Response::new(GetBucketCorsOutput { cors_rules: Some(found.cors_rules) }))
    }
}

#[async_trait]
impl Handle<DeleteBucketCorsInput, DeleteBucketCorsOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<DeleteBucketCorsInput>,
    ) -> S3Result<S3Response<DeleteBucketCorsOutput>> {
        self.lay_down(&caller, vec![(Kind::Cors, None)]).await?;
        no_content(DeleteBucketCorsOutput::default())
    }
}

// ---- encryption ----

#[async_trait]
impl Handle<PutBucketEncryptionInput, PutBucketEncryptionOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<PutBucketEncryptionInput>,
    ) -> S3Result<S3Response<PutBucketEncryptionOutput>> {
        let configuration = request.input.server_side_encryption_configuration;
        check_default(&configuration)?;
        self.lay_down(&caller, vec![(Kind::Encryption, Some(xml(&configuration)?))]).await?;
        Ok(S3Response::new(PutBucketEncryptionOutput::default()))
    }
}

#[async_trait]
impl Handle<GetBucketEncryptionInput, GetBucketEncryptionOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<GetBucketEncryptionInput>,
    ) -> S3Result<S3Response<GetBucketEncryptionOutput>> {
        let missing = "The server side encryption configuration was not found";
        let code = "ServerSideEncryptionConfigurationNotFoundError";
        let rules = caller.bucket_rules()?;
        let configuration = stored(rules, Kind::Encryption, code, missing)?;
        Ok(S3Response::new(GetBucketEncryptionOutput {
            server_side_encryption_configuration: Some(configuration),
        }))
    }
}

#[async_trait]
impl Handle<DeleteBucketEncryptionInput, DeleteBucketEncryptionOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<DeleteBucketEncryptionInput>,
    ) -> S3Result<S3Response<DeleteBucketEncryptionOutput>> {
        self.lay_down(&caller, vec![(Kind::Encryption, None)]).await?;
        no_content(DeleteBucketEncryptionOutput::default())
    }
}

// ---- who pays ----

#[async_trait]
impl Handle<GetBucketRequestPaymentInput, GetBucketRequestPaymentOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<GetBucketRequestPaymentInput>,
    ) -> S3Result<S3Response<GetBucketRequestPaymentOutput>> {
        let text = caller.bucket_rules()?.text(Kind::RequestPayment);
        let payer = text.map_or_else(
            || Payer::BUCKET_OWNER.to_owned(),
            |text| String::from_utf8_lossy(text).into_owned(),
        );
        Ok(S3Response::new(GetBucketRequestPaymentOutput { payer: Some(Payer::from(payer)) }))
    }
}

#[async_trait]
impl Handle<PutBucketRequestPaymentInput, PutBucketRequestPaymentOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<PutBucketRequestPaymentInput>,
    ) -> S3Result<S3Response<PutBucketRequestPaymentOutput>> {
        let payer = request.input.request_payment_configuration.payer;
        if ![Payer::BUCKET_OWNER, Payer::REQUESTER].contains(&payer.as_str()) {
            return Err(S3Error::new(S3ErrorCode::MalformedXML));
        }
        let value = Some(payer.as_str().as_bytes().to_vec());
        self.lay_down(&caller, vec![(Kind::RequestPayment, value)]).await?;
        Ok(S3Response::new(PutBucketRequestPaymentOutput::default()))
    }
}
