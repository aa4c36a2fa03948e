//! Tags of objects. The metadata bounds their bytes; S3's rules for their characters are here.

use async_trait::async_trait;
use http::HeaderMap;
use nexusgrid_grid::VersionChange;
use nexusgrid_iam::PrincipalKind;
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::versions::{read_error, version_name};
use super::{Handle, Handlers};
use crate::auth::AuthenticatedRequest;
use crate::error::{invalid_argument, unavailable};
use crate::limits;

fn invalid(message: &'static str) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::InvalidTag, message);
    error.set_status_code(http::StatusCode::BAD_REQUEST);
    error
}

impl Handlers {
    /// Whether tags that the caller sets may have several values, each in a pair of its own: so it is
    /// in the account that is for who comes from Ceph.
    pub(super) async fn repeats_tags(&self, caller: &AuthenticatedRequest) -> S3Result<bool> {
        let principal = caller.principal();
        if principal.kind != PrincipalKind::Root {
            return Ok(principal.is_bare());
        }
        let arns = self.directory.arns().await.map_err(unavailable)?;
        Ok(arns.bare().is_some_and(|bare| principal.account.as_deref() == Some(bare.as_str())))
    }
}

/// Checks tags as S3 does; `repeats`: a tag may have several values.
fn checked(tags: Vec<(String, String)>, repeats: bool) -> S3Result<Vec<(String, String)>> {
    if tags.len() > limits::OBJECT_TAGS_MAX {
        return Err(invalid("Object tags cannot be greater than 10"));
    }
    for (at, (name, value)) in tags.iter().enumerate() {
        if name.is_empty() || name.chars().count() > limits::TAG_KEY_CHARS_MAX {
            return Err(invalid("The TagKey you have provided is invalid"));
        }
        if value.chars().count() > limits::TAG_VALUE_CHARS_MAX {
            return Err(invalid("The TagValue you have provided is invalid"));
        }
        let mut before = tags.iter().take(at);
        let is_repeated = match repeats {
            true => before.any(|other| other == &(name.clone(), value.clone())),
            false => before.any(|(other, _)| other == name),
        };
        if is_repeated {
            return Err(invalid("Cannot provide multiple Tags with the same key"));
        }
        if name.starts_with("aws:") {
            return Err(invalid("System tags cannot be added/updated by requester"));
        }
    }
    Ok(tags)
}

/// One side of a pair of a query: `+` is a space, `%XX` a byte.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Reads `x-amz-tagging`.
pub(super) fn tags_of_header(
    headers: &HeaderMap,
    repeats: bool,
) -> S3Result<Vec<(String, String)>> {
    let Some(value) = headers.get("x-amz-tagging") else { return Ok(Vec::new()) };
    let malformed = || {
        invalid_argument(
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.",
        )
    };
    let text = value.to_str().map_err(|_| malformed())?;
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((unescaped(name)?, unescaped(value)?))
    };
    let pairs: Option<Vec<_>> = text.split('&').filter(|part| !part.is_empty()).map(pair).collect();
    checked(pairs.ok_or_else(malformed)?, repeats)
}

#[async_trait]
impl Handle<GetObjectTaggingInput, GetObjectTaggingOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        let input = request.input;
        let version = version_name(input.version_id.as_deref())?;
        let object = self.store.head(&input.bucket, &input.key, version).await;
        let object = caller.admit(&input.key, version, object)?;
        // In an order of their own: a header's or a document's says nothing.
        let mut tags = object.meta.tags;
        tags.sort();
        Ok(S3Response::new(GetObjectTaggingOutput {
            tag_set: tags
                .into_iter()
                .map(|(key, value)| Tag { key: Some(key), value: Some(value) })
                .collect(),
            version_id: object.version_name.map(|version| version.to_string()),
        }))
    }
}

#[async_trait]
impl Handle<PutObjectTaggingInput, PutObjectTaggingOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<S3Response<PutObjectTaggingOutput>> {
        let input = request.input;
        let version = version_name(input.version_id.as_deref())?;
        let object = self.store.head(&input.bucket, &input.key, version).await;
        let object = caller.admit(&input.key, version, object)?;
        // The very version that was looked at, should another come between.
        let version = version.or(object.version_name);
        let repeats = self.repeats_tags(&caller).await?;
        let malformed = || S3Error::new(S3ErrorCode::MalformedXML);
        let tag = |tag: Tag| Some((tag.key?, tag.value?));
        let tags: Option<Vec<_>> = input.tagging.tag_set.into_iter().map(tag).collect();
        let change = VersionChange::Tags(checked(tags.ok_or_else(malformed)?, repeats)?);
        let changed = self.store.change_version(&input.bucket, &input.key, version, change).await;
        let changed = changed.map_err(|error| read_error(error, version))?;
        let version_id = changed.map(|version| version.to_string());
        Ok(S3Response::new(PutObjectTaggingOutput { version_id }))
    }
}

#[async_trait]
impl Handle<DeleteObjectTaggingInput, DeleteObjectTaggingOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
        let input = request.input;
        let version = version_name(input.version_id.as_deref())?;
        let object = self.store.head(&input.bucket, &input.key, version).await;
        let object = caller.admit(&input.key, version, object)?;
        // The very version that was looked at, should another come between.
        let version = version.or(object.version_name);
        let change = VersionChange::Tags(Vec::new());
        let changed = self.store.change_version(&input.bucket, &input.key, version, change).await;
        let changed = changed.map_err(|error| read_error(error, version))?;
        let version_id = changed.map(|version| version.to_string());
        let output = DeleteObjectTaggingOutput { version_id };
        Ok(S3Response::with_status(output, http::StatusCode::NO_CONTENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_a_query() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-amz-tagging", text.parse().unwrap());
            tags_of_header(&headers, false)
        };
        let tag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let tags = read("a=1&b+c=%26%C3%BC&d").unwrap();
        assert_eq!(tags, [tag("a", "1"), tag("b c", "&ü"), tag("d", "")]);
        assert_eq!(read("").unwrap(), []);
        for bad in ["a=1&a=2", "=x", "%G0=1", "%C3=1", "aws:x=1", "a=%2"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let many: Vec<String> = (0..11).map(|n| format!("k{n}=v")).collect();
        assert!(read(&many.join("&")).is_err());
    }
}
