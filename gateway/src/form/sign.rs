//! A form's signature: Signature Version 4 over the policy, as it was sent. Version 2 (an HMAC-SHA1
//! by the secret itself) only where the administrator lets old forms in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use s3s::{S3Error, S3ErrorCode, S3Result};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::parts::Fields;
use crate::checksum::hex;
use crate::error::{access_denied, invalid_argument};
use crate::limits;

/// What a form says about its signature.
pub(super) struct Signature {
    /// The access key's id.
    pub key: String,
    /// Date and region of Version 4; `None`: Version 2.
    scope: Option<(String, String)>,
    signature: String,
}

/// Whether a form claims to be signed by anybody.
pub(super) fn is_signed(fields: &Fields) -> bool {
    ["x-amz-signature", "x-amz-credential", "signature", "awsaccesskeyid"]
        .iter()
        .any(|name| fields.get(name).is_some())
}

/// Whether it is signed as old applications do.
pub(super) fn is_version_2(fields: &Fields) -> bool {
    let says = |name| fields.get(name).is_some_and(|value| !value.is_empty());
    says("signature") && !says("x-amz-signature")
}

/// The policy's JSON.
pub(super) fn decode(encoded: &str) -> S3Result<Vec<u8>> {
    let text: String = encoded.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
    STANDARD.decode(text).map_err(|_| {
        S3Error::with_message(S3ErrorCode::InvalidPolicyDocument, "Invalid Policy: not base64")
    })
}

fn missing(name: &str) -> S3Error {
    invalid_argument(format!("Bucket POST must contain a field named '{name}'."))
}

fn mac(key: &[u8], data: &[u8]) -> S3Result<Vec<u8>> {
    let unusable = |_| S3Error::new(S3ErrorCode::InternalError);
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(unusable)?;
    mac.update(data);
    Ok(mac.finalize().into_bytes().to_vec())
}

impl Signature {
    /// Reads it, and refuses one that is of another kind or of another time.
    pub fn of(fields: &Fields, now_unix_ms: u64, takes_version_2: bool) -> S3Result<Signature> {
        let field = |name: &str| fields.get(name).filter(|value| !value.is_empty());
        if is_version_2(fields) {
            let (Some(key), Some(signature)) = (field("awsaccesskeyid"), field("signature")) else {
                return Err(missing("AWSAccessKeyId"));
            };
            // It says no time of its own; the policy that it covers does.
            if takes_version_2 {
                let (key, signature) = (key.to_owned(), signature.to_owned());
                return Ok(Signature { key, scope: None, signature });
            }
            tracing::info!("a form with a signature of version 2 was refused");
            return Err(S3Error::with_message(
                S3ErrorCode::AccessDenied,
                "Signature Version 2 is not supported. Please use AWS4-HMAC-SHA256.",
            ));
        }
        let of = |name| field(name).ok_or_else(|| missing(name));
        let signature = of("x-amz-signature")?.to_owned();
        if of("x-amz-algorithm")? != "AWS4-HMAC-SHA256" {
            return Err(invalid_argument("x-amz-algorithm is AWS4-HMAC-SHA256"));
        }
        let time = of("x-amz-date")?;
        let credential: Vec<&str> = of("x-amz-credential")?.split('/').collect();
        let [key, date, region, "s3", "aws4_request"] = credential.as_slice() else {
            return Err(invalid_argument("x-amz-credential names no scope of S3"));
        };
        let is_time = time.len() == 16 && time.ends_with('Z');
        let signed = nexusgrid_iam::time::parse(time).filter(|_| is_time);
        let signed = signed.ok_or_else(|| invalid_argument("x-amz-date is no time"))?;
        if !time.starts_with(date) || date.len() != 8 {
            return Err(invalid_argument("x-amz-date is not of the day of x-amz-credential"));
        }
        let now = i64::try_from(now_unix_ms).unwrap_or(i64::MAX);
        let age = now.saturating_sub(signed) / 1000;
        let skew = i64::from(limits::CLOCK_SKEW_SECONDS_MAX);
        if age < -skew || age > i64::from(limits::PRESIGNED_SECONDS_MAX) {
            return Err(access_denied());
        }
        Ok(Signature {
            key: (*key).to_owned(),
            scope: Some(((*date).to_owned(), (*region).to_owned())),
            signature,
        })
    }

    /// Whether the holder of this secret signed this policy.
    pub fn is_of(&self, secret: &str, policy: &str) -> S3Result<bool> {
        let expected = match &self.scope {
            Some((date, region)) => {
                let key = mac(format!("AWS4{secret}").as_bytes(), date.as_bytes())?;
                let key = mac(&key, region.as_bytes())?;
                let key = mac(&mac(&key, b"s3")?, b"aws4_request")?;
                hex(&mac(&key, policy.as_bytes())?)
            }
            None => {
                let unusable = |_| S3Error::new(S3ErrorCode::InternalError);
                let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).map_err(unusable)?;
                mac.update(policy.as_bytes());
                STANDARD.encode(mac.finalize().into_bytes())
            }
        };
        Ok(expected.as_bytes().ct_eq(self.signature.as_bytes()).into())
    }
}
