//! What was stored and cannot be read is said, and stands in nobody else's way.

use std::sync::Arc;

use bytes::Bytes;
use nexusgrid_env::Env;
use nexusgrid_grid::RecordWrite;
use nexusgrid_iam::AccountId;

use super::client::call;
use super::gateway_with;
use crate::events::{EventAdmin, TargetId};
use crate::service::GatewayOptions;
use crate::store::{ObjectStore as _, SharedStore};

#[tokio::test]
async fn what_was_laid_down_and_cannot_be_read_is_seen() {
    let (gateway, store) = gateway_with(GatewayOptions::default());
    let get = || call("GET", "/bucket/k");
    assert_eq!(get().send(&gateway).await.code(), "NoSuchKey");
    assert!(gateway.unreadable_rules().is_empty());
    let prefix = store.bucket_records(&store.bucket("bucket").await.unwrap());
    let write = |name: &str, value: Option<&str>| {
        let value = value.map(|value| value.as_bytes().to_vec());
        vec![RecordWrite { path: format!("{prefix}{name}"), expect: None, value }]
    };
    store.write_records(write("logging", Some("<Bucket"))).await.unwrap();
    store.write_records(write("notification", Some("<Notification"))).await.unwrap();
    // Objects are served all the same; a policy that cannot be read denies.
    assert_eq!(get().send(&gateway).await.code(), "NoSuchKey");
    let seen = gateway.unreadable_rules();
    assert_eq!(seen.get("bucket").unwrap(), &["logging", "notification"]);
    assert_eq!(gateway.metrics().buckets_unreadable.get(), 1);
    store.write_records(write("logging", None)).await.unwrap();
    store.write_records(write("notification", None)).await.unwrap();
    assert_eq!(get().send(&gateway).await.code(), "NoSuchKey");
    assert!(gateway.unreadable_rules().is_empty());
    assert_eq!(gateway.metrics().buckets_unreadable.get(), 0);
}

#[tokio::test]
async fn a_dead_letter_that_cannot_be_read_hides_no_other() {
    let (_, store) = gateway_with(GatewayOptions::default());
    let target = TargetId { account: AccountId::founders(), name: "t".to_owned() };
    for (id, text) in [("1-1-a", "{\"a\":1}"), ("2-1-b", "lost"), ("3-1-c", "{\"c\":1}")] {
        let key = format!("event-dead/000000000001/t/{id}");
        store.own_put(&key, Bytes::from_static(text.as_bytes())).await.unwrap();
    }
    let admin = EventAdmin::of(Env::real(), Arc::clone(&store) as SharedStore);
    let letters = admin.dead(&target).await.unwrap();
    let shown: Vec<_> = letters.iter().map(|it| (it.id.as_str(), it.message.is_some())).collect();
    assert_eq!(shown, [("1-1-a", true), ("2-1-b", false), ("3-1-c", true)]);
    assert_eq!(admin.raise(&target, true).await.unwrap(), 2);
    assert_eq!(store.own_list("event/", None, 10).await.unwrap().len(), 2);
    assert_eq!(admin.dead(&target).await.unwrap().len(), 1);
    assert_eq!(admin.raise(&target, false).await.unwrap(), 1);
    assert!(admin.dead(&target).await.unwrap().is_empty());
}
