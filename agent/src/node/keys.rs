//! Access keys for the gateway: the root group's rows, opened with the master key.
//!
//! State: keys read lately. A key is looked up again after [`KEY_FRESH`], which bounds how long a
//! removed key still works.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nexusgrid_env::{BootInstant, Env};
use nexusgrid_gateway::{AccessKey, KeySource, KeysUnavailable};
use nexusgrid_grid::Grid;
use nexusgrid_iam::policy::Document;
use nexusgrid_iam::{AccessKeyId, AccountId, Principal, Secret};
use nexusgrid_meta::root::types::{self as root_types, RootAnswer, RootQuery};
use parking_lot::Mutex;

use super::root::Root;

/// A key is looked up again after so long.
const KEY_FRESH: Duration = Duration::from_secs(10);

/// Keys kept in memory.
const KEYS_CACHED_MAX: usize = 10_000;

/// What reading a bucket takes.
const READ: &[&str] =
    &["s3:ListBucket*", "s3:GetBucketLocation", "s3:GetBucketVersioning", "s3:GetObject*"];

/// What writing to a bucket takes.
const WRITE: &[&str] = &[
    "s3:PutObject*",
    "s3:DeleteObject*",
    "s3:ListBucketMultipartUploads",
    "s3:ListMultipartUploadParts",
    "s3:AbortMultipartUpload",
];

/// What a grant allows, in the language of policies.
fn documents(grant: &root_types::Grant) -> Vec<Document> {
    let bucket = format!("arn:aws:s3:::{}", grant.bucket);
    let resources = [format!("{bucket}/*"), bucket];
    let sides = [(grant.read, READ), (grant.write, WRITE)];
    let given = sides.into_iter().filter(|(given, _)| *given);
    given.map(|(_, actions)| Document::allowing(actions, &resources)).collect()
}

/// The access keys of the root group.
pub struct RootKeys {
    env: Env,
    root: Root,
    grid: Grid,
    cached: Mutex<BTreeMap<String, (BootInstant, Option<AccessKey>)>>,
}

impl RootKeys {
    /// Reads from `root`, opens with the keys of `grid`.
    pub fn new(env: Env, root: Root, grid: Grid) -> RootKeys {
        RootKeys { env, root, grid, cached: Mutex::default() }
    }

    /// Drops what is kept of a key, after it was made or removed here.
    pub fn forget(&self, id: &str) {
        self.cached.lock().remove(id);
    }

    async fn look_up(&self, id: &str) -> anyhow::Result<Option<AccessKey>> {
        let RootAnswer::AccessKey(row) =
            self.root.ask(&RootQuery::AccessKey { id: id.to_owned() }).await?
        else {
            anyhow::bail!("the root group's answer does not fit");
        };
        row.map(|row| self.open(&row)).transpose()
    }

    fn open(&self, row: &root_types::AccessKey) -> anyhow::Result<AccessKey> {
        let id = AccessKeyId::new(row.id.clone())?;
        let founders = AccountId::founders();
        let mut principal = if row.admin {
            Principal::root(&id, &founders)
        } else {
            let policies = row.grants.iter().flat_map(documents).map(Arc::new).collect();
            Principal::service(&id, &founders, policies)
        };
        principal.administrator = row.admin;
        let secret = self.grid.open_secret(&row.id, &row.sealed_secret)?;
        Ok(AccessKey {
            principal: Arc::new(principal),
            secret: Secret::new(String::from_utf8(secret)?),
        })
    }
}

#[async_trait]
impl KeySource for RootKeys {
    async fn access_key(&self, id: &str) -> Result<Option<AccessKey>, KeysUnavailable> {
        let now = self.env.clock.now();
        if let Some((read, key)) = self.cached.lock().get(id)
            && now.since(*read) < KEY_FRESH
        {
            return Ok(key.clone());
        }
        let key = self.look_up(id).await.map_err(|error| KeysUnavailable(format!("{error:#}")))?;
        let mut cached = self.cached.lock();
        if cached.len() >= KEYS_CACHED_MAX {
            cached.retain(|_, (read, _)| now.since(*read) < KEY_FRESH);
            if cached.len() >= KEYS_CACHED_MAX {
                cached.clear();
            }
        }
        cached.insert(id.to_owned(), (now, key.clone()));
        Ok(key)
    }
}
