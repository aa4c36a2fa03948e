//! What the identity interfaces refuse, by the codes of the AWS IAM and STS.

use http::StatusCode;

use crate::identity::DirectoryError;

/// A refusal or failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// AWS's code.
    pub code: &'static str,
    /// HTTP status.
    pub status: StatusCode,
    /// For people.
    pub message: String,
}

impl ApiError {
    /// An error.
    pub fn new(code: &'static str, status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError { code, status, message: message.into() }
    }

    /// A parameter is missing or out of its bounds.
    pub fn validation(message: impl Into<String>) -> ApiError {
        ApiError::new("ValidationError", StatusCode::BAD_REQUEST, message)
    }

    /// A value that cannot be.
    pub fn invalid_input(message: impl Into<String>) -> ApiError {
        ApiError::new("InvalidInput", StatusCode::BAD_REQUEST, message)
    }

    /// Not there.
    pub fn no_such(kind: &str, name: &str) -> ApiError {
        let message = format!("The {kind} with name {name} cannot be found.");
        ApiError::new("NoSuchEntity", StatusCode::NOT_FOUND, message)
    }

    /// There already.
    pub fn exists(kind: &str, name: &str) -> ApiError {
        let message = format!("The {kind} with name {name} already exists.");
        ApiError::new("EntityAlreadyExists", StatusCode::CONFLICT, message)
    }

    /// Still holds something.
    pub fn in_use(message: impl Into<String>) -> ApiError {
        ApiError::new("DeleteConflict", StatusCode::CONFLICT, message)
    }

    /// One more than there may be.
    pub fn limit(message: impl Into<String>) -> ApiError {
        ApiError::new("LimitExceeded", StatusCode::CONFLICT, message)
    }

    /// A document that is none.
    pub fn malformed(message: impl Into<String>) -> ApiError {
        ApiError::new("MalformedPolicyDocument", StatusCode::BAD_REQUEST, message)
    }

    /// May not.
    pub fn denied(who: &str, action: &str) -> ApiError {
        let message = format!("User: {who} is not authorized to perform: {action}");
        ApiError::new("AccessDenied", StatusCode::FORBIDDEN, message)
    }

    /// Another change came between, again and again.
    pub fn concurrent() -> ApiError {
        let message = "The request was rejected because of concurrent changes. Try again.";
        ApiError::new("ConcurrentModification", StatusCode::CONFLICT, message)
    }
}

impl From<DirectoryError> for ApiError {
    fn from(error: DirectoryError) -> ApiError {
        tracing::warn!(%error, "identities: request not served");
        match error {
            DirectoryError::Grid(_) => ApiError::new(
                "ServiceUnavailable",
                StatusCode::SERVICE_UNAVAILABLE,
                "Not enough of the grid can be reached. Try again.",
            ),
            DirectoryError::Unreadable(_) => ApiError::new(
                "ServiceFailure",
                StatusCode::INTERNAL_SERVER_ERROR,
                "We encountered an internal error.",
            ),
        }
    }
}
