//! Quotas of accounts, over buckets that know nothing of each other.

use std::sync::Arc;

use nexusgrid_env::Env;
use nexusgrid_grid::{GridError, RecordWrite};
use nexusgrid_iam::AccountId;

use super::client::{Reply, call};
use super::gateway_in;
use crate::Gateway;
use crate::quota::{Held, Quota, Quotas};
use crate::service::GatewayOptions;
use crate::store::{ObjectStore as _, SharedStore};

async fn put(gateway: &Gateway, path: &str, body: &str) -> Reply {
    call("PUT", path).body(body.to_owned()).send(gateway).await
}

#[tokio::test]
async fn an_account_holds_no_more_than_its_quota_in_all_its_buckets() {
    let (gateway, store) = gateway_in(Env::real(), GatewayOptions::default());
    let quotas = Quotas::new(Arc::clone(&store) as SharedStore);
    let founders = AccountId::founders();
    assert_eq!(quotas.of(&founders).await.unwrap(), None);
    assert_eq!(put(&gateway, "/bucket/a", "1234").await.status, 200);
    let quota = Quota { bytes: Some(10), objects: Some(4) };
    quotas.set(&founders, quota).await.unwrap();
    assert_eq!(quotas.of(&founders).await.unwrap(), Some(quota));
    // Each of them may take what is left.
    assert_eq!(
        put(&gateway, "/bucket/b", "1234567").await.outcome(),
        (403, "QuotaExceeded".into())
    );
    assert_eq!(put(&gateway, "/shared/b", "123456").await.status, 200);
    // Another bucket has its share when its maker hears of it: there is nothing left.
    assert_eq!(put(&gateway, "/third", "").await.status, 200);
    assert_eq!(put(&gateway, "/third/c", "1").await.code(), "QuotaExceeded");
    // What one took, the others may not take once it is counted up. Until then they may, what was left before.
    let found = quotas.round().await.unwrap();
    assert_eq!(found[&founders], (quota, Held { buckets: 3, bytes: 10, objects: 2 }));
    assert_eq!(put(&gateway, "/bucket/c", "1").await.code(), "QuotaExceeded");
    // Room again.
    assert_eq!(call("DELETE", "/shared/b").send(&gateway).await.status, 204);
    quotas.round().await.unwrap();
    for key in ["c", "d", "e"] {
        assert_eq!(put(&gateway, &format!("/third/{key}"), "").await.status, 200);
    }
    quotas.round().await.unwrap();
    assert_eq!(put(&gateway, "/bucket/f", "").await.code(), "QuotaExceeded");
    // Nobody's quota any more, and no record of it.
    quotas.set(&founders, Quota::default()).await.unwrap();
    assert_eq!(put(&gateway, "/bucket/f", "123456789012").await.status, 200);
    assert!(quotas.round().await.unwrap().is_empty());
    assert!(store.records("quota/", "", 10).await.unwrap().is_empty());
    // It goes with its account.
    let made = gateway.directory().create_account("gone", "gone@example.com").await.unwrap();
    quotas.set(&made.account.id, quota).await.unwrap();
    gateway.directory().delete_account(made.account.id.as_str()).await.unwrap();
    assert!(store.records("quota/", "", 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_quota_that_cannot_be_read_lets_nothing_grow() -> Result<(), GridError> {
    let (gateway, store) = gateway_in(Env::real(), GatewayOptions::default());
    let quotas = Quotas::new(Arc::clone(&store) as SharedStore);
    assert_eq!(put(&gateway, "/bucket/a", "1234").await.status, 200);
    let path = format!("quota/{}", AccountId::founders());
    let garbage = RecordWrite { path, expect: None, value: Some(b"?".to_vec()) };
    store.write_records(vec![garbage]).await?;
    quotas.round().await?;
    assert_eq!(put(&gateway, "/bucket/b", "1").await.code(), "QuotaExceeded");
    assert_eq!(put(&gateway, "/shared/b", "1").await.code(), "QuotaExceeded");
    assert_eq!(call("GET", "/bucket/a").send(&gateway).await.text(), "1234");
    Ok(())
}
