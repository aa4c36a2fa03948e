//! The way in: JSON that is posted to `/` with `X-Amz-Target: TrentService.…`, beside the forms of
//! the identity interfaces.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use nexusgrid_iam::AccountId;
use s3s::route::S3Route;
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};
use serde_json::{Map, Value, json};

use super::Kms;
use super::api::{self, Call, Refusal};
use crate::auth::{RequestNotes, principal_of};
use crate::context::{self, PeerAddress};
use crate::identity::Directory;
use crate::identity::route::{FormBody, Identities};

const TARGET: &str = "x-amz-target";
const SERVICE: &str = "TrentService.";

/// Whether a request is one for keys.
pub(crate) fn is_call(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let target = headers.get(TARGET).and_then(|value| value.to_str().ok());
    method == Method::POST
        && uri.path() == "/"
        && target.is_some_and(|target| target.starts_with(SERVICE))
}

/// All that is posted to `/`.
pub(crate) struct Posted {
    pub identities: Identities,
    pub directory: Arc<Directory>,
    pub kms: Arc<Kms>,
}

fn reply(status: StatusCode, value: &Value) -> S3Response<Body> {
    let mut reply = S3Response::with_status(Body::from(value.to_string()), status);
    let kind = HeaderValue::from_static("application/x-amz-json-1.1");
    reply.headers.insert(header::CONTENT_TYPE, kind);
    reply
}

fn refusal(error: &Refusal) -> S3Response<Body> {
    reply(error.status, &json!({ "__type": error.code, "message": error.message }))
}

#[async_trait]
impl S3Route for Posted {
    fn is_match(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        extensions: &mut Extensions,
    ) -> bool {
        is_call(method, uri, headers) || self.identities.is_match(method, uri, headers, extensions)
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        self.identities.check_access(request).await
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        if !is_call(&request.method, &request.uri, &request.headers) {
            return self.identities.call(request).await;
        }
        Ok(match self.answer(&request).await? {
            Ok(value) => reply(StatusCode::OK, &value),
            Err(error) => refusal(&error),
        })
    }
}

impl Posted {
    async fn answer(&self, request: &S3Request<Body>) -> S3Result<Result<Value, Refusal>> {
        let denied = |code, message: &str| {
            let status = StatusCode::FORBIDDEN;
            Ok(Err(Refusal { code, status, message: message.to_owned() }))
        };
        // What was signed for one service is good for no other, and a signed URL covers no body.
        if request.service.as_deref().is_some_and(|signed| signed != "kms") {
            let message = "Credential should be scoped to correct service: 'kms'.";
            return denied("InvalidSignatureException", message);
        }
        let presigned = context::query_pairs(&request.uri)
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("x-amz-signature"));
        let Some(credentials) = request.credentials.as_ref().filter(|_| !presigned) else {
            let message = "Request is missing Authentication Token";
            return denied("MissingAuthenticationTokenException", message);
        };
        let key = credentials.access_key.clone();
        if let Some(notes) = request.extensions.get::<Arc<RequestNotes>>() {
            let _ = notes.key.set(key.clone());
        }
        let body = request.extensions.get::<FormBody>().cloned();
        let FormBody(bytes) = body.ok_or_else(|| S3Error::new(S3ErrorCode::InternalError))?;
        let principal = principal_of(&self.directory, &key, &request.headers, &request.uri).await?;
        let account = principal.account.clone().and_then(|id| AccountId::new(id).ok());
        let over = principal.expires_unix_ms.is_some_and(|end| self.directory.now_ms() >= end);
        let Some(account) = account.filter(|_| principal.enabled && !over) else {
            return denied("AccessDeniedException", "not authorized");
        };
        let parameters = match bytes.is_empty() {
            true => Some(Map::new()),
            false => serde_json::from_slice(&bytes).ok(),
        };
        let Some(parameters) = parameters else {
            return Ok(Err(Refusal::new("SerializationException", "no JSON object")));
        };
        let target = request.headers.get(TARGET).and_then(|value| value.to_str().ok());
        let action = target.and_then(|target| target.strip_prefix(SERVICE)).unwrap_or("");
        let mut context = context::of_caller(&principal, self.directory.now_ms());
        let peer = request.extensions.get::<PeerAddress>().copied();
        context::add_connection(&mut context, peer);
        let call = Call {
            kms: &self.kms,
            principal: &principal,
            account,
            action,
            parameters: &parameters,
            context: &context,
        };
        Ok(api::run(&call).await)
    }
}
