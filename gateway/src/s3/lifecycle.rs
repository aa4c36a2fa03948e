//! Rules about the ends of objects: read, checked and compiled here, carried out by the grid.
//!
//! The metadata group of a bucket holds its rules, and answers for them; what clients are told of them
//! with each object comes from a record beside the bucket's others.

use std::collections::BTreeSet;

use async_trait::async_trait;
use http::StatusCode;
use nexusgrid_env::UnixMillis;
use nexusgrid_grid::lifecycle::{DAY_MS, Lifecycle, LifecycleRule as Rule, Noncurrent, When};
use nexusgrid_grid::storage_class;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::bucket_rules::{read_xml, xml};
use super::conditions::timestamp;
use super::lock::millis;
use super::{Handle, Handlers};
use crate::auth::AuthenticatedRequest;
use crate::error::{custom, from_grid, invalid_argument};
use crate::limits;
use crate::rules::{BucketRules, Kind};

/// Objects of fewer bytes keep their class, if the owner wants that of all classes.
const SMALL_BYTES: u64 = 128 << 10;

fn malformed(text: &str) -> S3Error {
    S3Error::with_message(S3ErrorCode::MalformedXML, text.to_owned())
}

fn invalid_request(text: &str) -> S3Error {
    S3Error::with_message(S3ErrorCode::InvalidRequest, text.to_owned())
}

fn positive(what: &str, days: i32) -> S3Result<u32> {
    u32::try_from(days)
        .ok()
        .filter(|days| *days > 0)
        .ok_or_else(|| invalid_argument(format!("'{what}' must be a positive integer")))
}

fn midnight(date: &Timestamp) -> S3Result<u64> {
    let UnixMillis(date) = millis(date)?;
    if date % DAY_MS == 0 {
        Ok(date)
    } else {
        Err(invalid_argument("'Date' must be at midnight GMT"))
    }
}

fn class(
    class: Option<&TransitionStorageClass>,
) -> S3Result<nexusgrid_grid::lifecycle::StorageClass> {
    let name = class.ok_or_else(|| malformed("a transition names a storage class"))?.as_str();
    storage_class::parse(name).ok_or_else(|| S3Error::new(S3ErrorCode::InvalidStorageClass))
}

fn read_filter(rule: &LifecycleRule, into: &mut Rule) -> S3Result<()> {
    if rule.filter.is_some() && rule.prefix.is_some() {
        return Err(malformed("a rule has a filter, or a prefix of its own"));
    }
    let Some(filter) = &rule.filter else {
        let prefix =
            rule.prefix.as_ref().ok_or_else(|| malformed("a rule has a filter or a prefix"))?;
        into.prefix = prefix.as_bytes().to_vec();
        return Ok(());
    };
    let mut prefixes: Vec<&str> = filter.prefix.iter().map(String::as_str).collect();
    let mut tags: Vec<&Tag> = filter.tag.iter().collect();
    let mut over = vec![filter.object_size_greater_than];
    let mut under = vec![filter.object_size_less_than];
    if let Some(and) = &filter.and {
        prefixes.extend(and.prefix.iter().map(String::as_str));
        tags.extend(and.tags.iter().flatten());
        over.push(and.object_size_greater_than);
        under.push(and.object_size_less_than);
    }
    // All that is said must hold; of two prefixes the longer one says both, or neither can.
    prefixes.sort_by_key(|prefix| prefix.len());
    let longest = prefixes.last().copied().unwrap_or_default();
    if !prefixes.iter().all(|prefix| longest.starts_with(prefix)) {
        return Err(malformed("the prefixes of a filter exclude each other"));
    }
    into.prefix = longest.as_bytes().to_vec();
    let mut names = BTreeSet::new();
    for tag in tags {
        let name = tag.key.clone().unwrap_or_default();
        let value = tag.value.clone().unwrap_or_default();
        if name.is_empty() || name.chars().count() > limits::TAG_KEY_CHARS_MAX {
            return Err(invalid_request("the tag of a filter has a key of 1 to 128 characters"));
        }
        if value.chars().count() > limits::TAG_VALUE_CHARS_MAX || !names.insert(name.clone()) {
            return Err(invalid_request("the tags of a filter have keys of their own"));
        }
        into.tags.push((name, value));
    }
    let size =
        |bytes: i64| u64::try_from(bytes).map_err(|_| invalid_argument("sizes are not negative"));
    for bytes in over.into_iter().flatten() {
        into.size_over = into.size_over.max(Some(size(bytes)?));
    }
    for bytes in under.into_iter().flatten() {
        let bytes = size(bytes)?;
        into.size_under = Some(into.size_under.map_or(bytes, |under| under.min(bytes)));
    }
    if let (Some(over), Some(under)) = (into.size_over, into.size_under)
        && over >= under
    {
        return Err(invalid_argument("ObjectSizeLessThan must be above ObjectSizeGreaterThan"));
    }
    Ok(())
}

fn read_expiration(expiration: &LifecycleExpiration, into: &mut Rule) -> S3Result<()> {
    let LifecycleExpiration { date, days, expired_object_delete_marker } = expiration;
    let is_of_keys = into.tags.is_empty() && into.size_over.is_none() && into.size_under.is_none();
    match (date, days, expired_object_delete_marker) {
        (Some(date), None, None) => into.expire = Some(When::Date(midnight(date)?)),
        (None, Some(days), None) => into.expire = Some(When::Days(positive("Days", *days)?)),
        (None, None, Some(_)) if !is_of_keys => {
            return Err(invalid_request("ExpiredObjectDeleteMarker goes with a prefix only"));
        }
        (None, None, Some(markers)) => into.expire_markers = *markers,
        _ => return Err(malformed("an expiration has a date, or days, or is of delete markers")),
    }
    Ok(())
}

fn keep(versions: Option<i32>) -> S3Result<u32> {
    match versions {
        None => Ok(0),
        Some(versions @ 1..=100) => Ok(versions.unsigned_abs()),
        Some(_) => Err(invalid_argument("'NewerNoncurrentVersions' must be from 1 to 100")),
    }
}

fn read_transitions(rule: &LifecycleRule, into: &mut Rule) -> S3Result<()> {
    for transition in rule.transitions.iter().flatten() {
        let when = match (&transition.date, transition.days) {
            (Some(date), None) => When::Date(midnight(date)?),
            (None, Some(days)) => When::Days(
                u32::try_from(days)
                    .map_err(|_| invalid_argument("'Days' of a transition must not be negative"))?,
            ),
            _ => return Err(malformed("a transition has a date or days")),
        };
        if let (When::Days(days), Some(When::Days(expire))) = (when, into.expire)
            && expire <= days
        {
            return Err(invalid_argument("'Days' of an expiration must be above a transition's"));
        }
        into.moves.push((when, class(transition.storage_class.as_ref())?));
    }
    for transition in rule.noncurrent_version_transitions.iter().flatten() {
        let days = transition.noncurrent_days.unwrap_or(0);
        let days = u32::try_from(days)
            .map_err(|_| invalid_argument("'NoncurrentDays' must not be negative"))?;
        if into.expire_noncurrent.is_some_and(|expire| expire.days <= days) {
            let text = "'NoncurrentDays' of an expiration must be above a transition's";
            return Err(invalid_argument(text));
        }
        let when = Noncurrent { days, keep: keep(transition.newer_noncurrent_versions)? };
        into.moves_noncurrent.push((when, class(transition.storage_class.as_ref())?));
    }
    Ok(())
}

/// Checks a rule; `None`: it is not in force.
fn read_rule(rule: &LifecycleRule) -> S3Result<Option<Rule>> {
    let mut into = Rule { id: rule.id.clone().unwrap_or_default(), ..Rule::default() };
    let is_enabled = match rule.status.as_str() {
        ExpirationStatus::ENABLED => true,
        ExpirationStatus::DISABLED => false,
        _ => return Err(malformed("a rule is Enabled or Disabled")),
    };
    read_filter(rule, &mut into)?;
    if let Some(expiration) = &rule.expiration {
        read_expiration(expiration, &mut into)?;
    }
    if let Some(expiration) = &rule.noncurrent_version_expiration {
        let days = expiration
            .noncurrent_days
            .ok_or_else(|| malformed("NoncurrentVersionExpiration has NoncurrentDays"))?;
        let days = positive("NoncurrentDays", days)?;
        let keep = keep(expiration.newer_noncurrent_versions)?;
        into.expire_noncurrent = Some(Noncurrent { days, keep });
    }
    if let Some(abort) = &rule.abort_incomplete_multipart_upload {
        let days = abort
            .days_after_initiation
            .ok_or_else(|| malformed("AbortIncompleteMultipartUpload has DaysAfterInitiation"))?;
        if !into.tags.is_empty() || into.size_over.is_some() || into.size_under.is_some() {
            let text = "AbortIncompleteMultipartUpload goes with a prefix only";
            return Err(invalid_request(text));
        }
        into.abort_uploads_days = Some(positive("DaysAfterInitiation", days)?);
    }
    read_transitions(rule, &mut into)?;
    let acts = rule.expiration.is_some()
        || rule.noncurrent_version_expiration.is_some()
        || rule.abort_incomplete_multipart_upload.is_some()
        || !into.moves.is_empty()
        || !into.moves_noncurrent.is_empty();
    if !acts {
        return Err(invalid_request("At least one action needs to be specified in a rule"));
    }
    Ok(is_enabled.then_some(into))
}

/// Gives rules without a name one, and refuses those that share one.
fn name(rules: &mut [LifecycleRule]) -> S3Result<()> {
    let mut names = BTreeSet::new();
    for rule in rules.iter() {
        let Some(id) = rule.id.as_ref().filter(|id| !id.is_empty()) else { continue };
        if id.chars().count() > limits::LIFECYCLE_ID_CHARS_MAX {
            return Err(invalid_argument("ID length should not exceed allowed limit of 255"));
        }
        if !names.insert(id.clone()) {
            return Err(invalid_argument(
                "Rule ID must be unique. Found same ID for more than one rule",
            ));
        }
    }
    let mut free = (1..).map(|n: u64| format!("rule-{n}")).filter(|id| !names.contains(id));
    for rule in rules.iter_mut().filter(|rule| rule.id.as_ref().is_none_or(String::is_empty)) {
        rule.id = free.next();
    }
    Ok(())
}

/// Checks and compiles a configuration, whose rules all have names then.
fn compile(
    configuration: &mut BucketLifecycleConfiguration,
    minimum: Option<&TransitionDefaultMinimumObjectSize>,
) -> S3Result<Lifecycle> {
    if !(1..=limits::LIFECYCLE_RULES_MAX).contains(&configuration.rules.len()) {
        return Err(malformed("there are 1 to 1000 rules"));
    }
    name(&mut configuration.rules)?;
    let mut rules = Vec::new();
    for rule in &configuration.rules {
        rules.extend(read_rule(rule)?);
    }
    let moved_bytes_min = match minimum.map(TransitionDefaultMinimumObjectSize::as_str) {
        None | Some(TransitionDefaultMinimumObjectSize::VARIES_BY_STORAGE_CLASS) => 0,
        Some(TransitionDefaultMinimumObjectSize::ALL_STORAGE_CLASSES_128K) => SMALL_BYTES,
        Some(_) => return Err(invalid_argument("x-amz-transition-default-minimum-object-size")),
    };
    Ok(Lifecycle { day_ms: DAY_MS, moved_bytes_min, rules })
}

/// No class of this grid has a least size: what is small is moved unless the owner says otherwise.
fn minimum(moved_bytes_min: u64) -> Option<TransitionDefaultMinimumObjectSize> {
    let name = match moved_bytes_min {
        0 => TransitionDefaultMinimumObjectSize::VARIES_BY_STORAGE_CLASS,
        _ => TransitionDefaultMinimumObjectSize::ALL_STORAGE_CLASSES_128K,
    };
    Some(TransitionDefaultMinimumObjectSize::from_static(name))
}

/// `x-amz-expiration`: when a current version will expire, and by which rule.
pub(super) fn expiration(
    rules: &BucketRules,
    key: &str,
    size: u64,
    tags: &[(String, String)],
    modified: UnixMillis,
) -> Option<String> {
    let (at, rule) = rules.lifecycle()?.expires(key.as_bytes(), size, tags, modified.0)?;
    let mut date = Vec::new();
    timestamp(UnixMillis(at)).format(TimestampFormat::HttpDate, &mut date).ok()?;
    let date = String::from_utf8(date).ok()?;
    let id: String = form_urlencoded::byte_serialize(rule.id.as_bytes()).collect();
    Some(format!("expiry-date=\"{date}\", rule-id=\"{id}\""))
}

/// `x-amz-abort-date` and `x-amz-abort-rule-id`: when an upload will be aborted, and by which rule.
pub(super) fn abortion(
    rules: &BucketRules,
    key: &str,
    initiated: UnixMillis,
) -> (Option<Timestamp>, Option<String>) {
    let aborts = rules.lifecycle().and_then(|rules| rules.aborts(key.as_bytes(), initiated.0));
    match aborts {
        Some((at, rule)) => (Some(timestamp(UnixMillis(at))), Some(rule.id.clone())),
        None => (None, None),
    }
}

#[async_trait]
impl Handle<PutBucketLifecycleConfigurationInput, PutBucketLifecycleConfigurationOutput>
    for Handlers
{
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<PutBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
        let input = request.input;
        let mut configuration =
            input.lifecycle_configuration.ok_or_else(|| malformed("there is no configuration"))?;
        let rules =
            compile(&mut configuration, input.transition_default_minimum_object_size.as_ref())?;
        let text = xml(&configuration)?;
        let record = rules.encode();
        if record.len() > limits::LIFECYCLE_BYTES_MAX
            || text.len() > limits::LIFECYCLE_TEXT_BYTES_MAX
        {
            return Err(malformed("the rules are too long altogether"));
        }
        let least = minimum(rules.moved_bytes_min);
        // Asked first: a refusal between the two would leave them different.
        self.may_lay_down(&caller)?;
        let set = self.store.set_lifecycle(&input.bucket, Some((rules, text))).await;
        set.map_err(from_grid)?;
        let info = &caller.bucket_rules()?.info;
        let set = self.rules.set(info, vec![(Kind::Lifecycle, Some(record))]).await;
        set.map_err(from_grid)?;
        Ok(S3Response::new(PutBucketLifecycleConfigurationOutput {
            transition_default_minimum_object_size: least,
        }))
    }
}

#[async_trait]
impl Handle<GetBucketLifecycleConfigurationInput, GetBucketLifecycleConfigurationOutput>
    for Handlers
{
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        let text = self.store.lifecycle(&request.input.bucket).await.map_err(from_grid)?;
        let text = text.ok_or_else(|| {
            let message = "The lifecycle configuration does not exist";
            custom("NoSuchLifecycleConfiguration", StatusCode::NOT_FOUND, message)
        })?;
        let configuration: BucketLifecycleConfiguration = read_xml(&text)?;
        let known = caller.bucket_rules()?.lifecycle();
        let output = GetBucketLifecycleConfigurationOutput {
            rules: Some(configuration.rules),
            transition_default_minimum_object_size: minimum(
                known.map_or(0, |rules| rules.moved_bytes_min),
            ),
        };
        Ok(S3Response::new(output))
    }
}

#[async_trait]
impl Handle<DeleteBucketLifecycleInput, DeleteBucketLifecycleOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<DeleteBucketLifecycleInput>,
    ) -> S3Result<S3Response<DeleteBucketLifecycleOutput>> {
        self.may_lay_down(&caller)?;
        self.store.set_lifecycle(&request.input.bucket, None).await.map_err(from_grid)?;
        let info = &caller.bucket_rules()?.info;
        let set = self.rules.set(info, vec![(Kind::Lifecycle, None)]).await;
        set.map_err(from_grid)?;
        Ok(S3Response::with_status(DeleteBucketLifecycleOutput::default(), StatusCode::NO_CONTENT))
    }
}
