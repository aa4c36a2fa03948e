//! RenameObject: another key for an object, in one change and without moving a byte.
//!
//! S3 has it in directory buckets; here any bucket has it that keeps no versions. Object, owner,
//! list, tags and dates stay what they are. A client's token is not remembered: whoever repeats a rename
//! that was done hears that there is no such key, and finds the object under the other.

use async_trait::async_trait;
use nexusgrid_grid::{GridError, RejectKind};
use nexusgrid_iam::{Action, Resource};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::acls::check_not_public;
use super::conditions::{Conditions, precondition};
use super::copies::check_source;
use super::object_acls::object_acl;
use super::{Handle, Handlers};
use crate::auth::AuthenticatedRequest;
use crate::error::{from_grid, invalid_argument, refuse};

/// The key that a header names, percent-encoded: `KEY` or `/BUCKET/KEY`. Without the slash before
/// it, what looks like the bucket is the beginning of a key.
fn source_key(header: &str, bucket: &str) -> S3Result<String> {
    let text = percent_decoded(header).filter(|text| !text.contains('\0'));
    let text = text.ok_or_else(|| {
        refuse(RejectKind::InvalidRequest, "x-amz-rename-source is not percent-encoded UTF-8")
    })?;
    let key = match text.strip_prefix('/') {
        Some(path) => {
            path.strip_prefix(bucket).and_then(|rest| rest.strip_prefix('/')).unwrap_or(path)
        }
        None => text.as_str(),
    };
    if key.is_empty() {
        return Err(refuse(RejectKind::InvalidRequest, "x-amz-rename-source names no key"));
    }
    Ok(key.to_owned())
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = std::str::from_utf8(&digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

fn tag(text: Option<String>) -> S3Result<Option<ETagCondition>> {
    let invalid = |_| invalid_argument("a condition on the source is no entity tag");
    text.map(|text| text.parse()).transpose().map_err(invalid)
}

#[async_trait]
impl Handle<RenameObjectInput, RenameObjectOutput> for Handlers {
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<RenameObjectInput>,
    ) -> S3Result<S3Response<RenameObjectOutput>> {
        let input = request.input;
        let source = source_key(&input.rename_source, &input.bucket)?;
        if source == input.key {
            return Err(refuse(RejectKind::InvalidRequest, "the object has that key already"));
        }
        // What is taken away from one key and given to another: both must be allowed.
        let from = Resource::Object { bucket: &input.bucket, key: &source };
        caller.require(Action::DeleteObject, &from)?;
        let rules = caller.bucket_rules()?;
        let object = self.store.head(&input.bucket, &source, None).await;
        let object = object.map_err(|error| caller.read_error(&source, None, error))?;
        caller.admit_of(rules, Action::GetObject, &object)?;
        let conditions = Conditions {
            if_match: tag(input.source_if_match)?,
            if_none_match: tag(input.source_if_none_match)?,
            if_modified_since: input.source_if_modified_since,
            if_unmodified_since: input.source_if_unmodified_since,
        };
        check_source(&conditions, &object)?;
        // What policies rely on is set under the other key, too: tags and a list.
        let to = Resource::Object { bucket: &input.bucket, key: &input.key };
        if !object.meta.tags.is_empty() {
            caller.admit_of(rules, Action::GetObjectTagging, &object)?;
            caller.require(Action::PutObjectTagging, &to)?;
        }
        if rules.has_acls() && !object.meta.acl.is_empty() {
            let acl = object_acl(rules, &object.meta);
            check_not_public(rules, &acl)?;
            let by = rules.for_iam(object.meta.owner.as_deref(), Some(&acl));
            caller.require_by(Action::PutObjectAcl, &to, &by)?;
        }
        let is_conditional = input.destination_if_match.is_some();
        let precondition =
            precondition(input.destination_if_match, input.destination_if_none_match);
        let from = (source.as_str(), object.version);
        let renamed = self.store.rename(&input.bucket, from, &input.key, &precondition).await;
        match renamed {
            Ok(()) => Ok(S3Response::new(RenameObjectOutput::default())),
            Err(GridError::NoSuchKey) => Err(from_grid(GridError::NoSuchKey)),
            Err(error) => {
                Err(self.write_error(error, &input.bucket, &input.key, is_conditional).await)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_named_with_its_bucket_or_without() {
        for text in ["a/b%20c", "/a/b%20c", "/bucket/a/b%20c"] {
            assert_eq!(source_key(text, "bucket").unwrap(), "a/b c", "{text}");
        }
        // A key may begin as its bucket does.
        for text in ["bucket/x", "/bucket/bucket/x"] {
            assert_eq!(source_key(text, "bucket").unwrap(), "bucket/x", "{text}");
        }
        for bad in ["", "/", "/bucket/", "%", "%zz", "%ff"] {
            assert!(source_key(bad, "bucket").is_err(), "{bad}");
        }
    }
}
