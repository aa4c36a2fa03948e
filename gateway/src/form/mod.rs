//! Uploads by HTML form (`POST` with `multipart/form-data` to a bucket).
//!
//! A form is read here and not by s3s, which parses one before it knows who sent it. The fields are
//! read (bounded), then its policy's signature is checked (AWS Signature Version 4; Version 2
//! only where the administrator says so), then the
//! policy itself, then whether its signer may; only then the file is read, as it comes, by the same
//! handler that stores any object. A form without a policy is the anonymous's, whom only a bucket's
//! own rules may allow it.

mod parts;
mod policy;
mod sign;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use nexusgrid_grid::{GridError, Reject, RejectKind};
use nexusgrid_iam::Principal;
use s3s::dto::{PutObjectInput, PutObjectOutput, StreamingBlob, Tagging};
use s3s::host::{S3Host as _, SingleDomain};
use s3s::path::{S3Path, parse_virtual_hosted_style};
use s3s::{Body, S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, StdError};

use crate::auth::{Ask, Doorkeeper, RequestNotes, principal_of};
use crate::context::{PeerAddress, Signature};
use crate::error::{custom, from_grid, invalid_argument};
use crate::limits;
use crate::s3::body::{Refused, reject_of};
use crate::s3::encoding::url_encode;
use crate::s3::{Handlers, read_xml};

use parts::{Fields, FileStream, FormError, Parts};
use policy::{Policy, PolicyError};

/// Whether a request is an upload by form.
pub(crate) fn is_upload(method: &Method, headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let form = b"multipart/form-data";
    method == Method::POST
        && kind.get(..form.len()).is_some_and(|start| start.eq_ignore_ascii_case(form))
}

/// Answers them.
pub(crate) struct Forms {
    pub handlers: Handlers,
    pub door: Doorkeeper,
    /// Under which buckets are names of hosts, too.
    pub host: Option<SingleDomain>,
    /// Whether forms may be signed by Version 2.
    pub takes_version_2: bool,
}

impl From<FormError> for S3Error {
    fn from(error: FormError) -> S3Error {
        let code = match error {
            FormError::Malformed(_) => S3ErrorCode::MalformedPOSTRequest,
            FormError::TooLarge => S3ErrorCode::MaxPostPreDataLengthExceededError,
            FormError::Body(reject) => return from_grid(GridError::Rejected(reject)),
        };
        S3Error::with_message(code, error.to_string())
    }
}

impl From<PolicyError> for S3Error {
    fn from(error: PolicyError) -> S3Error {
        let message = error.to_string();
        match error {
            PolicyError::Invalid(_) => {
                custom("InvalidPolicyDocument", StatusCode::BAD_REQUEST, &message)
            }
            PolicyError::Expired | PolicyError::Failed(_) | PolicyError::Extra(_) => {
                S3Error::with_message(S3ErrorCode::AccessDenied, message)
            }
        }
    }
}

/// The file, as long as its policy lets it be.
struct Measured {
    file: FileStream,
    bytes: u64,
    least: u64,
    most: u64,
}

impl Stream for Measured {
    type Item = Result<Frame<Bytes>, Refused>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let refused = |kind, message: &str| {
            Poll::Ready(Some(Err(Refused(Reject { kind, message: message.to_owned() }))))
        };
        match self.file.poll_next_unpin(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(chunk))) => {
                self.bytes = self.bytes.saturating_add(chunk.len() as u64);
                if self.bytes > self.most {
                    let message = "Your proposed upload exceeds the maximum allowed size";
                    return refused(RejectKind::TooLarge, message);
                }
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            Poll::Ready(Some(Err(reject))) => Poll::Ready(Some(Err(Refused(reject)))),
            Poll::Ready(None) if self.bytes < self.least => {
                self.least = 0;
                let message = "Your proposed upload is smaller than the minimum allowed size";
                refused(RejectKind::PartTooSmall, message)
            }
            Poll::Ready(None) => Poll::Ready(None),
        }
    }
}

/// Fields that say how the form is signed, and are no headers of the object.
const SIGNING: &[&str] = &["x-amz-algorithm", "x-amz-credential", "x-amz-signature"];
/// Fields that are stored as headers of the same name.
const CONTENT: &[&str] = &[
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-md5",
    "content-type",
    "expires",
];
/// Headers of the request that policies may ask about.
const KEPT: &[HeaderName] = &[header::HOST, header::USER_AGENT, header::REFERER, header::ORIGIN];

/// Tags as the header has them.
fn tagging(xml: &str) -> S3Result<String> {
    let tagging: Tagging = read_xml(&Bytes::from(xml.to_owned()))?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    for tag in tagging.tag_set {
        let malformed = || S3Error::new(S3ErrorCode::MalformedXML);
        let (key, value) = tag.key.zip(tag.value).ok_or_else(malformed)?;
        query.append_pair(&key, &value);
    }
    Ok(query.finish())
}

/// The headers that a PUT of the same object would have.
fn headers_of(request: &HeaderMap, fields: &Fields) -> S3Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for name in KEPT {
        if let Some(value) = request.get(name) {
            headers.insert(name, value.clone());
        }
    }
    for (name, value) in fields.iter() {
        let (header, value) = match name {
            "acl" => ("x-amz-acl", value.to_owned()),
            "tagging" => ("x-amz-tagging", tagging(value)?),
            name if CONTENT.contains(&name) => (name, value.to_owned()),
            // A form always gives all of an object.
            "x-amz-write-offset-bytes" => {
                return Err(S3Error::with_message(
                    S3ErrorCode::NotImplemented,
                    "a form does not append",
                ));
            }
            // Version 2 signs no time: what stands there is not the signature's.
            "x-amz-date" if sign::is_version_2(fields) => continue,
            name if name.starts_with("x-amz-") && !SIGNING.contains(&name) => {
                (name, value.to_owned())
            }
            _ => continue,
        };
        let invalid = |what| invalid_argument(format!("the field {name} has an invalid {what}"));
        let header = HeaderName::from_bytes(header.as_bytes()).map_err(|_| invalid("name"))?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| invalid("value"))?;
        headers.insert(header, value);
    }
    Ok(headers)
}

/// The name of the client's file, without the path that some browsers send.
fn base_name(file: &str) -> &str {
    file.rsplit(['/', '\\']).next().unwrap_or(file)
}

/// The key, with the name of the client's file where the form wants it.
fn key_of(key: &str, file_name: &str) -> S3Result<String> {
    const NAME: &str = "${filename}";
    // As long as it will be, before it is made: both lengths are the client's to choose.
    let places = key.matches(NAME).count();
    let rest = key.len() - places * NAME.len();
    if places.saturating_mul(file_name.len()).saturating_add(rest) > limits::KEY_BYTES_MAX {
        return Err(from_grid(GridError::KeyTooLong));
    }
    match key.replace(NAME, file_name) {
        key if key.is_empty() => Err(S3Error::new(S3ErrorCode::UserKeyMustBeSpecified)),
        key => Ok(key),
    }
}

impl Forms {
    /// Answers an upload.
    pub async fn answer<B>(
        &self,
        parts: http::request::Parts,
        body: B,
        notes: &Arc<RequestNotes>,
    ) -> S3Result<Response<Body>>
    where
        B: HttpBody<Data = Bytes, Error = StdError> + Send + 'static,
    {
        let _ = notes.operation.set("PostObject");
        let bucket = self.bucket(&parts)?;
        let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let boundary = kind
            .and_then(parts::boundary)
            .ok_or(FormError::Malformed("the content type names no boundary"))?;
        let source = body.into_data_stream();
        let source = source.map(|chunk| chunk.map_err(|error| reject_of(error.as_ref())));
        let form = Parts::new(Box::pin(source), &boundary);
        let (mut fields, file) = form.fields_within(limits::FORM_READ_TIMEOUT).await?;
        let Some(key) = fields.get("key") else {
            return Err(invalid_argument(
                "Bucket POST must contain a field named 'key'.  If it is specified, please check \
                 the order of the fields.",
            ));
        };
        let name = fields.file_name.as_deref().map_or("", base_name);
        let key = key_of(key, name)?;
        fields.set("key", key.clone());

        let headers = headers_of(&parts.headers, &fields)?;
        let (principal, length) = self.signer(&fields, &headers, &bucket, notes).await?;
        let path = S3Path::object(&bucket, &key);
        let uri: Uri = format!("/{bucket}/{}", url_encode(&key)).parse().unwrap_or_default();
        let peer = parts.extensions.get::<PeerAddress>().copied();
        let signature = match sign::is_version_2(&fields) {
            true => Signature::Form2,
            false => Signature::Form4,
        };
        let ask = Ask { path: &path, headers: &headers, uri: &uri, peer, signature };
        let admitted = self.door.admit_form(principal, &ask, notes).await?;

        let (least, most) = length.unwrap_or((0, u64::MAX));
        let most = most.min(limits::PUT_BYTES_MAX);
        let file = Measured { file, bytes: 0, least, most };
        let body = Body::http_body_unsync(http_body_util::StreamBody::new(file));
        let metadata = fields.iter().filter_map(|(name, value)| {
            Some((name.strip_prefix("x-amz-meta-")?.to_owned(), value.to_owned()))
        });
        let input = PutObjectInput {
            bucket: bucket.clone(),
            key: key.clone(),
            body: Some(StreamingBlob::from(body)),
            metadata: Some(metadata.collect()),
            ..PutObjectInput::default()
        };
        let mut request = S3Request {
            input,
            method: Method::PUT,
            uri,
            headers,
            extensions: http::Extensions::new(),
            credentials: None,
            region: None,
            service: None,
            trailing_headers: None,
        };
        request.extensions.insert(admitted);
        request.extensions.insert(Arc::clone(notes));
        let stored = S3::put_object(&self.handlers, request).await?;
        Ok(reply(&parts.headers, &fields, &bucket, &key, stored))
    }

    fn bucket(&self, parts: &http::request::Parts) -> S3Result<String> {
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let virtual_host = match (&self.host, host) {
            (Some(domain), Some(host)) => Some(domain.parse_host_header(host)?),
            _ => None,
        };
        let bucket = virtual_host.as_ref().and_then(|host| host.bucket());
        match parse_virtual_hosted_style(bucket, parts.uri.path()) {
            Ok(S3Path::Bucket { bucket }) => Ok(bucket.to_string()),
            // A form names its key itself.
            Ok(S3Path::Root | S3Path::Object { .. }) => {
                Err(S3Error::new(S3ErrorCode::MethodNotAllowed))
            }
            Err(_) => Err(S3Error::new(S3ErrorCode::InvalidBucketName)),
        }
    }

    /// Whose form it is, and how long its file may be.
    async fn signer(
        &self,
        fields: &Fields,
        headers: &HeaderMap,
        bucket: &str,
        notes: &RequestNotes,
    ) -> S3Result<(Arc<Principal>, Option<(u64, u64)>)> {
        let Some(encoded) = fields.get("policy") else {
            return match sign::is_signed(fields) {
                true => Err(invalid_argument(
                    "Bucket POST must contain a field named 'policy'.  If it is specified, please \
                     check the order of the fields.",
                )),
                false => Ok((Arc::new(Principal::anonymous()), None)),
            };
        };
        let policy = Policy::parse(&sign::decode(encoded)?)?;
        let now = self.door.clock.wall().0;
        let signature = sign::Signature::of(fields, now, self.takes_version_2)?;
        let secret = self.door.secret(&signature.key).await?;
        if !signature.is_of(secret.expose(), encoded)? {
            return Err(S3Error::new(S3ErrorCode::SignatureDoesNotMatch));
        }
        let _ = notes.key.set(signature.key.clone());
        let uri = Uri::from_static("/");
        let principal = principal_of(&self.door.directory, &signature.key, headers, &uri).await?;
        policy.check(fields, bucket, now)?;
        Ok((principal, policy.length))
    }
}

fn reply(
    request: &HeaderMap,
    fields: &Fields,
    bucket: &str,
    key: &str,
    stored: S3Response<PutObjectOutput>,
) -> Response<Body> {
    let (output, mut headers) = (stored.output, stored.headers);
    let etag = output.e_tag.map(|etag| etag.into_value()).unwrap_or_default();
    let mut say = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    say(header::ETAG, &format!("\"{etag}\""));
    if let Some(version) = &output.version_id {
        say(HeaderName::from_static("x-amz-version-id"), version);
    }
    if let Some(encryption) = &output.server_side_encryption {
        say(HeaderName::from_static("x-amz-server-side-encryption"), encryption.as_str());
    }
    let wanted = fields.get("success_action_redirect").or_else(|| fields.get("redirect"));
    let redirect = wanted.filter(|url| url.starts_with("http://") || url.starts_with("https://"));
    let host = request.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let place = format!("http://{host}/{bucket}/{}", url_encode(key));
    let (status, body) = match (redirect, fields.get("success_action_status")) {
        (Some(url), _) => {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("bucket", bucket).append_pair("key", key);
            query.append_pair("etag", &format!("\"{etag}\""));
            let joint = if url.contains('?') { '&' } else { '?' };
            say(header::LOCATION, &format!("{url}{joint}{}", query.finish()));
            (StatusCode::SEE_OTHER, Body::empty())
        }
        (None, Some("200")) => (StatusCode::OK, Body::empty()),
        (None, Some("201")) => {
            say(header::LOCATION, &place);
            say(header::CONTENT_TYPE, "application/xml");
            let escape = |text: &str| quick_xml::escape::escape(text).into_owned();
            let xml = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<PostResponse><Location>{}</Location>\
                 <Bucket>{}</Bucket><Key>{}</Key><ETag>&quot;{etag}&quot;</ETag></PostResponse>",
                escape(&place),
                escape(bucket),
                escape(key),
            );
            (StatusCode::CREATED, Body::from(xml))
        }
        (None, _) => {
            say(header::LOCATION, &place);
            (StatusCode::NO_CONTENT, Body::empty())
        }
    };
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    *reply.headers_mut() = headers;
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_measured_before_it_is_made() {
        let key = |key: &str, name: &str| {
            key_of(key, name).map_err(|error| error.code().as_str().to_owned())
        };
        assert_eq!(key("a/${filename}/${filename}", "x").as_deref(), Ok("a/x/x"));
        assert_eq!(key("${filename}", ""), Err("UserKeyMustBeSpecified".into()));
        let long = "x".repeat(limits::KEY_BYTES_MAX);
        assert_eq!(key("${filename}", &long).as_deref(), Ok(long.as_str()));
        for (form, name) in
            [("a${filename}", long.as_str()), (&"${filename}".repeat(10_000), "long name")]
        {
            assert_eq!(key(form, name), Err("KeyTooLongError".into()));
        }
    }

    #[test]
    fn what_version_2_says_of_its_time_is_no_header() {
        let date = ("x-amz-date", "20260101T000000Z");
        for (signature, kept) in [("signature", false), ("x-amz-signature", true)] {
            let fields = Fields::of(&[date, (signature, "x")]);
            let headers = headers_of(&HeaderMap::new(), &fields).unwrap();
            assert_eq!(headers.contains_key("x-amz-date"), kept, "{signature}");
        }
    }
}
