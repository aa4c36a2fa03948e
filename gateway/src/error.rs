//! Errors: this crate's own, and the one table from the grid's errors to S3's answers.

use http::{HeaderMap, HeaderValue, StatusCode};
use nexusgrid_grid::{GridError, Reject, RejectKind};
use s3s::{S3Error, S3ErrorCode};

use crate::identity::DirectoryError;
use crate::limits;

/// Why a listener or service could not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The digest threads cannot be started.
    #[error(transparent)]
    Digest(#[from] crate::digest::PoolError),
    /// The configured domain is none.
    #[error("not a domain name for virtual-hosted buckets: {0}")]
    Domain(String),
    /// The admin listener is reachable by others and would serve metrics to anyone.
    #[error("the admin address {0} is not a loopback address: set an admin token")]
    AdminTokenMissing(std::net::SocketAddr),
}

/// What a client is told: S3's code, its HTTP status, and whether trying again makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// S3's error code.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// Whether a `Retry-After` goes with it.
    pub retry: bool,
}

const fn answer(code: &'static str, status: u16) -> Answer {
    Answer { code, status, retry: false }
}

const fn retry(code: &'static str) -> Answer {
    Answer { code, status: 503, retry: true }
}

/// The table. No wildcard arm: a new error of the grid must be given its answer here.
pub fn answer_to(error: &GridError) -> Answer {
    match error {
        GridError::NoSuchBucket => answer("NoSuchBucket", 404),
        GridError::BucketExists { .. } => answer("BucketAlreadyExists", 409),
        GridError::BucketNotEmpty => answer("BucketNotEmpty", 409),
        GridError::InvalidBucketName(_) => answer("InvalidBucketName", 400),
        GridError::NoSuchKey => answer("NoSuchKey", 404),
        GridError::NoSuchVersion => answer("NoSuchVersion", 404),
        // Asked for by its version it is told otherwise, where that is known.
        GridError::DeleteMarker { .. } => answer("NoSuchKey", 404),
        GridError::Locked => answer("AccessDenied", 403),
        GridError::NoLock => answer("InvalidRequest", 400),
        GridError::BucketState => answer("InvalidBucketState", 409),
        GridError::WrongOffset { .. } => answer("InvalidWriteOffset", 400),
        GridError::TooManyAppends => answer("TooManyParts", 400),
        GridError::KeyTooLong => answer("KeyTooLongError", 400),
        GridError::NoSuchUpload => answer("NoSuchUpload", 404),
        GridError::InvalidPart { .. } => answer("InvalidPart", 400),
        GridError::InvalidPartOrder => answer("InvalidPartOrder", 400),
        GridError::PreconditionFailed => answer("PreconditionFailed", 412),
        GridError::InvalidRange { .. } => answer("InvalidRange", 416),
        GridError::PartTooSmall { .. } => answer("EntityTooSmall", 400),
        GridError::MetadataTooLarge { .. } => answer("MetadataTooLarge", 400),
        GridError::TooLarge { .. } => answer("EntityTooLarge", 400),
        GridError::InvalidArgument(_) => answer("InvalidArgument", 400),
        GridError::QuotaExceeded => answer("QuotaExceeded", 403),
        // S3 has no code for this; 507 is WebDAV's, and clients do not repeat it.
        GridError::Full => answer("InsufficientStorage", 507),
        GridError::Rejected(reject) => answer_to_reject(reject.kind),
        GridError::Conflict => answer("OperationAborted", 409),
        GridError::SlowDown => retry("SlowDown"),
        GridError::Unavailable(_) | GridError::Unreadable(_) | GridError::Stopping => {
            retry("ServiceUnavailable")
        }
        GridError::DataLost(_) | GridError::NoKeys | GridError::Internal(_) => {
            answer("InternalError", 500)
        }
    }
}

/// The answers to bodies that this crate itself refuses.
pub fn answer_to_reject(kind: RejectKind) -> Answer {
    match kind {
        RejectKind::BadDigest => answer("BadDigest", 400),
        RejectKind::ContentHashMismatch => answer("XAmzContentSHA256Mismatch", 400),
        RejectKind::SignatureMismatch => answer("SignatureDoesNotMatch", 403),
        RejectKind::IncompleteBody => answer("IncompleteBody", 400),
        RejectKind::Timeout => answer("RequestTimeout", 400),
        RejectKind::TooLarge => answer("EntityTooLarge", 400),
        RejectKind::PartTooSmall => answer("EntityTooSmall", 400),
        RejectKind::InvalidRequest => answer("InvalidRequest", 400),
    }
}

fn code(text: &'static str) -> S3ErrorCode {
    S3ErrorCode::from_bytes(text.as_bytes()).unwrap_or(S3ErrorCode::InternalError)
}

fn build(answer: Answer, message: String) -> S3Error {
    let mut error = S3Error::with_message(code(answer.code), message);
    if let Ok(status) = StatusCode::from_u16(answer.status) {
        error.set_status_code(status);
    }
    if answer.retry {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::RETRY_AFTER, HeaderValue::from(limits::RETRY_AFTER_SECONDS));
        error.set_headers(headers);
    }
    error
}

/// The S3 error for an error of the grid.
pub fn from_grid(error: GridError) -> S3Error {
    let message = match &error {
        // The text of these is for operators: it names nodes and drives.
        GridError::Unavailable(_) => "Not enough of the grid can be reached. Try again.".to_owned(),
        GridError::Unreadable(_) => {
            "Not enough of this object can be reached now. Try again.".to_owned()
        }
        GridError::DataLost(_) | GridError::Internal(_) | GridError::NoKeys => {
            "We encountered an internal error.".to_owned()
        }
        GridError::Rejected(reject) => reject.message.clone(),
        GridError::SlowDown => "Please reduce your request rate.".to_owned(),
        other => other.to_string(),
    };
    match &error {
        GridError::DataLost(_) | GridError::Internal(_) | GridError::NoKeys => {
            tracing::error!(error = %error, "request failed");
        }
        GridError::Unavailable(_) | GridError::Unreadable(_) => {
            tracing::warn!(error = %error, "request not served");
        }
        _ => {}
    }
    let mut answered = build(answer_to(&error), message);
    if let GridError::InvalidRange { size } = error {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}")) {
            headers.insert(http::header::CONTENT_RANGE, value);
        }
        answered.set_headers(headers);
    }
    answered
}

/// A refusal of a request, before any body is read.
pub fn refuse(kind: RejectKind, message: impl Into<String>) -> S3Error {
    from_grid(GridError::Rejected(Reject { kind, message: message.into() }))
}

/// `InvalidArgument`.
pub fn invalid_argument(message: impl Into<String>) -> S3Error {
    from_grid(GridError::InvalidArgument(message.into()))
}

/// What S3 has and this grid has not: said plainly, never ignored.
pub fn not_implemented(what: impl std::fmt::Display) -> S3Error {
    S3Error::with_message(
        S3ErrorCode::NotImplemented,
        format!("{what} is not supported by this grid"),
    )
}

/// The answer where identities cannot be looked up.
pub fn unavailable(error: DirectoryError) -> S3Error {
    match error {
        DirectoryError::Grid(error) => from_grid(error),
        DirectoryError::Unreadable(what) => from_grid(GridError::Internal(what)),
    }
}

/// An error of S3 that the table above has not.
pub fn custom(code: &'static str, status: StatusCode, message: &str) -> S3Error {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    let mut error = S3Error::with_message(code, message.to_owned());
    error.set_status_code(status);
    error
}

/// `AccessDenied`. Says no reason: the log has it.
pub fn access_denied() -> S3Error {
    S3Error::new(S3ErrorCode::AccessDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_error() -> Vec<GridError> {
        let text = || "x".to_owned();
        let mut errors = vec![
            GridError::NoSuchBucket,
            GridError::BucketExists { owner: text() },
            GridError::BucketNotEmpty,
            GridError::InvalidBucketName(text()),
            GridError::NoSuchKey,
            GridError::NoSuchVersion,
            GridError::DeleteMarker {
                version: nexusgrid_grid::VersionName::Null,
                modified: nexusgrid_env::UnixMillis(1),
            },
            GridError::Locked,
            GridError::NoLock,
            GridError::BucketState,
            GridError::WrongOffset { size: 1 },
            GridError::TooManyAppends,
            GridError::KeyTooLong,
            GridError::NoSuchUpload,
            GridError::InvalidPart { number: 1 },
            GridError::InvalidPartOrder,
            GridError::PreconditionFailed,
            GridError::InvalidRange { size: 7 },
            GridError::PartTooSmall { number: 1, size: 1 },
            GridError::MetadataTooLarge { limit: 1 },
            GridError::TooLarge { limit: 1 },
            GridError::InvalidArgument(text()),
            GridError::QuotaExceeded,
            GridError::Full,
            GridError::Conflict,
            GridError::SlowDown,
            GridError::Unavailable(text()),
            GridError::Unreadable(text()),
            GridError::DataLost(text()),
            GridError::NoKeys,
            GridError::Stopping,
            GridError::Internal(text()),
        ];
        for kind in [
            RejectKind::BadDigest,
            RejectKind::ContentHashMismatch,
            RejectKind::SignatureMismatch,
            RejectKind::IncompleteBody,
            RejectKind::Timeout,
            RejectKind::TooLarge,
            RejectKind::PartTooSmall,
            RejectKind::InvalidRequest,
        ] {
            errors.push(GridError::Rejected(Reject { kind, message: text() }));
        }
        errors
    }

    #[test]
    fn the_table_is_total_and_reaches_the_wire() {
        for error in every_error() {
            let expected = answer_to(&error);
            let built = from_grid(error.clone());
            assert_eq!(built.code().as_str(), expected.code, "{error:?}");
            let status = built.status_code().expect("a status");
            assert_eq!(status.as_u16(), expected.status, "{error:?}");
            assert!(status.is_client_error() || status.is_server_error());
            let retry = built.headers().is_some_and(|h| h.contains_key("retry-after"));
            assert_eq!(retry, expected.retry, "{error:?}");
            assert_eq!(expected.retry, expected.status == 503);
        }
    }

    #[test]
    fn operators_texts_are_not_told_to_clients() {
        for error in [
            GridError::Unavailable("drive n7/d3".into()),
            GridError::Unreadable("drive n7/d3".into()),
            GridError::DataLost("drive n7/d3".into()),
            GridError::Internal("drive n7/d3".into()),
        ] {
            let message = from_grid(error).message().unwrap_or_default().to_owned();
            assert!(!message.contains("n7"), "{message}");
        }
    }

    #[test]
    fn an_unsatisfiable_range_tells_the_size() {
        let error = from_grid(GridError::InvalidRange { size: 42 });
        assert_eq!(error.headers().unwrap()["content-range"], "bytes */42");
    }
}
