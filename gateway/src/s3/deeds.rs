//! What an operation did, as its output tells: for those who are told of it besides its client.

use std::any::Any;
use std::sync::Arc;

use http::HeaderMap;
use s3s::S3Result;
use s3s::dto::*;

use super::Handlers;

use crate::access_log::One;
use crate::auth::RequestNotes;
use crate::context::PeerAddress;
use crate::error::from_grid;
use crate::events::{Doer, Happened};
use crate::rules::BucketRules;

/// What is known of a request to a bucket that tells of what happens to it, before it is done.
#[derive(Debug)]
pub(crate) struct Told {
    rules: Arc<BucketRules>,
    key: String,
    doer: Doer,
    /// Bytes of the body.
    size: Option<u64>,
    /// Whether the query names a version.
    names_version: bool,
}

impl Told {
    /// `None` for buckets that tell nobody.
    pub fn of(
        rules: &Arc<BucketRules>,
        key: Option<&str>,
        (principal, request_id): (&str, &str),
        headers: &HeaderMap,
        peer: Option<PeerAddress>,
        names_version: bool,
    ) -> Option<Told> {
        if rules.events().is_empty() {
            return None;
        }
        let number = |name: &str| headers.get(name)?.to_str().ok()?.parse().ok();
        let doer = Doer {
            principal: principal.to_owned(),
            source: peer.map(|PeerAddress(address)| address.to_canonical().to_string()),
            request_id: request_id.to_owned(),
        };
        let size = number("x-amz-decoded-content-length").or_else(|| number("content-length"));
        let key = key.unwrap_or_default().to_owned();
        Some(Told { rules: Arc::clone(rules), key, doer, size, names_version })
    }
}

fn plain(etag: Option<&ETag>) -> Option<String> {
    etag.map(|etag| etag.value().to_owned())
}

/// What happened, by the output of the operation; nothing where nobody is told.
pub(super) fn happened<T: Any>(notes: &RequestNotes, output: &T) -> Vec<Happened> {
    let is_form = notes.operation.get() == Some(&"PostObject");
    notes.told.get().map_or_else(Vec::new, |told| of_output(told, is_form, output))
}

fn of_output(told: &Told, is_form: bool, output: &dyn Any) -> Vec<Happened> {
    let one = |event, etag: Option<&ETag>, version: Option<&String>, size| {
        let (etag, version) = (plain(etag), version.cloned());
        let key = told.key.clone();
        vec![Happened { event, key, size, etag, version, ..Happened::default() }]
    };
    if let Some(output) = output.downcast_ref::<PutObjectOutput>() {
        let size = output.size.and_then(|size| u64::try_from(size).ok()).or(told.size);
        let event = if is_form { "s3:ObjectCreated:Post" } else { "s3:ObjectCreated:Put" };
        one(event, output.e_tag.as_ref(), output.version_id.as_ref(), size)
    } else if let Some(output) = output.downcast_ref::<CopyObjectOutput>() {
        let etag = output.copy_object_result.as_ref().and_then(|result| result.e_tag.as_ref());
        one("s3:ObjectCreated:Copy", etag, output.version_id.as_ref(), None)
    } else if let Some(output) = output.downcast_ref::<CompleteMultipartUploadOutput>() {
        let event = "s3:ObjectCreated:CompleteMultipartUpload";
        one(event, output.e_tag.as_ref(), output.version_id.as_ref(), None)
    } else if let Some(output) = output.downcast_ref::<DeleteObjectOutput>() {
        let is_marker = output.delete_marker == Some(true) && !told.names_version;
        let event = if is_marker {
            "s3:ObjectRemoved:DeleteMarkerCreated"
        } else {
            "s3:ObjectRemoved:Delete"
        };
        one(event, None, output.version_id.as_ref(), None)
    } else if let Some(output) = output.downcast_ref::<DeleteObjectsOutput>() {
        let deleted = output.deleted.iter().flatten().map(|deleted| {
            let is_marker = deleted.delete_marker == Some(true) && deleted.version_id.is_none();
            let version = deleted.version_id.as_ref().or(deleted.delete_marker_version_id.as_ref());
            Happened {
                event: if is_marker {
                    "s3:ObjectRemoved:DeleteMarkerCreated"
                } else {
                    "s3:ObjectRemoved:Delete"
                },
                key: deleted.key.clone().unwrap_or_default(),
                version: version.cloned(),
                ..Happened::default()
            }
        });
        deleted.collect()
    } else if let Some(output) = output.downcast_ref::<PutObjectTaggingOutput>() {
        one("s3:ObjectTagging:Put", None, output.version_id.as_ref(), None)
    } else if let Some(output) = output.downcast_ref::<DeleteObjectTaggingOutput>() {
        one("s3:ObjectTagging:Delete", None, output.version_id.as_ref(), None)
    } else if output.is::<PutObjectAclOutput>() {
        one("s3:ObjectAcl:Put", None, None, None)
    } else {
        Vec::new()
    }
}

impl Handlers {
    /// Tells of what was done; comes back when that cannot be lost any more.
    pub(crate) async fn tell(
        &self,
        notes: &RequestNotes,
        mut happened: Vec<Happened>,
    ) -> S3Result<()> {
        let Some(told) = notes.told.get() else { return Ok(()) };
        for one in &mut happened {
            // Of what others put together, the answer names no size.
            let is_sized = one.event.starts_with("s3:ObjectCreated:") && one.size.is_none();
            let wanted = told.rules.events().iter().any(|rule| rule.covers(one.event, &one.key));
            if is_sized && wanted {
                let found = self.store.head(&told.rules.info.name, &one.key, None).await;
                let found = found.ok().filter(|info| one.etag.as_ref() == Some(&info.etag));
                one.size = found.map(|info| info.size);
            }
        }
        self.events.tell(&told.rules, &happened, &told.doer).await.map_err(from_grid)
    }
}

/// Notes what the access log says of each object of a request that is about several.
pub(super) fn note<T: Any>(notes: &RequestNotes, output: &T) {
    if notes.asked.get().is_none() {
        return;
    }
    let output: &dyn Any = output;
    if let Some(output) = output.downcast_ref::<DeleteObjectsOutput>() {
        let mut several = notes.several.lock();
        for deleted in output.deleted.iter().flatten() {
            let version =
                deleted.version_id.clone().or_else(|| deleted.delete_marker_version_id.clone());
            let key = deleted.key.clone().unwrap_or_default();
            several.push(One { key, version, error: None });
        }
        for error in output.errors.iter().flatten() {
            let key = error.key.clone().unwrap_or_default();
            let (version, error) = (error.version_id.clone(), error.code.clone());
            several.push(One { key, version, error });
        }
    }
}
