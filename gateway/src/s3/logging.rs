//! Whether a bucket has an access log, and where.

use async_trait::async_trait;
use http::StatusCode;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::bucket_rules::xml;
use super::{Handle, Handlers};
use crate::access_log::{Target, may_deliver};
use crate::auth::AuthenticatedRequest;
use crate::error::{access_denied, custom, from_grid, invalid_argument};
use crate::limits;
use crate::rules::{BucketRules, Kind};

/// Whether the bucket can take another's records.
fn check_place(source: &BucketRules, place: &BucketRules) -> S3Result<()> {
    if place.info.id == source.info.id {
        return Err(invalid_argument("a bucket's records do not go into the bucket itself"));
    }
    if place.logging().is_some() {
        return Err(invalid_argument("the target bucket has an access log itself"));
    }
    if place.text(Kind::RequestPayment).is_some_and(|payer| payer == Payer::REQUESTER.as_bytes()) {
        return Err(invalid_argument("those who ask pay for the target bucket"));
    }
    Ok(())
}

#[async_trait]
impl Handle<PutBucketLoggingInput, PutBucketLoggingOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<PutBucketLoggingInput>,
    ) -> S3Result<S3Response<PutBucketLoggingOutput>> {
        let source = caller.bucket_rules()?;
        // A policy may let others in, but not send the owner's records somewhere.
        if caller.account()? != source.owner.as_str() {
            return Err(access_denied());
        }
        let value = match &request.input.bucket_logging_status.logging_enabled {
            None => None,
            Some(enabled) => {
                let target = Target::read(enabled);
                let target = target.ok_or_else(|| S3Error::new(S3ErrorCode::MalformedXML))?;
                if target.prefix.len() > limits::LOG_PREFIX_BYTES_MAX {
                    return Err(invalid_argument("the target prefix is too long"));
                }
                let place = self.rules.of(&target.bucket).await.map_err(|error| match error {
                    nexusgrid_grid::GridError::NoSuchBucket => custom(
                        "InvalidTargetBucketForLogging",
                        StatusCode::BAD_REQUEST,
                        "The target bucket for logging does not exist",
                    ),
                    error => from_grid(error),
                })?;
                check_place(source, &place)?;
                if !may_deliver(source, &place, &target, None, caller.now_unix_ms()) {
                    return Err(access_denied());
                }
                Some(xml(&BucketLoggingStatus { logging_enabled: Some(target.show()) })?)
            }
        };
        self.lay_down(&caller, vec![(Kind::Logging, value)]).await?;
        Ok(S3Response::new(PutBucketLoggingOutput::default()))
    }
}

#[async_trait]
impl Handle<GetBucketLoggingInput, GetBucketLoggingOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<GetBucketLoggingInput>,
    ) -> S3Result<S3Response<GetBucketLoggingOutput>> {
        let logging_enabled = caller.bucket_rules()?.logging().map(Target::show);
        Ok(S3Response::new(GetBucketLoggingOutput { logging_enabled }))
    }
}
