//! What a client says about an object, in and out of [`ObjectMeta`].

use std::collections::BTreeMap;

use http::{HeaderMap, StatusCode};
use nexusgrid_grid::{ChecksumAlgorithm, ChecksumKind, Checksums, ObjectMeta, RejectKind};
use s3s::dto::{ChecksumType, Metadata};
use s3s::{S3Error, S3ErrorCode, S3Result};

use super::Handlers;
use super::lock::lock_of_headers;
use super::tags::tags_of_header;
use crate::auth::AuthenticatedRequest;
use crate::checksum;
use crate::error::{custom, refuse};
use crate::limits;

/// The type of objects whose client gave none.
pub const DEFAULT_CONTENT_TYPE: &str = "binary/octet-stream";

/// Reads the metadata of a new object. `user` is what s3s made of the `x-amz-meta-*` headers;
/// `repeats`: a tag may have several values.
fn object_meta(headers: &HeaderMap, user: Option<Metadata>, repeats: bool) -> S3Result<ObjectMeta> {
    let user: BTreeMap<String, String> = user.unwrap_or_default().into_iter().collect();
    let bytes: usize = user.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > limits::USER_METADATA_BYTES_MAX {
        return Err(S3Error::new(S3ErrorCode::MetadataTooLarge));
    }
    let header = |name: &str| -> S3Result<Option<String>> {
        let Some(value) = headers.get(name) else { return Ok(None) };
        let text = std::str::from_utf8(value.as_bytes()).map_err(|_| {
            refuse(RejectKind::InvalidRequest, format!("the header {name} is not UTF-8"))
        })?;
        if text.len() > limits::CONTENT_HEADER_BYTES_MAX {
            return Err(refuse(
                RejectKind::InvalidRequest,
                format!("the header {name} is too long"),
            ));
        }
        Ok((!text.is_empty()).then(|| text.to_owned()))
    };
    Ok(ObjectMeta {
        user,
        content_type: header("content-type")?,
        cache_control: header("cache-control")?,
        content_disposition: header("content-disposition")?,
        content_encoding: header("content-encoding")?.and_then(|value| stored_encoding(&value)),
        content_language: header("content-language")?,
        expires: header("expires")?,
        storage_class: header("x-amz-storage-class")?.filter(|class| class != "STANDARD"),
        website_redirect: website_redirect(headers)?,
        tags: tags_of_header(headers, repeats)?,
        lock: lock_of_headers(headers)?,
        ..ObjectMeta::default()
    })
}

impl Handlers {
    /// The metadata of a new object of the caller's.
    pub(super) async fn object_meta(
        &self,
        caller: &AuthenticatedRequest,
        headers: &HeaderMap,
        user: Option<Metadata>,
    ) -> S3Result<ObjectMeta> {
        let repeats = headers.contains_key("x-amz-tagging") && self.repeats_tags(caller).await?;
        object_meta(headers, user, repeats)
    }
}

/// Where an object sends the visitors of its bucket's web site.
fn website_redirect(headers: &HeaderMap) -> S3Result<Option<String>> {
    let Some(value) = headers.get("x-amz-website-redirect-location") else { return Ok(None) };
    let is_place = |text: &&str| {
        let leads = ["/", "http://", "https://"].iter().any(|start| text.starts_with(start));
        leads && text.len() <= limits::REDIRECT_BYTES_MAX
    };
    match value.to_str().ok().filter(is_place) {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(custom(
            "InvalidRedirectLocation",
            StatusCode::BAD_REQUEST,
            "The website redirect location must have a prefix of 'http://' or 'https://' or '/'.",
        )),
    }
}

/// A Content-Encoding without `aws-chunked`, which belongs to the transfer and not to the object.
fn stored_encoding(value: &str) -> Option<String> {
    if !value.to_ascii_lowercase().contains("aws-chunked") {
        return Some(value.to_owned());
    }
    let kept: Vec<&str> = value
        .split(',')
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("aws-chunked"))
        .collect();
    (!kept.is_empty()).then(|| kept.join(", "))
}

/// The storage class of an object, by S3's name.
pub fn class_name(class: Option<&str>) -> String {
    class.unwrap_or("STANDARD").to_owned()
}

/// User metadata as s3s sends it.
pub fn user_metadata(meta: &ObjectMeta) -> Option<Metadata> {
    (!meta.user.is_empty())
        .then(|| meta.user.iter().map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// The checksum of an object as its replies show it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShownChecksum {
    /// The values, as clients see them.
    pub values: BTreeMap<ChecksumAlgorithm, String>,
    /// What it covers.
    pub kind: Option<ChecksumKind>,
}

impl ShownChecksum {
    /// Shows stored checksums. `parts` is the number of parts of the object.
    pub fn of(checksums: &Checksums, parts: usize) -> ShownChecksum {
        let mut shown = ShownChecksum::default();
        for (algorithm, checksum) in checksums {
            shown.kind = Some(checksum.kind);
            shown.values.insert(*algorithm, checksum::display(checksum, parts));
        }
        shown
    }

    /// The kind in S3's words.
    pub fn checksum_type(&self) -> Option<ChecksumType> {
        self.kind.map(checksum_type)
    }
}

/// The kind in S3's words.
pub fn checksum_type(kind: ChecksumKind) -> ChecksumType {
    ChecksumType::from_static(match kind {
        ChecksumKind::FullObject => ChecksumType::FULL_OBJECT,
        ChecksumKind::Composite => ChecksumType::COMPOSITE,
    })
}

/// An algorithm in S3's words.
pub fn checksum_algorithm(algorithm: ChecksumAlgorithm) -> s3s::dto::ChecksumAlgorithm {
    s3s::dto::ChecksumAlgorithm::from(checksum::name(algorithm).to_owned())
}

/// Sets a reply's checksum fields, of which there is one for each algorithm.
macro_rules! show_checksum {
    ($output:expr, $shown:expr) => {{
        use nexusgrid_grid::ChecksumAlgorithm;
        for (algorithm, text) in $shown.values {
            let field = match algorithm {
                ChecksumAlgorithm::Crc32 => &mut $output.checksum_crc32,
                ChecksumAlgorithm::Crc32c => &mut $output.checksum_crc32c,
                ChecksumAlgorithm::Crc64Nvme => &mut $output.checksum_crc64nvme,
                ChecksumAlgorithm::Sha1 => &mut $output.checksum_sha1,
                ChecksumAlgorithm::Sha256 => &mut $output.checksum_sha256,
                ChecksumAlgorithm::Sha512 => &mut $output.checksum_sha512,
                ChecksumAlgorithm::Md5 => &mut $output.checksum_md5,
                ChecksumAlgorithm::XxHash64 => &mut $output.checksum_xxhash64,
                ChecksumAlgorithm::XxHash3 => &mut $output.checksum_xxhash3,
                ChecksumAlgorithm::XxHash128 => &mut $output.checksum_xxhash128,
            };
            *field = Some(text);
        }
    }};
}
pub(crate) use show_checksum;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transfer_encoding_is_not_stored() {
        assert_eq!(stored_encoding("aws-chunked"), None);
        assert_eq!(stored_encoding("deflate,  gzip").as_deref(), Some("deflate,  gzip"));
        assert_eq!(stored_encoding("aws-chunked, gzip").as_deref(), Some("gzip"));
        assert_eq!(stored_encoding("gzip,AWS-CHUNKED,br").as_deref(), Some("gzip, br"));
    }

    #[test]
    fn metadata_is_bounded() {
        let small: Metadata = [("a".to_owned(), "x".repeat(2000))].into_iter().collect();
        assert!(object_meta(&HeaderMap::new(), Some(small), false).is_ok());
        let large: Metadata = [("a".to_owned(), "x".repeat(2048))].into_iter().collect();
        assert!(object_meta(&HeaderMap::new(), Some(large), false).is_err());
    }
}
