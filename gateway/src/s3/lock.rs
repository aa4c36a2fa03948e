//! Object lock: a bucket's rules, retention and legal hold. The metadata enforces them.

use async_trait::async_trait;
use http::HeaderMap;
use nexusgrid_env::UnixMillis;
use nexusgrid_grid::{
    DefaultRetention as DefaultRule, GridError, LockRules, ObjectInfo, ObjectLock, ObjectMeta,
    Retention, RetentionMode, RetentionPeriod, RulesChange, VersionChange, VersionName,
};
use nexusgrid_iam::{Action, Resource};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::conditions::timestamp_ms;
use super::versions::{read_error, version_name};
use super::{Handle, Handlers};
use crate::auth::AuthenticatedRequest;
use crate::error::{from_grid, invalid_argument};

fn malformed() -> S3Error {
    S3Error::new(S3ErrorCode::MalformedXML)
}

fn mode(text: &str) -> Option<RetentionMode> {
    match text {
        "GOVERNANCE" => Some(RetentionMode::Governance),
        "COMPLIANCE" => Some(RetentionMode::Compliance),
        _ => None,
    }
}

/// A mode in S3's words.
pub(super) fn mode_text(mode: RetentionMode) -> &'static str {
    match mode {
        RetentionMode::Governance => "GOVERNANCE",
        RetentionMode::Compliance => "COMPLIANCE",
    }
}

/// Whether there is a hold, in S3's words.
pub(super) fn hold_text(held: bool) -> &'static str {
    if held { "ON" } else { "OFF" }
}

/// A time after 1970, in milliseconds.
pub(super) fn millis(time: &Timestamp) -> S3Result<UnixMillis> {
    let invalid = || invalid_argument("the time is none that can be kept");
    let mut text = Vec::new();
    time.format(TimestampFormat::EpochSeconds, &mut text).map_err(|_| invalid())?;
    let text = String::from_utf8(text).map_err(|_| invalid())?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let seconds: u64 = seconds.parse().map_err(|_| invalid())?;
    let fraction: String = fraction.chars().chain("000".chars()).take(3).collect();
    let fraction: u64 = fraction.parse().map_err(|_| invalid())?;
    Ok(UnixMillis(seconds.saturating_mul(1_000).saturating_add(fraction)))
}

/// Reads the headers that lock a new version.
pub(super) fn lock_of_headers(headers: &HeaderMap) -> S3Result<ObjectLock> {
    let header = |name: &str| match headers.get(name).map(|value| value.to_str()) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text)),
        Some(Err(_)) => Err(invalid_argument(format!("the header {name} is not text"))),
    };
    let retention = match (
        header("x-amz-object-lock-mode")?,
        header("x-amz-object-lock-retain-until-date")?,
    ) {
        (None, None) => None,
        (Some(wanted), Some(until)) => {
            let mode =
                mode(wanted).ok_or_else(|| invalid_argument("Unknown wormMode directive."))?;
            let until = Timestamp::parse(TimestampFormat::DateTime, until).map_err(|_| {
                invalid_argument("The retain until date must be provided in ISO 8601 format")
            })?;
            Some(Retention { mode, until: millis(&until)? })
        }
        _ => {
            return Err(invalid_argument(
                "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied",
            ));
        }
    };
    let legal_hold = match header("x-amz-object-lock-legal-hold")? {
        None | Some("OFF") => false,
        Some("ON") => true,
        Some(_) => return Err(invalid_argument("Legal Hold must be either of 'ON' or 'OFF'")),
    };
    Ok(ObjectLock { retention, legal_hold })
}

/// Sets a reply's three lock fields.
macro_rules! show_lock {
    ($output:expr, $lock:expr) => {{
        let lock: nexusgrid_grid::ObjectLock = $lock;
        $output.object_lock_mode = lock
            .retention
            .map(|kept| ObjectLockMode::from_static(super::lock::mode_text(kept.mode)));
        $output.object_lock_retain_until_date =
            lock.retention.map(|kept| super::conditions::timestamp_ms(kept.until));
        $output.object_lock_legal_hold_status = lock
            .legal_hold
            .then(|| ObjectLockLegalHoldStatus::from_static(super::lock::hold_text(true)));
    }};
}
pub(super) use show_lock;

/// Whether the caller may, and does, set governance aside.
pub(super) fn bypass_of(
    caller: &AuthenticatedRequest,
    asked: Option<bool>,
    bucket: &str,
    key: &str,
) -> S3Result<bool> {
    if asked != Some(true) {
        return Ok(false);
    }
    caller.require(Action::BypassGovernance, &Resource::Object { bucket, key })?;
    Ok(true)
}

/// Whether the caller may say what it says of a new version: tags and locks have rights of their own.
pub(super) fn check_said(
    caller: &AuthenticatedRequest,
    meta: &ObjectMeta,
    bucket: &str,
    key: &str,
) -> S3Result<()> {
    let said = [
        (!meta.tags.is_empty(), Action::PutObjectTagging),
        (meta.lock.retention.is_some(), Action::PutObjectRetention),
        (meta.lock.legal_hold, Action::PutObjectLegalHold),
    ];
    for (is_said, action) in said {
        if is_said {
            caller.require(action, &Resource::Object { bucket, key })?;
        }
    }
    Ok(())
}

fn period(rule: &DefaultRetention) -> S3Result<RetentionPeriod> {
    let number = |number: i32| match u32::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err({
            let mut error = S3Error::with_message(
                S3ErrorCode::from_bytes(b"InvalidRetentionPeriod")
                    .unwrap_or(S3ErrorCode::InvalidArgument),
                "Default retention period must be a positive integer value.",
            );
            error.set_status_code(http::StatusCode::BAD_REQUEST);
            error
        }),
    };
    match (rule.days, rule.years) {
        (Some(days), None) => Ok(RetentionPeriod::Days(number(days)?)),
        (None, Some(years)) => Ok(RetentionPeriod::Years(number(years)?)),
        _ => Err(malformed()),
    }
}

#[async_trait]
impl Handle<GetObjectLockConfigurationInput, GetObjectLockConfigurationOutput> for Handlers {
    async fn handle(
        &self,
        _caller: AuthenticatedRequest,
        request: S3Request<GetObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<GetObjectLockConfigurationOutput>> {
        let rules = self.store.version_rules(&request.input.bucket).await.map_err(from_grid)?;
        let Some(lock) = rules.lock else {
            let mut error = S3Error::new(S3ErrorCode::ObjectLockConfigurationNotFoundError);
            error.set_status_code(http::StatusCode::NOT_FOUND);
            return Err(error);
        };
        let rule = lock.default.map(|default| {
            let (days, years) = match default.period {
                RetentionPeriod::Days(days) => (i32::try_from(days).ok(), None),
                RetentionPeriod::Years(years) => (None, i32::try_from(years).ok()),
            };
            let mode = Some(ObjectLockRetentionMode::from_static(mode_text(default.mode)));
            ObjectLockRule { default_retention: Some(DefaultRetention { days, mode, years }) }
        });
        let enabled = ObjectLockEnabled::from_static(ObjectLockEnabled::ENABLED);
        let configuration = ObjectLockConfiguration { object_lock_enabled: Some(enabled), rule };
        Ok(S3Response::new(GetObjectLockConfigurationOutput {
            object_lock_configuration: Some(configuration),
        }))
    }
}

#[async_trait]
impl Handle<PutObjectLockConfigurationInput, PutObjectLockConfigurationOutput> for Handlers {
    async fn handle(
        &self,
        _caller: AuthenticatedRequest,
        request: S3Request<PutObjectLockConfigurationInput>,
    ) -> S3Result<S3Response<PutObjectLockConfigurationOutput>> {
        let input = request.input;
        let wanted = input.object_lock_configuration.ok_or_else(malformed)?;
        let enabled = wanted.object_lock_enabled.as_ref().map(ObjectLockEnabled::as_str);
        if enabled != Some(ObjectLockEnabled::ENABLED) {
            return Err(malformed());
        }
        let default = match wanted.rule {
            None => None,
            Some(rule) => {
                let rule = rule.default_retention.ok_or_else(malformed)?;
                let text = rule.mode.as_ref().map(ObjectLockRetentionMode::as_str);
                let mode = text.and_then(mode).ok_or_else(malformed)?;
                Some(DefaultRule { mode, period: period(&rule)? })
            }
        };
        let change = RulesChange::Lock(LockRules { default });
        self.store.set_version_rules(&input.bucket, change).await.map_err(from_grid)?;
        Ok(S3Response::new(PutObjectLockConfigurationOutput::default()))
    }
}

impl Handlers {
    /// A version in a bucket that has locks.
    async fn lockable(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
    ) -> S3Result<ObjectInfo> {
        let rules = self.store.version_rules(bucket).await.map_err(from_grid)?;
        if rules.lock.is_none() {
            return Err(from_grid(GridError::NoLock));
        }
        let found = self.store.head(bucket, key, version).await;
        found.map_err(|error| read_error(error, version))
    }

    async fn change_lock(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
        change: VersionChange,
    ) -> S3Result<()> {
        let changed = self.store.change_version(bucket, key, version, change).await;
        changed.map(|_| ()).map_err(|error| read_error(error, version))
    }
}

/// A version has no lock of this kind.
fn not_locked() -> S3Error {
    let mut error = S3Error::new(S3ErrorCode::NoSuchObjectLockConfiguration);
    error.set_status_code(http::StatusCode::NOT_FOUND);
    error
}

#[async_trait]
impl Handle<GetObjectRetentionInput, GetObjectRetentionOutput> for Handlers {
    async fn handle(
        &self,
        _caller: AuthenticatedRequest,
        request: S3Request<GetObjectRetentionInput>,
    ) -> S3Result<S3Response<GetObjectRetentionOutput>> {
        let input = request.input;
        let version = version_name(input.version_id.as_deref())?;
        let object = self.lockable(&input.bucket, &input.key, version).await?;
        let kept = object.meta.lock.retention.ok_or_else(not_locked)?;
        let mode = Some(ObjectLockRetentionMode::from_static(mode_text(kept.mode)));
        let retain_until_date = Some(timestamp_ms(kept.until));
        let retention = Some(ObjectLockRetention { mode, retain_until_date });
        Ok(S3Response::new(GetObjectRetentionOutput { retention }))
    }
}

#[async_trait]
impl Handle<PutObjectRetentionInput, PutObjectRetentionOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<PutObjectRetentionInput>,
    ) -> S3Result<S3Response<PutObjectRetentionOutput>> {
        let input = request.input;
        let version = version_name(input.version_id.as_deref())?;
        let asked = input.bypass_governance_retention;
        let bypass = bypass_of(&caller, asked, &input.bucket, &input.key)?;
        let wanted = input.retention.ok_or_else(malformed)?;
        let text = wanted.mode.as_ref().map(ObjectLockRetentionMode::as_str);
        let retention = match (text, &wanted.retain_until_date) {
            // Taken off, if the version may be without.
            (None, None) => None,
            (Some(text), Some(until)) => {
                let mode = mode(text).ok_or_else(malformed)?;
                Some(Retention { mode, until: millis(until)? })
            }
            _ => return Err(malformed()),
        };
        let change = VersionChange::Retention { retention, bypass };
        self.change_lock(&input.bucket, &input.key, version, change).await?;
        Ok(S3Response::new(PutObjectRetentionOutput::default()))
    }
}

#[async_trait]
impl Handle<GetObjectLegalHoldInput, GetObjectLegalHoldOutput> for Handlers {
    async fn handle(
        &self,
        _caller: AuthenticatedRequest,
        request: S3Request<GetObjectLegalHoldInput>,
    ) -> S3Result<S3Response<GetObjectLegalHoldOutput>> {
        let input = request.input;
        let version = version_name(input.version_id.as_deref())?;
        let object = self.lockable(&input.bucket, &input.key, version).await?;
        let status = hold_text(object.meta.lock.legal_hold);
        let status = Some(ObjectLockLegalHoldStatus::from_static(status));
        let legal_hold = Some(ObjectLockLegalHold { status });
        Ok(S3Response::new(GetObjectLegalHoldOutput { legal_hold }))
    }
}

#[async_trait]
impl Handle<PutObjectLegalHoldInput, PutObjectLegalHoldOutput> for Handlers {
    async fn handle(
        &self,
        _caller: AuthenticatedRequest,
        request: S3Request<PutObjectLegalHoldInput>,
    ) -> S3Result<S3Response<PutObjectLegalHoldOutput>> {
        let input = request.input;
        let version = version_name(input.version_id.as_deref())?;
        let status = input.legal_hold.and_then(|hold| hold.status).ok_or_else(malformed)?;
        let held = match status.as_str() {
            ObjectLockLegalHoldStatus::ON => true,
            ObjectLockLegalHoldStatus::OFF => false,
            _ => return Err(malformed()),
        };
        let change = VersionChange::LegalHold(held);
        self.change_lock(&input.bucket, &input.key, version, change).await?;
        Ok(S3Response::new(PutObjectLegalHoldOutput::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_all_or_nothing() {
        let read = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            lock_of_headers(&headers)
        };
        let (mode, until) = ("x-amz-object-lock-mode", "x-amz-object-lock-retain-until-date");
        assert_eq!(read(&[]).unwrap(), ObjectLock::default());
        let lock = read(&[(mode, "COMPLIANCE"), (until, "2030-01-01T00:00:00.25Z")]).unwrap();
        let kept = lock.retention.unwrap();
        assert_eq!(kept.until, UnixMillis(1_893_456_000_250));
        assert!(read(&[("x-amz-object-lock-legal-hold", "ON")]).unwrap().legal_hold);
        for bad in [
            &[(mode, "GOVERNANCE")][..],
            &[(until, "2030-01-01T00:00:00Z")],
            &[(mode, "governance"), (until, "2030-01-01T00:00:00Z")],
            &[(mode, "GOVERNANCE"), (until, "tomorrow")],
            &[("x-amz-object-lock-legal-hold", "maybe")],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
