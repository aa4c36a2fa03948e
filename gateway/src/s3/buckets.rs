//! Buckets: create, list, head, delete, location.

use std::sync::Arc;

use async_trait::async_trait;
use nexusgrid_grid::{
    GridError, ListUploadsRequest, ListVersionsRequest, LockRules, RulesChange, Versioning,
};
use nexusgrid_iam::Action;
use nexusgrid_iam::acl::Acl;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::acls;
use super::bucket_rules::{ownership, ownership_record};
use super::conditions::timestamp_ms;
use super::encoding::{parse_token, token};
use super::{Handle, Handlers, UNNAMED_REGION};
use crate::auth::AuthenticatedRequest;
use crate::context::query_pairs;
use crate::error::{custom, from_grid, invalid_argument, not_implemented};
use crate::limits;
use crate::quota::Quotas;
use crate::rules::{Kind, Ownership, account_of};

#[async_trait]
impl Handle<CreateBucketInput, CreateBucketOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let signed_region = request.region.as_ref().map(|region| region.as_str().to_owned());
        let request_headers = request.headers;
        let input = request.input;
        if let Some(configuration) = &input.create_bucket_configuration {
            if configuration.bucket.is_some() || configuration.location.is_some() {
                return Err(not_implemented("a directory bucket"));
            }
            if configuration.tags.as_ref().is_some_and(|tags| !tags.is_empty()) {
                return Err(not_implemented("a bucket with tags"));
            }
            if let Some(wanted) = &configuration.location_constraint {
                let wanted = wanted.as_str();
                // The grid is one region, and lets clients call it by the name they sign for.
                let ours = wanted.is_empty()
                    || wanted == &*self.region
                    || signed_region.as_deref() == Some(wanted);
                if !ours {
                    return Err(S3Error::with_message(
                        S3ErrorCode::InvalidLocationConstraint,
                        format!("this grid is the region {}", self.region),
                    ));
                }
            }
        }
        if input.bucket_namespace.is_some() {
            return Err(not_implemented("a bucket namespace"));
        }
        let account = caller.account()?;
        let owner = account_of(account).canonical_id();
        let accounts = self.accounts().await?;
        let acl = acls::of_headers(&request_headers, &accounts, &owner, &owner)?;
        let ownership =
            input.object_ownership.as_ref().map(|name| ownership(name.as_str())).transpose()?;
        let lists_off = ownership == Some(Ownership::BucketOwnerEnforced);
        if lists_off && acl.as_ref().is_some_and(|acl| acl.grants.len() > 1) {
            return Err(custom(
                "InvalidBucketAclWithObjectOwnership",
                http::StatusCode::BAD_REQUEST,
                "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
            ));
        }
        let wanted = Wanted { acl: acl.clone().unwrap_or_else(|| Acl::private(&owner)), ownership };
        let mut values = Vec::new();
        if let Some(acl) = acl {
            caller.require_of_new(Action::PutBucketAcl, &input.bucket)?;
            values.push((Kind::Acl, Some(acls::acl_record(&acl)?)));
        }
        if let Some(ownership) = ownership {
            caller.require_of_new(Action::PutOwnershipControls, &input.bucket)?;
            values.push((Kind::Ownership, Some(ownership_record(ownership)?)));
        }
        if input.object_lock_enabled_for_bucket == Some(true) {
            caller.require_of_new(Action::PutBucketObjectLock, &input.bucket)?;
            caller.require_of_new(Action::PutBucketVersioning, &input.bucket)?;
        }
        let made = match self.store.create_bucket(&input.bucket, account).await {
            Ok(made) => made,
            Err(GridError::BucketExists { owner }) if account_of(&owner).as_str() == account => {
                return self.create_again(&input, &wanted, signed_region.as_deref()).await;
            }
            Err(error) => return Err(from_grid(error)),
        };
        // Its share of what its owner may hold, before anybody can write to it.
        let quotas = Quotas::new(Arc::clone(&self.store));
        quotas.begin(&account_of(account), &input.bucket).await.map_err(from_grid)?;
        if !values.is_empty() {
            self.rules.set(&made, values).await.map_err(from_grid)?;
        }
        if input.object_lock_enabled_for_bucket == Some(true) {
            for change in [
                RulesChange::Versioning(Versioning::Enabled),
                RulesChange::Lock(LockRules::default()),
            ] {
                let changed = self.store.set_version_rules(&input.bucket, change).await;
                changed.map_err(from_grid)?;
            }
        }
        let location = Some(format!("/{}", input.bucket));
        Ok(S3Response::new(CreateBucketOutput { location, ..Default::default() }))
    }
}

/// What a new bucket is to be.
struct Wanted {
    acl: Acl,
    ownership: Option<Ownership>,
}

impl Handlers {
    /// To make a bucket that one has already changes nothing, and succeeds if nothing would
    /// change. S3 has that in the region without a name only: here for whoever signs for that.
    async fn create_again(
        &self,
        input: &CreateBucketInput,
        wanted: &Wanted,
        signed_region: Option<&str>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        // Who signs for no region at all means that one.
        let signed = signed_region.filter(|region| !region.is_empty()).unwrap_or(UNNAMED_REGION);
        if &*self.region != UNNAMED_REGION && signed != UNNAMED_REGION {
            return Err(S3Error::new(S3ErrorCode::BucketAlreadyOwnedByYou));
        }
        let rules = self.rules.of(&input.bucket).await.map_err(from_grid)?;
        let locks = input.object_lock_enabled_for_bucket == Some(true);
        let locked = locks && {
            let rules = self.store.version_rules(&input.bucket).await.map_err(from_grid)?;
            rules.lock.is_some()
        };
        let same = wanted.acl == rules.acl()
            && wanted.ownership.is_none_or(|wanted| rules.ownership() == Some(wanted))
            && locks == locked;
        if !same {
            return Err(S3Error::new(S3ErrorCode::BucketAlreadyExists));
        }
        let location = Some(format!("/{}", input.bucket));
        Ok(S3Response::new(CreateBucketOutput { location, ..Default::default() }))
    }
}

#[async_trait]
impl Handle<HeadBucketInput, HeadBucketOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        let bucket = &request.input.bucket;
        self.bucket(bucket).await?;
        let mut reply = S3Response::new(HeadBucketOutput {
            bucket_region: Some(self.region.to_string()),
            ..Default::default()
        });
        // Ceph's way to ask how much a bucket holds; that is its owner's business.
        let owner = caller.bucket_rules()?.owner.as_str();
        let is_owner = caller.account().is_ok_and(|own| own == owner);
        let asks = |(name, on): &(String, String)| name == "read-stats" && on == "true";
        if is_owner && query_pairs(&request.uri).iter().any(asks) {
            let usage = self.store.bucket_usage(bucket).await.map_err(from_grid)?;
            reply.headers.insert("x-rgw-object-count", usage.objects.into());
            reply.headers.insert("x-rgw-bytes-used", usage.bytes.into());
        }
        Ok(reply)
    }
}

#[async_trait]
impl Handle<GetBucketLocationInput, GetBucketLocationOutput> for Handlers {
    async fn handle(
        &self,
        _caller: AuthenticatedRequest,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.bucket(&request.input.bucket).await?;
        let location_constraint = (&*self.region != UNNAMED_REGION)
            .then(|| BucketLocationConstraint::from(self.region.to_string()));
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
    }
}

#[async_trait]
impl Handle<DeleteBucketInput, DeleteBucketOutput> for Handlers {
    async fn handle(
        &self,
        _caller: AuthenticatedRequest,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        let bucket = &request.input.bucket;
        let deleted = match self.store.delete_bucket(bucket).await {
            // What was begun and never finished is no content: it goes with its bucket.
            Err(GridError::BucketNotEmpty) if self.holds_only_uploads(bucket).await? => {
                self.abort_uploads(bucket).await?;
                self.store.delete_bucket(bucket).await
            }
            deleted => deleted,
        };
        deleted.map_err(from_grid)?;
        self.rules.forget(bucket);
        Ok(S3Response::with_status(DeleteBucketOutput::default(), http::StatusCode::NO_CONTENT))
    }
}

#[async_trait]
impl Handle<ListBucketsInput, ListBucketsOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let input = request.input;
        let max = match input.max_buckets {
            None => limits::BUCKETS_PAGE_MAX,
            Some(max) => match usize::try_from(max) {
                Ok(max) if (1..=limits::BUCKETS_PAGE_MAX).contains(&max) => max,
                _ => return Err(invalid_argument("max-buckets is between 1 and 10000")),
            },
        };
        let after = input.continuation_token.as_deref().map(parse_token).transpose()?;
        let prefix = input.prefix.clone().unwrap_or_default();
        let here = input.bucket_region.as_deref().is_none_or(|region| *region == *self.region);
        let mut buckets = self.store.list_buckets().await.map_err(from_grid)?;
        buckets.retain(|bucket| {
            here && bucket.name.starts_with(&prefix)
                && after.as_ref().is_none_or(|after| bucket.name > *after)
                && caller.sees_bucket(bucket)
        });
        let more = buckets.len() > max;
        buckets.truncate(max);
        let continuation_token = match buckets.last() {
            Some(last) if more => Some(token(&last.name)),
            _ => None,
        };
        let accounts = self.accounts().await?;
        let own = account_of(caller.account()?).canonical_id();
        let buckets = buckets
            .into_iter()
            .map(|bucket| Bucket {
                creation_date: Some(timestamp_ms(bucket.created)),
                name: Some(bucket.name),
                ..Default::default()
            })
            .collect();
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(buckets),
            continuation_token,
            owner: Some(acls::shown_owner(&accounts, &own)),
            prefix: input.prefix,
        }))
    }
}

impl Handlers {
    async fn holds_only_uploads(&self, bucket: &str) -> S3Result<bool> {
        let versions = ListVersionsRequest {
            bucket: bucket.to_owned(),
            prefix: String::new(),
            delimiter: None,
            after: None,
            max: 1,
        };
        let page = self.store.list_versions(versions).await.map_err(from_grid)?;
        Ok(page.versions.is_empty() && page.markers.is_empty())
    }

    async fn abort_uploads(&self, bucket: &str) -> S3Result<()> {
        let mut after = None;
        loop {
            let request = ListUploadsRequest {
                bucket: bucket.to_owned(),
                prefix: String::new(),
                delimiter: None,
                after,
                max: limits::LIST_PAGE_MAX,
            };
            let page = self.store.list_uploads(request).await.map_err(from_grid)?;
            for upload in page.uploads {
                match self.store.abort_upload(bucket, &upload.key, &upload.upload).await {
                    // Another was faster.
                    Ok(()) | Err(GridError::NoSuchUpload) => {}
                    Err(error) => return Err(from_grid(error)),
                }
            }
            after = match page.next {
                Some((key, upload)) => Some((key, Some(upload))),
                None => return Ok(()),
            };
        }
    }
}
