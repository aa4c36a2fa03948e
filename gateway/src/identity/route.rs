//! The way in: forms that are posted to `/`.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use nexusgrid_iam::{AccountId, Principal};
use s3s::route::S3Route;
use s3s::{Body, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::api::{ApiError, Call, Form, Xml};
use super::oidc::Tokens;
use super::{Directory, api, sts, web_identity};
use crate::auth::{RequestNotes, principal_of};
use crate::context::{self, PeerAddress};

/// A form's bytes, read and hashed before its signature is checked.
#[derive(Clone)]
pub(crate) struct FormBody(pub Bytes);

/// Whether a request is a form for the identity interfaces.
pub(crate) fn is_form(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or("").trim();
    method == Method::POST
        && uri.path() == "/"
        && kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// Answers them.
pub(crate) struct Identities {
    pub directory: Arc<Directory>,
    pub tokens: Tokens,
}

const IAM: &str = "https://iam.amazonaws.com/doc/2010-05-08/";
const STS: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

fn reply(status: StatusCode, xml: String) -> S3Response<Body> {
    let mut reply = S3Response::with_status(Body::from(xml), status);
    reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/xml"));
    reply
}

fn refusal(space: &str, request: &str, error: &ApiError) -> S3Response<Body> {
    let kind = if error.status.is_server_error() { "Receiver" } else { "Sender" };
    let mut inside = Xml::default();
    inside.nest("Error", |xml| {
        xml.text("Type", kind).text("Code", error.code).text("Message", &error.message);
    });
    inside.text("RequestId", request);
    let inside = inside.into_string();
    let xml = format!("<ErrorResponse xmlns=\"{space}\">{inside}</ErrorResponse>");
    reply(error.status, xml)
}

#[async_trait]
impl S3Route for Identities {
    fn is_match(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        _: &mut Extensions,
    ) -> bool {
        is_form(method, uri, headers)
    }

    async fn check_access(&self, _request: &mut S3Request<Body>) -> S3Result<()> {
        // Who comes without credentials is refused below, in these interfaces' own words.
        Ok(())
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let body = request.extensions.get::<FormBody>().cloned();
        let notes = request.extensions.get::<Arc<RequestNotes>>().cloned();
        let FormBody(bytes) = body.ok_or_else(|| S3Error::new(S3ErrorCode::InternalError))?;
        let id = notes.as_ref().map(|notes| notes.id.clone()).unwrap_or_default();
        let form = Form::parse(&bytes);
        let action = form.get("Action").unwrap_or("").to_owned();
        let is_sts = sts::ACTIONS.contains(&action.as_str());
        let space = if is_sts { STS } else { IAM };
        // What was signed for one service is good for no other.
        let service = if is_sts { "sts" } else { "iam" };
        if request.service.as_deref().is_some_and(|signed| signed != service) {
            let message = format!("Credential should be scoped to correct service: '{service}'.");
            let error = ApiError::new("SignatureDoesNotMatch", StatusCode::FORBIDDEN, message);
            return Ok(refusal(space, &id, &error));
        }
        let answered = |outcome: Result<Xml, ApiError>| match outcome {
            Ok(xml) => {
                let inside = xml.into_string();
                let xml = format!(
                    "<{action}Response xmlns=\"{space}\"><{action}Result>{inside}</{action}Result>\
                     <ResponseMetadata><RequestId>{id}</RequestId></ResponseMetadata></{action}Response>"
                );
                reply(StatusCode::OK, xml)
            }
            Err(error) => refusal(space, &id, &error),
        };
        let peer = request.extensions.get::<PeerAddress>().copied();
        if action == web_identity::ACTION {
            // A token is what its holder has instead of a key: what else comes does not count.
            let mut context = context::of_caller(&Principal::anonymous(), self.directory.now_ms());
            context::add_connection(&mut context, peer);
            let outcome = web_identity::run(&self.directory, &self.tokens, &form, context).await;
            return Ok(answered(outcome));
        }
        // A URL that was signed covers no body.
        let presigned = context::query_pairs(&request.uri)
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("x-amz-signature"));
        let credentials = request.credentials.as_ref().filter(|_| !presigned);
        let Some(credentials) = credentials else {
            let message = "Request is missing Authentication Token";
            let error = ApiError::new("MissingAuthenticationToken", StatusCode::FORBIDDEN, message);
            return Ok(refusal(space, &id, &error));
        };
        let key = credentials.access_key.clone();
        if let Some(notes) = &notes {
            let _ = notes.key.set(key.clone());
        }
        let principal = principal_of(&self.directory, &key, &request.headers, &request.uri).await?;
        Ok(answered(self.answer(&principal, &action, &form, is_sts, peer).await))
    }
}

impl Identities {
    async fn answer(
        &self,
        principal: &Principal,
        action: &str,
        form: &Form,
        is_sts: bool,
        peer: Option<PeerAddress>,
    ) -> Result<Xml, ApiError> {
        let denied = || ApiError::denied(&principal.arn, action);
        let now = self.directory.now_ms();
        let over = principal.expires_unix_ms.is_some_and(|end| now >= end);
        if !principal.enabled || over {
            return Err(denied());
        }
        let account = principal.account.clone().ok_or_else(denied)?;
        let mut context = context::of_caller(principal, now);
        context::add_connection(&mut context, peer);
        let call = Call {
            directory: &self.directory,
            principal,
            account: AccountId::new(account).map_err(|_| denied())?,
            arns: self.directory.arns().await?,
            action,
            form,
            context,
        };
        if is_sts { sts::run(&call).await } else { api::run(&call).await }
    }
}
