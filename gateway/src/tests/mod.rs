//! Tests of the whole service in one process: hand-signed requests against a store in memory.

mod client;
mod memory;

mod auth;
mod fuzz;
mod multipart;
mod objects;
mod server;
mod versions;

use std::sync::Arc;

use async_trait::async_trait;
use nexusgrid_env::Env;
use nexusgrid_iam::{AccessKeyId, Grant, Principal, Secret};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;

use crate::auth::{AccessKey, KeySource, KeysUnavailable};
use crate::metrics::Metrics;
use crate::service::{Gateway, GatewayOptions};
use memory::MemoryStore;

/// The administrator's key.
pub const ADMIN: &str = "ADMINKEY";
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
        let mut principal = Principal::new(key);
        let read_write = Grant::READ.union(Grant::WRITE);
        match id {
            ADMIN => principal.administrator = true,
            TENANT => drop(principal.grants.insert("shared".to_owned(), read_write)),
            READER => drop(principal.grants.insert("shared".to_owned(), Grant::READ)),
            DISABLED => {
                principal.administrator = true;
                principal.enabled = false;
            }
            "UNAVAILABLE" => return Err(KeysUnavailable("no quorum".to_owned())),
            _ => return Ok(None),
        }
        Ok(Some(AccessKey { principal: Arc::new(principal), secret: Secret::new(secret(id)) }))
    }
}

/// A gateway over an empty store with the buckets `bucket` and `shared`.
pub fn gateway() -> Gateway {
    gateway_with(GatewayOptions::default()).0
}

/// The same with options, and its store.
pub fn gateway_with(options: GatewayOptions) -> (Gateway, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::default());
    store.add_bucket("bucket", ADMIN);
    store.add_bucket("shared", ADMIN);
    let registry = Arc::new(Mutex::new(Registry::default()));
    let metrics = Metrics::register(&registry);
    let shared: crate::SharedStore = Arc::clone(&store) as crate::SharedStore;
    let gateway = Gateway::new(shared, Arc::new(TestKeys), Env::real(), metrics, options).unwrap();
    (gateway, store)
}
