//! A bucket's web site, as its owner lays it down; [`crate::website`] serves it.

use async_trait::async_trait;
use http::StatusCode;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::bucket_rules::{no_content, xml};
use super::{Handle, Handlers, read_xml};
use crate::auth::AuthenticatedRequest;
use crate::error::{custom, invalid_argument, refuse};
use crate::limits;
use crate::rules::Kind;
use nexusgrid_grid::RejectKind;

fn malformed() -> S3Error {
    S3Error::new(S3ErrorCode::MalformedXML)
}

/// A host, perhaps with a port: nothing that would begin a path, or another header.
fn check_host(host: &str) -> S3Result<()> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    match !host.is_empty() && host.len() <= limits::WEBSITE_HOST_BYTES_MAX {
        true if host.bytes().all(is_plain) => Ok(()),
        _ => Err(invalid_argument(format!("HostName: {host}"))),
    }
}

fn check_protocol(protocol: Option<&Protocol>) -> S3Result<()> {
    match protocol.map(Protocol::as_str) {
        None | Some("http" | "https") => Ok(()),
        Some(_) => {
            let message = "Invalid protocol, protocol can be http or https. If not defined the \
                           protocol will be selected automatically.";
            Err(refuse(RejectKind::InvalidRequest, message))
        }
    }
}

fn check_key(key: &str) -> S3Result<()> {
    match key.len() {
        0..=limits::KEY_BYTES_MAX => Ok(()),
        _ => Err(invalid_argument("a key of the website is too long")),
    }
}

/// A code of three digits between these.
fn is_code(text: &str, range: std::ops::RangeInclusive<u16>) -> bool {
    text.len() == 3 && text.parse().is_ok_and(|code| range.contains(&code))
}

fn check_rule(rule: &RoutingRule) -> S3Result<()> {
    if let Some(condition) = &rule.condition {
        let code = condition.http_error_code_returned_equals.as_deref();
        if code.is_none() && condition.key_prefix_equals.is_none() {
            return Err(malformed());
        }
        if let Some(code) = code.filter(|code| !is_code(code, 400..=599)) {
            return Err(refuse(
                RejectKind::InvalidRequest,
                format!(
                    "The provided HTTP error code ({code}) is not valid. Valid codes are 4XX or 5XX."
                ),
            ));
        }
        check_key(condition.key_prefix_equals.as_deref().unwrap_or(""))?;
    }
    let redirect = &rule.redirect;
    let keys = [&redirect.replace_key_with, &redirect.replace_key_prefix_with];
    if keys.iter().all(|key| key.is_some()) {
        let message = "You can only define ReplaceKeyPrefix or ReplaceKey but not both.";
        return Err(refuse(RejectKind::InvalidRequest, message));
    }
    for key in keys.into_iter().flatten() {
        check_key(key)?;
    }
    let says_nothing = keys.iter().all(|key| key.is_none())
        && redirect.host_name.is_none()
        && redirect.protocol.is_none()
        && redirect.http_redirect_code.is_none();
    if says_nothing {
        return Err(malformed());
    }
    if let Some(code) = &redirect.http_redirect_code
        && !is_code(code, 301..=399)
    {
        return Err(refuse(
            RejectKind::InvalidRequest,
            format!(
                "The provided HTTP redirect code ({code}) is not valid. Valid codes are 3XX except 300."
            ),
        ));
    }
    check_protocol(redirect.protocol.as_ref())?;
    redirect.host_name.as_deref().map_or(Ok(()), check_host)
}

fn check(site: &WebsiteConfiguration) -> S3Result<()> {
    if let Some(all) = &site.redirect_all_requests_to {
        let is_alone = site.index_document.is_none()
            && site.error_document.is_none()
            && site.routing_rules.is_none();
        if !is_alone {
            return Err(malformed());
        }
        check_protocol(all.protocol.as_ref())?;
        return check_host(&all.host_name);
    }
    let index = site.index_document.as_ref().ok_or_else(|| {
        invalid_argument(
            "A value for IndexDocument Suffix must be provided if RedirectAllRequestsTo is empty",
        )
    })?;
    if index.suffix.is_empty() || index.suffix.contains('/') {
        return Err(invalid_argument("The IndexDocument Suffix is not well formed"));
    }
    check_key(&index.suffix)?;
    if let Some(document) = &site.error_document {
        if document.key.is_empty() {
            return Err(invalid_argument("The ErrorDocument Key is not well formed"));
        }
        check_key(&document.key)?;
    }
    let rules = site.routing_rules.as_deref().unwrap_or_default();
    if rules.len() > limits::ROUTING_RULES_MAX {
        let message = format!("more than {} routing rules", limits::ROUTING_RULES_MAX);
        return Err(refuse(RejectKind::InvalidRequest, message));
    }
    rules.iter().try_for_each(check_rule)
}

#[async_trait]
impl Handle<PutBucketWebsiteInput, PutBucketWebsiteOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<PutBucketWebsiteInput>,
    ) -> S3Result<S3Response<PutBucketWebsiteOutput>> {
        let site = request.input.website_configuration;
        check(&site)?;
        let text = xml(&site)?;
        if text.len() > limits::WEBSITE_BYTES_MAX {
            return Err(refuse(RejectKind::TooLarge, "the website configuration is too large"));
        }
        self.lay_down(&caller, vec![(Kind::Website, Some(text))]).await?;
        Ok(S3Response::new(PutBucketWebsiteOutput::default()))
    }
}

#[async_trait]
impl Handle<GetBucketWebsiteInput, GetBucketWebsiteOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<GetBucketWebsiteInput>,
    ) -> S3Result<S3Response<GetBucketWebsiteOutput>> {
        let text = caller.bucket_rules()?.text(Kind::Website).ok_or_else(|| {
            custom(
                "NoSuchWebsiteConfiguration",
                StatusCode::NOT_FOUND,
                "The specified bucket does not have a website configuration",
            )
        })?;
        let site: WebsiteConfiguration = read_xml(text)?;
        Ok(S3Response::new(GetBucketWebsiteOutput {
            error_document: site.error_document,
            index_document: site.index_document,
            redirect_all_requests_to: site.redirect_all_requests_to,
            routing_rules: site.routing_rules,
        }))
    }
}

#[async_trait]
impl Handle<DeleteBucketWebsiteInput, DeleteBucketWebsiteOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<DeleteBucketWebsiteInput>,
    ) -> S3Result<S3Response<DeleteBucketWebsiteOutput>> {
        self.lay_down(&caller, vec![(Kind::Website, None)]).await?;
        no_content(DeleteBucketWebsiteOutput::default())
    }
}
