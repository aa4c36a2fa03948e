//! Tests of the whole service in one process: hand-signed requests against a store in memory.

mod client;
pub(crate) mod memory;

mod appends;
mod as_ceph;
mod attacks;
mod auth;
mod bare;
mod encryption;
mod ends;
mod form;
mod fuzz;
mod identity;
mod matrix;
mod multipart;
mod object_acls;
mod objects;
mod quota;
mod rules;
mod server;
mod signature_v2;
mod tokens;
mod unreadable;
mod versions;
mod website;

use std::sync::Arc;

use async_trait::async_trait;
use nexusgrid_env::Env;
use nexusgrid_iam::policy::Document;
use nexusgrid_iam::{AccessKeyId, AccountId, Principal, Secret};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;

use crate::auth::{AccessKey, KeySource, KeysUnavailable};
use crate::metrics::Metrics;
use crate::service::{Gateway, GatewayOptions};
use memory::MemoryStore;

/// The administrator's key.
pub const ADMIN: &str = "ADMINKEY";
/// The account of all of them, which owns the buckets.
pub const FOUNDERS: &str = "000000000001";
/// A key that may read and write the bucket `shared`, and nothing else.
pub const TENANT: &str = "TENANTKEY";
/// A key that may only read the bucket `shared`.
pub const READER: &str = "READERKEY";
/// A key that is switched off.
pub const DISABLED: &str = "DISABLEDKEY";

/// The secret of a test key.
pub fn secret(id: &str) -> String {
    format!("secret-of-{id}")
}

struct TestKeys;

#[async_trait]
impl KeySource for TestKeys {
    async fn access_key(&self, id: &str) -> Result<Option<AccessKey>, KeysUnavailable> {
        let Ok(key) = AccessKeyId::new(id) else { return Ok(None) };
        let founders = AccountId::founders();
        let shared = |actions: &[&str]| {
            let resources = ["arn:aws:s3:::shared".to_owned(), "arn:aws:s3:::shared/*".to_owned()];
            vec![Arc::new(Document::allowing(actions, &resources))]
        };
        let read =
            &["s3:ListBucket", "s3:GetBucketLocation", "s3:GetBucketVersioning", "s3:GetObject*"];
        let write = &["s3:PutObject", "s3:DeleteObject", "s3:List*Multipart*", "s3:Abort*"];
        let mut principal = match id {
            ADMIN | DISABLED => Principal::root(&key, &founders),
            TENANT => {
                Principal::service(&key, &founders, shared(&[&read[..], &write[..]].concat()))
            }
            READER => Principal::service(&key, &founders, shared(read)),
            "UNAVAILABLE" => return Err(KeysUnavailable("no quorum".to_owned())),
            _ => return Ok(None),
        };
        principal.administrator = id == ADMIN;
        principal.enabled = id != DISABLED;
        Ok(Some(AccessKey { principal: Arc::new(principal), secret: Secret::new(secret(id)) }))
    }
}

/// A gateway over an empty store with the buckets `bucket` and `shared`.
pub fn gateway() -> Gateway {
    gateway_with(GatewayOptions::default()).0
}

/// The same with options, and its store.
pub fn gateway_with(options: GatewayOptions) -> (Gateway, Arc<MemoryStore>) {
    gateway_in(Env::real(), options)
}

/// The same in a world of the test's.
pub fn gateway_in(env: Env, options: GatewayOptions) -> (Gateway, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::default());
    store.add_bucket("bucket", FOUNDERS);
    store.add_bucket("shared", FOUNDERS);
    let registry = Arc::new(Mutex::new(Registry::default()));
    let metrics = Metrics::register(&registry);
    let shared: crate::SharedStore = Arc::clone(&store) as crate::SharedStore;
    let gateway = Gateway::new(shared, Arc::new(TestKeys), env, metrics, options).unwrap();
    (gateway, store)
}
