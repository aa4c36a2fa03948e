//! The key ring: opens bucket keys with the master key, wraps and unwraps content keys.
//!
//! State: the master key, if this node is a gateway, and the bucket keys opened so far. Nothing
//! here is ever printed or written (I16).

use std::collections::BTreeMap;

use bytes::Bytes;
use nexusgrid_codec::aead::{self, KEY_LEN, NONCE_LEN};
use nexusgrid_codec::{BucketKey, ClusterId, ContentKey, MasterKey, WrappedKey};
use nexusgrid_env::Env;
use nexusgrid_meta::namespace::types::{BucketId, WrappedKey as KeyRow};
use nexusgrid_meta::root::types::{RootAnswer, RootQuery};
use parking_lot::{Mutex, RwLock};
use zeroize::Zeroize;

use crate::care::checkpoint::RecordKeys;
use crate::error::GridError;
use crate::limits;
use crate::meta_port::MetaClient;

const TAG_LEN: usize = 16;
const SECRET_LABEL: &[u8] = b"nexusgrid sealed secret v1\0";

/// The keys of one process.
pub(crate) struct KeyRing {
    env: Env,
    meta: MetaClient,
    cluster: ClusterId,
    master: RwLock<Option<MasterKey>>,
    buckets: Mutex<BTreeMap<(BucketId, u32), BucketKey>>,
}

/// A content's key, open and as its row has it.
pub(crate) struct FreshKey {
    pub(crate) open: ContentKey,
    pub(crate) row: KeyRow,
}

impl KeyRing {
    pub(crate) fn new(
        env: Env,
        meta: MetaClient,
        cluster: ClusterId,
        master: Option<MasterKey>,
    ) -> KeyRing {
        let master = RwLock::new(master);
        KeyRing { env, meta, cluster, master, buckets: Mutex::default() }
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Takes the master key.
    pub(crate) fn set_master(&self, master: MasterKey) {
        *self.master.write() = Some(master);
    }

    fn master(&self) -> Result<MasterKey, GridError> {
        self.master.read().clone().ok_or(GridError::NoKeys)
    }

    /// Version 1 of a new bucket's key, sealed for the root group. The context is the bucket's
    /// name: its id is not known before it exists.
    pub(crate) fn new_bucket_key(&self, bucket: &str) -> Result<Vec<u8>, GridError> {
        let key = BucketKey::from_bytes(1, self.random_key());
        let sealed = self
            .master()?
            .seal_bucket_key(&key, self.nonce(), self.cluster, bucket.as_bytes())
            .map_err(|error| GridError::Internal(error.to_string()))?;
        Ok(sealed.to_bytes().to_vec())
    }

    /// A random content key, wrapped by the newest key of a bucket.
    pub(crate) async fn fresh(
        &self,
        bucket: BucketId,
        bucket_name: &str,
        version: u32,
    ) -> Result<FreshKey, GridError> {
        let bucket_key = self.bucket_key(bucket, bucket_name, version).await?;
        let open = ContentKey::from_bytes(self.random_key());
        let wrapped = bucket_key
            .wrap(&open, self.nonce(), self.cluster, &context(bucket))
            .map_err(|error| GridError::Internal(error.to_string()))?;
        let wrapped = Bytes::copy_from_slice(&wrapped.to_bytes());
        Ok(FreshKey { open, row: KeyRow { bucket, version, wrapped } })
    }

    /// Opens a content's key. `bucket_name` names the bucket whose key wraps it.
    pub(crate) async fn open(
        &self,
        row: &KeyRow,
        bucket_name: &str,
    ) -> Result<ContentKey, GridError> {
        let bucket_key = self.bucket_key(row.bucket, bucket_name, row.version).await?;
        let lost = |_| GridError::DataLost("a content key does not open".to_owned());
        let wrapped = WrappedKey::from_bytes(&row.wrapped).map_err(lost)?;
        bucket_key.unwrap(&wrapped, self.cluster, &context(row.bucket)).map_err(lost)
    }

    async fn bucket_key(
        &self,
        bucket: BucketId,
        bucket_name: &str,
        version: u32,
    ) -> Result<BucketKey, GridError> {
        if let Some(key) = self.buckets.lock().get(&(bucket, version)) {
            return Ok(key.clone());
        }
        let master = self.master()?;
        let answer = self.meta.root_ask(&RootQuery::BucketKeys { bucket }).await?;
        let RootAnswer::BucketKeys(rows) = answer else {
            return Err(GridError::Internal("bucket keys".to_owned()));
        };
        let row = rows.iter().find(|row| row.version == version);
        let row = row.ok_or_else(|| GridError::DataLost("a bucket key is missing".to_owned()))?;
        let key = WrappedKey::from_bytes(&row.sealed)
            .and_then(|sealed| {
                master.open_bucket_key(&sealed, self.cluster, bucket_name.as_bytes())
            })
            .map_err(|_| GridError::DataLost("a bucket key does not open".to_owned()))?;
        let mut cached = self.buckets.lock();
        if cached.len() >= limits::BUCKET_KEYS_CACHED_MAX {
            cached.pop_first();
        }
        cached.insert((bucket, version), key.clone());
        Ok(key)
    }

    /// Seals a small secret (an S3 secret key) under the master key, bound to `name`.
    pub(crate) fn seal_secret(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, GridError> {
        seal_secret(&self.master()?, self.cluster, self.nonce(), name, secret)
    }

    /// The inverse of [`KeyRing::seal_secret`].
    pub(crate) fn open_secret(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, GridError> {
        let refused = || GridError::DataLost("a sealed secret does not open".to_owned());
        let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(refused)?;
        let mut body = body.to_vec();
        let opened = aead::cipher(self.master()?.expose()).open_in_place(
            *nonce,
            &secret_aad(self.cluster, name),
            &mut body,
        );
        if opened.is_err() {
            body.zeroize();
            return Err(refused());
        }
        body.truncate(body.len().saturating_sub(TAG_LEN));
        Ok(body)
    }

    /// Whether this node holds the master key.
    pub(crate) fn holds_master(&self) -> bool {
        self.master.read().is_some()
    }

    /// The keys of bootstrap records.
    pub(crate) fn record_keys(&self) -> Result<RecordKeys, GridError> {
        Ok(RecordKeys::new(&self.master()?, self.cluster))
    }

    /// A random nonce.
    pub(crate) fn random_nonce(&self) -> [u8; NONCE_LEN] {
        self.nonce()
    }

    fn random_key(&self) -> [u8; KEY_LEN] {
        let mut key = [0; KEY_LEN];
        self.env.rng.fill(&mut key);
        key
    }

    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        self.env.rng.fill(&mut nonce);
        nonce
    }
}

/// Seals a small secret under a master key, bound to cluster and `name`, as the root group keeps it.
/// For `init`, which has no running grid yet; `nonce` must be random.
pub fn seal_secret(
    master: &MasterKey,
    cluster: ClusterId,
    nonce: [u8; NONCE_LEN],
    name: &str,
    secret: &[u8],
) -> Result<Vec<u8>, GridError> {
    let mut buffer = Vec::with_capacity(NONCE_LEN + secret.len() + TAG_LEN);
    buffer.extend_from_slice(&nonce);
    buffer.extend_from_slice(secret);
    buffer.resize(buffer.len() + TAG_LEN, 0);
    let (_, body) = buffer.split_at_mut(NONCE_LEN);
    aead::cipher(master.expose())
        .seal_in_place(nonce, &secret_aad(cluster, name), body)
        .map_err(|_| GridError::Internal("sealing a secret".to_owned()))?;
    Ok(buffer)
}

fn secret_aad(cluster: ClusterId, name: &str) -> Vec<u8> {
    [SECRET_LABEL, &cluster.0, name.as_bytes()].concat()
}

/// What a content's wrapped key is bound to: the bucket whose key wraps it. The content's id is
/// given by its group after the key was wrapped, so it cannot be part.
fn context(bucket: BucketId) -> [u8; 8] {
    bucket.0.to_be_bytes()
}
