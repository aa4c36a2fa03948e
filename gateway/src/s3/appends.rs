//! PutObject with a write offset: bytes put behind an object, as in S3's directory buckets; here in any
//! bucket that keeps no versions.
//!
//! What was said of the object when it was made holds: an append says nothing but bytes. The ETag of what was
//! appended to is no MD5 of the bytes, and ends with a dash and the number of its pieces, like that of an
//! upload in parts. A CRC of the whole stays one; a SHA cannot be carried on, and is dropped.

use http::{HeaderMap, StatusCode};
use md5::{Digest as _, Md5};
use nexusgrid_grid::{
    AppendRequest, Checksum, ChecksumKind, Checksums, Cipher, FinishAppend, GridError, ObjectInfo,
    ObjectMeta, ObjectSeal, RejectKind, Versioning,
};
use s3s::dto::*;
use s3s::{S3Request, S3Result};

use super::body::{self, BodyPlan};
use super::conditions::precondition;
use super::encryption::show_encryption;
use super::headers::{ShownChecksum, show_checksum};
use super::objects::known_length;
use super::{Handlers, etag};
use crate::auth::AuthenticatedRequest;
use crate::checksum;
use crate::error::{access_denied, custom, from_grid, invalid_argument, not_implemented, refuse};

/// What belongs to the making of an object, by the beginning of the header's name.
const OF_THE_WHOLE: &[&str] = &[
    "x-amz-meta-",
    "x-amz-acl",
    "x-amz-grant-",
    "x-amz-tagging",
    "x-amz-object-lock-",
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
];

fn check_headers(headers: &HeaderMap) -> S3Result<()> {
    let is_of_whole = |name: &str| OF_THE_WHOLE.iter().any(|start| name.starts_with(start));
    match headers.keys().find(|name| is_of_whole(name.as_str())) {
        Some(name) => {
            let message = format!("{name} is said when an object is made, not with an append");
            Err(refuse(RejectKind::InvalidRequest, message))
        }
        None => Ok(()),
    }
}

/// ETag and checksum of an object with bytes behind it.
fn seal_whole(before: &ObjectInfo, added: u64, piece: ObjectSeal) -> ObjectSeal {
    if before.size == 0 {
        return piece;
    }
    let pieces = before.etag.rsplit_once('-').and_then(|(_, count)| count.parse::<u32>().ok());
    let pieces = pieces.unwrap_or(1).saturating_add(1);
    let digest = Md5::new().chain_update(&before.etag).chain_update(&piece.etag).finalize();
    let combined = before.checksums.iter().find_map(|(algorithm, whole)| {
        let end = &piece.checksums.get(algorithm)?.value;
        let sums = [(whole.value.clone(), before.size), (end.clone(), added)];
        let value = checksum::combine(*algorithm, &sums)?;
        let is_whole = whole.kind == ChecksumKind::FullObject;
        is_whole.then_some((*algorithm, Checksum { kind: ChecksumKind::FullObject, value }))
    });
    ObjectSeal {
        etag: format!("{}-{pieces}", checksum::hex(&digest)),
        checksums: Checksums::from_iter(combined),
    }
}

impl Handlers {
    /// Puts a body behind an object; `None` if there is none yet, and the body is to be its first bytes.
    pub(super) async fn append(
        &self,
        caller: &AuthenticatedRequest,
        request: &mut S3Request<PutObjectInput>,
        offset: i64,
    ) -> S3Result<Option<PutObjectOutput>> {
        let input = &mut request.input;
        let offset = u64::try_from(offset)
            .map_err(|_| invalid_argument("x-amz-write-offset-bytes is negative"))?;
        if input.if_none_match.is_some() {
            let message = "If-None-Match does not go with x-amz-write-offset-bytes";
            return Err(refuse(RejectKind::InvalidRequest, message));
        }
        let rules = self.store.version_rules(&input.bucket).await.map_err(from_grid)?;
        if rules.versioning != Versioning::Off {
            return Err(from_grid(GridError::BucketState));
        }
        let before = match self.store.head(&input.bucket, &input.key, None).await {
            Ok(before) => before,
            Err(GridError::NoSuchKey) if offset == 0 => return Ok(None),
            Err(error) => return Err(caller.read_error(&input.key, None, error)),
        };
        check_headers(&request.headers)?;
        let mut meta = ObjectMeta::default();
        self.give_owner(caller, &request.headers, &input.key, &mut meta).await?;
        if meta.owner != before.meta.owner {
            return Err(access_denied());
        }
        if before.meta.cipher != Cipher::Grid {
            return Err(not_implemented("an append to an object under a key of its own"));
        }
        let sealing = self.sealing(caller, &request.headers).await?;
        if sealing.cipher != Cipher::Grid {
            let message = "The object was not made under such a key.";
            return Err(custom("EncryptionTypeMismatch", StatusCode::BAD_REQUEST, message));
        }
        let algorithm = before.checksums.keys().copied().find(|known| checksum::combinable(*known));
        let plan = BodyPlan::of(&request.headers, caller.payload(), algorithm)?;
        let is_conditional = input.if_match.is_some();
        let appended = AppendRequest {
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            offset,
            precondition: precondition(input.if_match.take(), None),
            length: known_length(input.content_length)?,
            tenant: caller.tenant(),
        };
        let trailers = request.trailing_headers.take();
        let incoming = body::incoming(input.body.take(), plan, trailers, &self.digests);
        let finish = incoming.finish;
        let finish: FinishAppend =
            Box::new(move |before, added| Ok(seal_whole(before, added, finish()?)));
        let stored = match self.store.append(appended, incoming.stream, finish).await {
            Ok(stored) => stored,
            Err(error) => {
                let (bucket, key) = (&input.bucket, &input.key);
                return Err(self.write_error(error, bucket, key, is_conditional).await);
            }
        };
        let shown = ShownChecksum::of(&stored.checksums, 0);
        let mut output = PutObjectOutput {
            e_tag: etag(&stored.etag),
            size: i64::try_from(stored.size).ok(),
            checksum_type: shown.checksum_type(),
            ..Default::default()
        };
        show_encryption!(output, &sealing.shown);
        show_checksum!(output, shown);
        Ok(Some(output))
    }
}
