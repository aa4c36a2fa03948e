//! The completion of an upload: its parts become an object.
//!
//! What is compared is what the client says about the parts and the object; what is made is the ETag
//! (MD5 over the parts' MD5s) and the checksum, of which there are two kinds.

use std::collections::BTreeMap;

use async_trait::async_trait;
use nexusgrid_grid::{
    Checksum, ChecksumAlgorithm, ChecksumKind, ChosenPart, Cipher, CompleteUploadRequest,
    FinishParts, GridError, ObjectSeal, PartInfo, Reject, RejectKind, UploadId,
};
use s3s::dto::{CompleteMultipartUploadInput, CompleteMultipartUploadOutput, CompletedPart};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::conditions::precondition;
use super::encoding::url_encode;
use super::encryption::told_etag;
use super::headers::{ShownChecksum, checksum_type, show_checksum};
use super::ranges::part_number;
use super::versions::told;
use super::{Handle, Handlers, etag};
use crate::auth::AuthenticatedRequest;
use crate::checksum;
use crate::error::{from_grid, invalid_argument, refuse};
use crate::limits;

/// The checksums that a completion names for a part.
fn claimed(part: &CompletedPart) -> S3Result<BTreeMap<ChecksumAlgorithm, Vec<u8>>> {
    let texts = [
        (ChecksumAlgorithm::Crc32, &part.checksum_crc32),
        (ChecksumAlgorithm::Crc32c, &part.checksum_crc32c),
        (ChecksumAlgorithm::Crc64Nvme, &part.checksum_crc64nvme),
        (ChecksumAlgorithm::Sha1, &part.checksum_sha1),
        (ChecksumAlgorithm::Sha256, &part.checksum_sha256),
        (ChecksumAlgorithm::Sha512, &part.checksum_sha512),
        (ChecksumAlgorithm::Md5, &part.checksum_md5),
        (ChecksumAlgorithm::XxHash64, &part.checksum_xxhash64),
        (ChecksumAlgorithm::XxHash3, &part.checksum_xxhash3),
        (ChecksumAlgorithm::XxHash128, &part.checksum_xxhash128),
    ];
    let mut claimed = BTreeMap::new();
    for (algorithm, text) in texts {
        if let Some(text) = text {
            let value = checksum::parse(algorithm, text).ok_or_else(|| {
                refuse(
                    RejectKind::InvalidRequest,
                    format!("a part's {} is invalid", checksum::name(algorithm)),
                )
            })?;
            claimed.insert(algorithm, value);
        }
    }
    Ok(claimed)
}

/// What a completion claims, to be compared with what is stored.
#[derive(Clone, Debug, Default)]
struct Claims {
    parts: Vec<BTreeMap<ChecksumAlgorithm, Vec<u8>>>,
    object: Option<(ChecksumAlgorithm, String)>,
    size: Option<u64>,
    checksum: Option<(ChecksumAlgorithm, ChecksumKind)>,
}

/// Makes the object's ETag and checksum of its parts', or says what is wrong with them.
fn seal(parts: &[PartInfo], claims: &Claims) -> Result<ObjectSeal, Reject> {
    let reject = |kind, message: String| Reject { kind, message };
    let leading = parts.split_last().map(|(_, leading)| leading).unwrap_or_default();
    if let Some(small) = leading.iter().find(|part| part.size < limits::PART_BYTES_MIN) {
        return Err(reject(
            RejectKind::PartTooSmall,
            format!("part {} is smaller than the minimum allowed size", small.number),
        ));
    }
    let size: u64 = parts.iter().map(|part| part.size).sum();
    if claims.size.is_some_and(|claimed| claimed != size) {
        return Err(reject(
            RejectKind::InvalidRequest,
            format!("x-amz-mp-object-size is not the size of the parts, {size}"),
        ));
    }
    for (part, claimed) in parts.iter().zip(&claims.parts) {
        for (algorithm, value) in claimed {
            let stored = part.checksums.get(algorithm).map(|checksum| &checksum.value);
            if stored.is_some_and(|stored| stored != value) {
                return Err(reject(
                    RejectKind::BadDigest,
                    format!("the {} of part {} differs", checksum::name(*algorithm), part.number),
                ));
            }
        }
    }
    let md5s: Option<Vec<[u8; 16]>> =
        parts.iter().map(|part| checksum::parse_hex_md5(told_etag(&part.etag))).collect();
    let md5s = md5s
        .ok_or_else(|| reject(RejectKind::InvalidRequest, "a part's ETag is no MD5".to_owned()))?;

    let (algorithm, kind) =
        claims.checksum.unwrap_or((checksum::DEFAULT, ChecksumKind::FullObject));
    let values: Option<Vec<(Vec<u8>, u64)>> = parts
        .iter()
        .map(|part| Some((part.checksums.get(&algorithm)?.value.clone(), part.size)))
        .collect();
    let value = values.and_then(|values| match kind {
        ChecksumKind::FullObject => checksum::combine(algorithm, &values),
        ChecksumKind::Composite => {
            Some(checksum::composite(algorithm, values.iter().map(|(value, _)| value.as_slice())))
        }
    });
    let checksum = value.map(|value| Checksum { kind, value });
    if let Some((claimed_algorithm, text)) = &claims.object {
        let ours = checksum.as_ref().filter(|_| *claimed_algorithm == algorithm);
        let same = ours.is_some_and(|ours| {
            *text == checksum::display(ours, parts.len()) || *text == checksum::encode(&ours.value)
        });
        if !same {
            return Err(reject(
                RejectKind::BadDigest,
                format!("the object's {} differs", checksum::name(*claimed_algorithm)),
            ));
        }
    }
    Ok(ObjectSeal {
        etag: checksum::multipart_etag(&md5s),
        checksums: checksum.map(|checksum| (algorithm, checksum)).into_iter().collect(),
    })
}

impl Handlers {
    /// Parts under a second key are kept by more than the ETag that clients are told.
    async fn name_as_kept(
        &self,
        bucket: &str,
        key: &str,
        upload: &UploadId,
        chosen: &mut [ChosenPart],
    ) -> S3Result<()> {
        let mut after = None;
        loop {
            let most = limits::LIST_PAGE_MAX;
            let page = self.store.list_parts(bucket, key, upload, after, most).await;
            let page = page.map_err(from_grid)?;
            for part in page.parts {
                let named = chosen.binary_search_by_key(&part.number, |named| named.number);
                if let Some(named) = named.ok().and_then(|index| chosen.get_mut(index))
                    && named.etag == told_etag(&part.etag)
                {
                    named.etag = part.etag;
                }
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }
}

#[async_trait]
impl Handle<CompleteMultipartUploadInput, CompleteMultipartUploadOutput> for Handlers {
    async fn handle(
        &self,
        _caller: AuthenticatedRequest,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let malformed =
            |message: &'static str| S3Error::with_message(S3ErrorCode::MalformedXML, message);
        let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        if parts.is_empty() || parts.len() > limits::PARTS_MAX as usize {
            return Err(malformed("a completion names between 1 and 10000 parts"));
        }
        let upload_id = UploadId(input.upload_id);
        let upload = match self.store.head_upload(&input.bucket, &input.key, &upload_id).await {
            Ok(upload) => Some(upload),
            // It may be complete: who asks again because the answer was lost gets it again.
            Err(GridError::NoSuchUpload) => None,
            Err(error) => return Err(from_grid(error)),
        };
        let cipher = upload.as_ref().map(|upload| &upload.meta.cipher);
        let encryption = cipher.map(|cipher| self.described(&request.headers, cipher));
        let encryption = encryption.transpose()?.unwrap_or_default();
        let checksum = upload.as_ref().and_then(|upload| upload.checksum);

        let mut chosen: Vec<ChosenPart> = Vec::with_capacity(parts.len());
        let mut claims = Claims { checksum, ..Claims::default() };
        for part in &parts {
            let number =
                part_number(part.part_number.ok_or_else(|| malformed("a part has no number"))?)?;
            let etag = part.e_tag.clone().ok_or_else(|| malformed("a part has no ETag"))?;
            match chosen.last() {
                Some(last) if last.number > number => {
                    return Err(from_grid(GridError::InvalidPartOrder));
                }
                // Named again: what is said last counts.
                Some(last) if last.number == number => {
                    chosen.pop();
                    claims.parts.pop();
                }
                Some(_) | None => {}
            }
            chosen.push(ChosenPart { number, etag: etag.into_value() });
            claims.parts.push(claimed(part)?);
        }
        if cipher.is_some_and(|cipher| *cipher != Cipher::Grid) {
            self.name_as_kept(&input.bucket, &input.key, &upload_id, &mut chosen).await?;
        }
        for algorithm in checksum::ALL {
            if let Some(value) = request.headers.get(checksum::header(algorithm)) {
                let text = value.to_str().unwrap_or_default().to_owned();
                if claims.object.replace((algorithm, text)).is_some() {
                    return Err(refuse(RejectKind::InvalidRequest, "more than one checksum"));
                }
            }
        }
        if let Some(kind) = &input.checksum_type {
            let ours = checksum.map_or(ChecksumKind::FullObject, |(_, kind)| kind);
            if upload.is_some() && kind.as_str() != checksum_type(ours).as_str() {
                return Err(refuse(
                    RejectKind::InvalidRequest,
                    "x-amz-checksum-type differs from the upload's",
                ));
            }
        }
        claims.size = match input.mpu_object_size.map(u64::try_from) {
            None => None,
            Some(Ok(size)) => Some(size),
            Some(Err(_)) => return Err(invalid_argument("x-amz-mp-object-size is negative")),
        };
        let conditional = input.if_match.is_some();
        let count = chosen.len();
        let complete = CompleteUploadRequest {
            bucket: input.bucket.clone(),
            key: input.key.clone(),
            upload: upload_id,
            parts: chosen,
            precondition: precondition(input.if_match, input.if_none_match),
        };
        let finish: FinishParts = Box::new(move |stored| seal(stored, &claims));
        let made = match self.store.complete_upload(complete, finish).await {
            Ok(made) => made,
            Err(error) => {
                return Err(self.write_error(error, &input.bucket, &input.key, conditional).await);
            }
        };
        let host = request.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        let location =
            host.map(|host| format!("http://{host}/{}/{}", input.bucket, url_encode(&input.key)));
        let shown = ShownChecksum::of(&made.checksums, count);
        let mut output = CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            location,
            e_tag: etag(&made.etag),
            version_id: told(made.version_name),
            server_side_encryption: encryption.sse(),
            ssekms_key_id: encryption.kms_key.clone(),
            bucket_key_enabled: encryption.bucket_key,
            checksum_type: shown.checksum_type(),
            ..Default::default()
        };
        show_checksum!(output, shown);
        let mut response = S3Response::new(output);
        encryption.customer_headers(&mut response.headers);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::BodyDigest;

    fn part(number: u32, bytes: &[u8]) -> PartInfo {
        let mut digest = BodyDigest::new(checksum::ALL);
        digest.update(bytes);
        let digests = digest.finish();
        PartInfo {
            number,
            etag: checksum::hex(&digests.md5),
            size: bytes.len() as u64,
            checksums: digests.checksums,
            last_modified: Default::default(),
        }
    }

    fn parts() -> (Vec<PartInfo>, Vec<u8>) {
        let pieces = [vec![1u8; limits::PART_BYTES_MIN as usize], vec![2u8; 17]];
        let stored = vec![part(1, &pieces[0]), part(7, &pieces[1])];
        (stored, pieces.concat())
    }

    #[test]
    fn full_object_checksums_are_those_of_the_bytes() {
        let (parts, whole) = parts();
        for algorithm in [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32c, checksum::DEFAULT] {
            let value = checksum::of(algorithm, &whole);
            let claims = Claims {
                checksum: Some((algorithm, ChecksumKind::FullObject)),
                object: Some((algorithm, checksum::encode(&value))),
                size: Some(whole.len() as u64),
                ..Claims::default()
            };
            let sealed = seal(&parts, &claims).unwrap();
            assert_eq!(sealed.checksums[&algorithm].value, value);
            assert!(sealed.etag.ends_with("-2"));
        }
    }

    #[test]
    fn composite_checksums_are_those_of_the_parts_checksums() {
        let (parts, _) = parts();
        for algorithm in checksum::ALL {
            let claims = Claims {
                checksum: Some((algorithm, ChecksumKind::Composite)),
                ..Claims::default()
            };
            let sealed = seal(&parts, &claims).unwrap();
            let raw: Vec<u8> =
                parts.iter().flat_map(|part| part.checksums[&algorithm].value.clone()).collect();
            assert_eq!(sealed.checksums[&algorithm].value, checksum::of(algorithm, &raw));
        }
    }

    #[test]
    fn what_differs_is_refused() {
        let (stored, whole) = parts();
        let kind = |claims: &Claims, parts: &[PartInfo]| seal(parts, claims).unwrap_err().kind;
        let small = vec![part(1, b"small"), part(2, b"last")];
        assert_eq!(kind(&Claims::default(), &small), RejectKind::PartTooSmall);
        assert!(seal(&small[1..], &Claims::default()).is_ok());
        let size = Claims { size: Some(whole.len() as u64 + 1), ..Claims::default() };
        assert_eq!(kind(&size, &stored), RejectKind::InvalidRequest);
        let algorithm = ChecksumAlgorithm::Crc32;
        let of_part = Claims {
            parts: vec![BTreeMap::new(), BTreeMap::from([(algorithm, vec![0; 4])])],
            ..Claims::default()
        };
        assert_eq!(kind(&of_part, &stored), RejectKind::BadDigest);
        let of_object =
            Claims { object: Some((algorithm, "AAAAAA==".into())), ..Claims::default() };
        assert_eq!(kind(&of_object, &stored), RejectKind::BadDigest);
    }
}
