//! Under which keys an object's bytes are sealed besides the grid's own: what requests and buckets
//! say about it, which key opens what is there, and what replies tell.
//!
//! Every object is sealed by the grid, which is what S3 calls AES256. With a client's key (SSE-C)
//! or a key that the grid keeps by name (SSE-KMS) its bytes pass through [`crate::layer`] besides.
//! The keys of clients are used and forgotten; they are never stored, nor printed (I16).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, StatusCode};
use md5::{Digest as _, Md5};
use nexusgrid_grid::{
    ByteRange, Cipher, GridError, ObjectInfo, ReadStream, RejectKind, ResolvedRange, UploadInfo,
};
use nexusgrid_iam::AccountId;
use s3s::dto::{ServerSideEncryption, ServerSideEncryptionConfiguration};
use s3s::{S3Error, S3ErrorCode, S3Result};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::body::Incoming;
use super::{Handlers, read_xml};
use crate::auth::AuthenticatedRequest;
use crate::checksum;
use crate::error::{access_denied, custom, from_grid, invalid_argument, not_implemented, refuse};
use crate::kms::{Found, KmsError};
use crate::layer::{KEY_LEN, ObjectKey, Passing, SALT_LEN, Stretch};
use crate::limits;
use crate::rules::{BucketRules, Kind};
use crate::store::OpenObject;

const SSE: &str = "x-amz-server-side-encryption";
const KMS_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const KMS_CONTEXT: &str = "x-amz-server-side-encryption-context";
const BUCKET_KEY: &str = "x-amz-server-side-encryption-bucket-key-enabled";

/// The headers that carry a client's key: of the object, or of a copy's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyOf {
    Object,
    Source,
}

impl KeyOf {
    /// Algorithm, key, and the key's MD5.
    fn names(self) -> [&'static str; 3] {
        match self {
            KeyOf::Object => [
                "x-amz-server-side-encryption-customer-algorithm",
                "x-amz-server-side-encryption-customer-key",
                "x-amz-server-side-encryption-customer-key-md5",
            ],
            KeyOf::Source => [
                "x-amz-copy-source-server-side-encryption-customer-algorithm",
                "x-amz-copy-source-server-side-encryption-customer-key",
                "x-amz-copy-source-server-side-encryption-customer-key-md5",
            ],
        }
    }
}

/// A client's key, for the time of one request.
struct CustomerKey {
    key: Zeroizing<[u8; KEY_LEN]>,
    md5: String,
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> S3Result<Option<&'a str>> {
    let text = |value: &'a HeaderValue| {
        value.to_str().map_err(|_| invalid_argument(format!("the header {name} is not text")))
    };
    headers.get(name).map(text).transpose()
}

impl CustomerKey {
    fn of(headers: &HeaderMap, of: KeyOf, without_tls: bool) -> S3Result<Option<CustomerKey>> {
        let [algorithm, key, md5] = of.names();
        let (algorithm, key, md5) =
            (text(headers, algorithm)?, text(headers, key)?, text(headers, md5)?);
        if algorithm.is_none() && key.is_none() && md5.is_none() {
            return Ok(None);
        }
        let needs = |what: &str| {
            invalid_argument(format!(
                "Requests specifying Server Side Encryption with Customer provided keys must provide {what}."
            ))
        };
        match algorithm {
            Some("AES256") => {}
            Some(_) => {
                return Err(custom(
                    "InvalidEncryptionAlgorithmError",
                    StatusCode::BAD_REQUEST,
                    "The encryption request that you specified is not valid. The valid value is AES256.",
                ));
            }
            None => return Err(needs("a valid encryption algorithm")),
        }
        let key = key.ok_or_else(|| needs("an appropriate secret key"))?;
        let md5 = md5.ok_or_else(|| needs("the client calculated MD5 of the secret key"))?;
        if !without_tls {
            return Err(refuse(
                RejectKind::InvalidRequest,
                "Requests specifying Server Side Encryption with Customer provided keys must be made over a secure connection.",
            ));
        }
        let decoded = STANDARD.decode(key).ok().map(Zeroizing::new);
        let invalid =
            || invalid_argument("The secret key was invalid for the specified algorithm.");
        let decoded = decoded.filter(|bytes| bytes.len() == KEY_LEN).ok_or_else(invalid)?;
        let claimed = checksum::parse_md5(md5).unwrap_or_default();
        if !bool::from(Md5::digest(&*decoded).ct_eq(&claimed)) {
            return Err(invalid_argument(
                "The calculated MD5 hash of the key did not match the hash that was provided.",
            ));
        }
        let mut key = Zeroizing::new([0; KEY_LEN]);
        key.copy_from_slice(&decoded);
        Ok(Some(CustomerKey { key, md5: md5.to_owned() }))
    }
}

/// What a request asks for.
enum Wish {
    /// Nothing: the bucket's default holds.
    Default,
    /// The grid's own keys.
    Grid,
    Customer(CustomerKey),
    Managed {
        key: Option<String>,
        context: String,
        bucket_key: Option<bool>,
    },
}

/// The encryption context of a header, as JSON in one form: names in order.
fn context_of(text: &str) -> S3Result<String> {
    let invalid =
        || invalid_argument(format!("{KMS_CONTEXT} must be base64 of a JSON object of strings"));
    if text.len() > limits::KMS_CONTEXT_BYTES_MAX {
        return Err(invalid());
    }
    let json = STANDARD.decode(text).map_err(|_| invalid())?;
    let pairs: std::collections::BTreeMap<String, String> =
        serde_json::from_slice(&json).map_err(|_| invalid())?;
    serde_json::to_string(&pairs).map_err(|_| invalid())
}

impl Wish {
    fn of(headers: &HeaderMap, without_tls: bool) -> S3Result<Wish> {
        let customer = CustomerKey::of(headers, KeyOf::Object, without_tls)?;
        let (sse, key) = (text(headers, SSE)?, text(headers, KMS_KEY)?);
        let context = text(headers, KMS_CONTEXT)?;
        let bucket_key = text(headers, BUCKET_KEY)?;
        if let Some(customer) = customer {
            return match (sse, key, context) {
                (None, None, None) => Ok(Wish::Customer(customer)),
                _ => Err(invalid_argument(
                    "Server Side Encryption with Customer provided key is incompatible with the encryption method specified",
                )),
            };
        }
        match (sse, key, context) {
            (None, None, None) => Ok(Wish::Default),
            (Some("AES256"), None, None) => Ok(Wish::Grid),
            (Some("aws:kms"), key, context) => Ok(Wish::Managed {
                key: key.filter(|key| !key.is_empty()).map(str::to_owned),
                context: context.map(context_of).transpose()?.unwrap_or_default(),
                bucket_key: bucket_key.map(|value| value.eq_ignore_ascii_case("true")),
            }),
            (Some("aws:kms:dsse" | "aws:fsx"), ..) => {
                Err(not_implemented(format_args!("this value of {SSE}")))
            }
            (Some("AES256") | None, ..) => Err(invalid_argument(
                "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms",
            )),
            (Some(_), ..) => {
                Err(invalid_argument("The encryption method specified is not supported"))
            }
        }
    }
}

/// Whether a request says anything about the encryption of what it writes.
pub(super) fn says_encryption(headers: &HeaderMap) -> bool {
    headers.contains_key(SSE) || headers.contains_key(KeyOf::Object.names()[0])
}

/// What replies tell about an object's encryption.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    pub sse: Option<&'static str>,
    pub kms_key: Option<String>,
    pub context: Option<String>,
    pub bucket_key: Option<bool>,
    pub customer_md5: Option<String>,
}

impl Shown {
    fn of(cipher: &Cipher, customer: Option<&CustomerKey>) -> Shown {
        match cipher {
            Cipher::Grid => Shown { sse: Some(ServerSideEncryption::AES256), ..Shown::default() },
            Cipher::Customer { .. } => {
                Shown { customer_md5: customer.map(|key| key.md5.clone()), ..Shown::default() }
            }
            Cipher::Managed { key, context, bucket_key, .. } => Shown {
                sse: Some(ServerSideEncryption::AWS_KMS),
                kms_key: Some(key.clone()),
                context: (!context.is_empty()).then(|| STANDARD.encode(context)),
                bucket_key: bucket_key.then_some(true),
                customer_md5: None,
            },
        }
    }

    pub fn sse(&self) -> Option<ServerSideEncryption> {
        self.sse.map(ServerSideEncryption::from_static)
    }

    pub fn customer_algorithm(&self) -> Option<String> {
        self.customer_md5.as_ref().map(|_| "AES256".to_owned())
    }

    /// As headers, where the protocol's own reply has no field for a client's key.
    pub fn customer_headers(&self, headers: &mut HeaderMap) {
        let [algorithm, _, md5] = KeyOf::Object.names();
        if let Some(value) =
            self.customer_md5.as_deref().and_then(|md5| HeaderValue::from_str(md5).ok())
        {
            headers.insert(algorithm, HeaderValue::from_static("AES256"));
            headers.insert(md5, value);
        }
    }
}

/// Sets a reply's fields about encryption.
macro_rules! show_encryption {
    ($output:expr, $shown:expr) => {{
        let shown: &$crate::s3::encryption::Shown = $shown;
        $output.server_side_encryption = shown.sse();
        $output.ssekms_key_id = shown.kms_key.clone();
        $output.bucket_key_enabled = shown.bucket_key;
        $output.sse_customer_algorithm = shown.customer_algorithm();
        $output.sse_customer_key_md5 = shown.customer_md5.clone();
    }};
}
pub(super) use show_encryption;

/// How what a request writes is sealed.
pub(super) struct Sealing {
    /// To be stored with the object.
    pub cipher: Cipher,
    /// For the reply.
    pub shown: Shown,
    key: Option<ObjectKey>,
}

impl Sealing {
    /// Whether bytes pass through the second layer.
    pub fn is_layered(&self) -> bool {
        self.key.is_some()
    }

    /// A body as it is to be stored: sealed, under an ETag that says nothing about its bytes.
    /// `nonce` is new for each part; none: a whole object.
    pub fn seal(&self, incoming: Incoming, nonce: Option<[u8; SALT_LEN]>) -> Incoming {
        let Some(key) = self.key.clone() else { return incoming };
        let stretch = Stretch::whole(nonce.unwrap_or_default());
        let mut passing = Passing::new(key.clone(), vec![stretch], 0);
        let stream = incoming.stream.map(move |chunk| {
            let lost = |_| nexusgrid_grid::Reject {
                kind: RejectKind::IncompleteBody,
                message: "the body cannot be sealed".to_owned(),
            };
            passing.pass(&chunk?).map_err(lost)
        });
        let finish = incoming.finish;
        Incoming {
            stream: Box::pin(stream),
            finish: Box::new(move || {
                let mut seal = finish()?;
                let etag = checksum::hex(&key.etag(seal.etag.as_bytes()));
                seal.etag = match nonce {
                    // Kept with the part: who reads it finds its nonce there.
                    Some(nonce) => format!("{etag}{NONCE_MARK}{}", checksum::hex(&nonce)),
                    None => etag,
                };
                Ok(seal)
            }),
        }
    }
}

/// What stands between a part's ETag and its nonce where both are kept.
const NONCE_MARK: char = '.';

/// A part's ETag as clients are told it.
pub(super) fn told_etag(kept: &str) -> &str {
    kept.split_once(NONCE_MARK).map_or(kept, |(told, _)| told)
}

/// How what a request reads is opened.
pub(super) struct Opening {
    /// For the reply.
    pub shown: Shown,
    key: Option<ObjectKey>,
}

impl Opening {
    /// Whether bytes pass through the second layer.
    pub fn is_layered(&self) -> bool {
        self.key.is_some()
    }

    /// A range of an object's own bytes; `at` is the range, resolved.
    pub async fn read(
        &self,
        open: Box<dyn OpenObject>,
        range: Option<ByteRange>,
        at: ResolvedRange,
    ) -> Result<ReadStream, GridError> {
        let Some(key) = self.key.clone() else { return Ok(open.read(range)?.1) };
        let stretches = stretches(open.as_ref(), at).await?;
        let mut passing = Passing::new(key, stretches, at.start);
        let stream = open.read(range)?.1.map(move |chunk| {
            passing.pass(&chunk?).map_err(|error| GridError::Internal(error.to_string()))
        });
        Ok(Box::pin(stream))
    }
}

/// The streams that a range of an object lies in.
async fn stretches(open: &dyn OpenObject, at: ResolvedRange) -> Result<Vec<Stretch>, GridError> {
    let sizes = &open.info().part_sizes;
    if sizes.is_empty() {
        return Ok(vec![Stretch::whole([0; SALT_LEN])]);
    }
    let mut end = 0u64;
    let places = sizes.iter().map(|size| {
        let start = end;
        end = end.saturating_add(*size);
        (start, end)
    });
    let places: Vec<(u64, u64)> = places.collect();
    let is_before = |place: &&(u64, u64)| place.1 <= at.start;
    let first = places.iter().take_while(is_before).count();
    let wanted: Vec<(u64, u64)> =
        places.into_iter().skip(first).take_while(|(start, _)| *start < at.end).collect();
    let parts = open.parts(first, wanted.len()).await?;
    let lost = || GridError::DataLost("the parts of an object are not as its sizes say".to_owned());
    let mut stretches = Vec::with_capacity(wanted.len());
    for (index, (start, end)) in wanted.into_iter().enumerate() {
        if start == end {
            continue;
        }
        let part = parts.get(index).filter(|part| part.size == end - start).ok_or_else(lost)?;
        let nonce = part.etag.split_once(NONCE_MARK).map(|(_, nonce)| nonce);
        let nonce = nonce.and_then(checksum::parse_hex_md5).ok_or_else(lost)?;
        stretches.push(Stretch { start, end, nonce });
    }
    Ok(stretches)
}

fn kms_error(error: KmsError) -> S3Error {
    let refused = |code: &'static str| custom(code, StatusCode::BAD_REQUEST, &error.to_string());
    match &error {
        KmsError::NotFound(_) => refused("KMS.NotFoundException"),
        KmsError::Disabled(_) => refused("KMS.DisabledException"),
        KmsError::State(_) => refused("KMS.KMSInvalidStateException"),
        KmsError::Grid(error) => from_grid(error.clone()),
        KmsError::Ciphertext
        | KmsError::Unreadable(_)
        | KmsError::Exists(_)
        | KmsError::Invalid(_)
        | KmsError::Limit(_) => from_grid(GridError::Internal(error.to_string())),
    }
}

fn wrong_key() -> S3Error {
    refuse(
        RejectKind::InvalidRequest,
        "The provided encryption key does not match the one that the object was stored with.",
    )
}

impl Handlers {
    /// How a new object, or upload, of a bucket is sealed.
    pub(super) async fn sealing(
        &self,
        caller: &AuthenticatedRequest,
        headers: &HeaderMap,
    ) -> S3Result<Sealing> {
        let wish = Wish::of(headers, self.sse_c_without_tls)?;
        let wish = match (wish, default_of(caller.bucket_rules()?)?) {
            (Wish::Default, Some((key, bucket_key))) => {
                let bucket_key = Some(bucket_key);
                Wish::Managed { key, context: String::new(), bucket_key }
            }
            // The bucket's own key is the one that is meant where none is named.
            (Wish::Managed { key: None, context, bucket_key }, Some((key, default))) => {
                Wish::Managed { key, context, bucket_key: bucket_key.or(Some(default)) }
            }
            (wish, _) => wish,
        };
        match wish {
            Wish::Default | Wish::Grid => {
                let cipher = Cipher::Grid;
                Ok(Sealing { shown: Shown::of(&cipher, None), cipher, key: None })
            }
            Wish::Customer(customer) => {
                let salt = self.kms.random_salt();
                let key = ObjectKey::new(&customer.key, &salt);
                let cipher = Cipher::Customer { salt, check: key.check() };
                let shown = Shown::of(&cipher, Some(&customer));
                Ok(Sealing { cipher, shown, key: Some(key) })
            }
            Wish::Managed { key, context, bucket_key } => {
                let name = key.as_deref().unwrap_or(limits::KMS_DEFAULT_ALIAS);
                let found = self.managed_key(caller, name, "kms:GenerateDataKey").await?;
                let data = self.kms.data_key(&found, &context).await.map_err(kms_error)?;
                let cipher = Cipher::Managed {
                    key: self.kms.arn(&found.account, &found.key.id),
                    sealed: data.sealed,
                    context,
                    bucket_key: bucket_key.unwrap_or(false),
                };
                let shown = Shown::of(&cipher, None);
                let key = ObjectKey::new(&data.open, &[0; SALT_LEN]);
                Ok(Sealing { cipher, shown, key: Some(key) })
            }
        }
    }

    /// How a part of an upload is sealed: as the upload was begun.
    pub(super) async fn sealing_of_upload(
        &self,
        caller: &AuthenticatedRequest,
        headers: &HeaderMap,
        upload: &UploadInfo,
    ) -> S3Result<Sealing> {
        let cipher = upload.meta.cipher.clone();
        let opening = self.opening_of(caller, headers, KeyOf::Object, &cipher).await?;
        Ok(Sealing { cipher, shown: opening.shown, key: opening.key })
    }

    /// How an object is opened.
    pub(super) async fn opening(
        &self,
        caller: &AuthenticatedRequest,
        headers: &HeaderMap,
        of: KeyOf,
        object: &ObjectInfo,
    ) -> S3Result<Opening> {
        self.opening_of(caller, headers, of, &object.meta.cipher).await
    }

    /// What is told about an object, or upload, whose bytes are not read; a client's key is asked
    /// for all the same.
    pub(super) fn described(&self, headers: &HeaderMap, cipher: &Cipher) -> S3Result<Shown> {
        let customer = CustomerKey::of(headers, KeyOf::Object, self.sse_c_without_tls)?;
        customer_key(cipher, customer.as_ref())?;
        Ok(Shown::of(cipher, customer.as_ref()))
    }

    async fn opening_of(
        &self,
        caller: &AuthenticatedRequest,
        headers: &HeaderMap,
        of: KeyOf,
        cipher: &Cipher,
    ) -> S3Result<Opening> {
        let customer = CustomerKey::of(headers, of, self.sse_c_without_tls)?;
        let key = match (customer_key(cipher, customer.as_ref())?, cipher) {
            (None, Cipher::Managed { key, sealed, context, .. }) => {
                let found = self.managed_key(caller, key, "kms:Decrypt").await?;
                let data = self.kms.open_data_key(&found, sealed, context).await;
                let data = data.map_err(kms_error)?;
                Some(ObjectKey::new(&data, &[0; SALT_LEN]))
            }
            (key, _) => key,
        };
        Ok(Opening { shown: Shown::of(cipher, customer.as_ref()), key })
    }

    /// A key that the grid keeps, which the caller may use.
    async fn managed_key(
        &self,
        caller: &AuthenticatedRequest,
        name: &str,
        action: &str,
    ) -> S3Result<std::sync::Arc<Found>> {
        let account = AccountId::new(caller.account()?).map_err(|_| access_denied())?;
        let found = self.kms.find(&account, name).await.map_err(kms_error)?;
        let arn = self.kms.arn(&found.account, &found.key.id);
        caller.require_key(action, found.account.as_str(), &arn)?;
        Ok(found)
    }
}

/// The key of what is sealed under a client's; refuses where one is missing, wrong or too many.
fn customer_key(cipher: &Cipher, customer: Option<&CustomerKey>) -> S3Result<Option<ObjectKey>> {
    let refused = |message: &'static str| refuse(RejectKind::InvalidRequest, message);
    match (cipher, customer) {
        (Cipher::Customer { salt, check }, Some(customer)) => {
            let key = ObjectKey::new(&customer.key, salt);
            if key.is_checked_by(check) { Ok(Some(key)) } else { Err(wrong_key()) }
        }
        (Cipher::Customer { .. }, None) => Err(refused(
            "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object.",
        )),
        (_, Some(_)) => {
            Err(refused("The encryption parameters are not applicable to this object."))
        }
        (_, None) => Ok(None),
    }
}

/// The key that a bucket's default names, and whether bucket keys are wanted; `None`: the grid's own.
/// A default that cannot be read lets nothing be written.
fn default_of(rules: &BucketRules) -> S3Result<Option<(Option<String>, bool)>> {
    let Some(text) = rules.text(Kind::Encryption) else { return Ok(None) };
    let configuration: ServerSideEncryptionConfiguration = read_xml(text)?;
    let Some(rule) = configuration.rules.into_iter().next() else { return Ok(None) };
    let bucket_key = rule.bucket_key_enabled.unwrap_or(false);
    let default = rule.apply_server_side_encryption_by_default;
    Ok(default
        .filter(|default| default.sse_algorithm.as_str() == ServerSideEncryption::AWS_KMS)
        .map(|default| (default.kms_master_key_id, bucket_key)))
}

/// Checks what is to be a bucket's default.
pub(super) fn check_default(configuration: &ServerSideEncryptionConfiguration) -> S3Result<()> {
    let malformed = || S3Error::new(S3ErrorCode::MalformedXML);
    let [rule] = configuration.rules.as_slice() else { return Err(malformed()) };
    let default = rule.apply_server_side_encryption_by_default.as_ref().ok_or_else(malformed)?;
    match default.sse_algorithm.as_str() {
        ServerSideEncryption::AES256 if default.kms_master_key_id.is_none() => Ok(()),
        ServerSideEncryption::AES256 => Err(invalid_argument("a KMS key goes with aws:kms only")),
        ServerSideEncryption::AWS_KMS => {
            let name = default.kms_master_key_id.as_deref().unwrap_or("");
            if name.len() > limits::KMS_NAME_BYTES_MAX {
                return Err(invalid_argument("no name of a KMS key"));
            }
            Ok(())
        }
        "aws:kms:dsse" => Err(not_implemented("encryption twice by KMS keys")),
        _ => Err(malformed()),
    }
}
