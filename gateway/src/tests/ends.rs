//! What lifecycle rules did is told from notes that outlive whoever reads them.

use std::sync::Arc;

use nexusgrid_env::Env;
use nexusgrid_grid::EndKind;
use nexusgrid_grid::lifecycle::StorageClass;
use nexusgrid_iam::AccountId;
use serde_json::Value;

use super::client::call;
use super::gateway_in;
use crate::events::{Events, TargetId, TargetKind, Targets, Teller};
use crate::metrics::Metrics;
use crate::rules::Rules;
use crate::service::GatewayOptions;
use crate::store::{ObjectStore as _, SharedStore};

#[tokio::test]
async fn the_ends_that_owners_asked_for_are_told_and_then_forgotten() {
    let env = Env::real();
    let (gateway, store) = gateway_in(env.clone(), GatewayOptions::default());
    let shared: SharedStore = Arc::clone(&store) as SharedStore;
    let target = TargetId { account: AccountId::founders(), name: "t".to_owned() };
    let kind = TargetKind::Webhook { url: "https://e.example".to_owned(), secret: None };
    Targets::new(env.clone(), Arc::clone(&shared)).set(&target, kind, None).await.unwrap();
    let events =
        Events::new(env.clone(), Arc::clone(&shared), Arc::from("us-east-1"), Metrics::default());
    let rules = Arc::new(Rules::new(env.clone(), Arc::clone(&shared), Metrics::default()));
    let teller = Teller { env, store: shared, rules, events };

    store.end("bucket", "too early", EndKind::Deleted);
    assert!(!teller.round().await.unwrap());
    let wanted = format!(
        "<NotificationConfiguration><QueueConfiguration><Id>q</Id><Queue>{}</Queue>\
         <Event>s3:LifecycleExpiration:*</Event><Event>s3:LifecycleTransition</Event>\
         <Filter><S3Key><FilterRule><Name>prefix</Name><Value>a/</Value></FilterRule></S3Key></Filter>\
         </QueueConfiguration></NotificationConfiguration>",
        target.arn("us-east-1")
    );
    let asked = call("PUT", "/bucket?notification=").body(wanted).send(&gateway).await;
    assert_eq!(asked.status, 200, "{}", asked.text());
    let before = store.own_list("event/", None, 100).await.unwrap();

    store.end("bucket", "a/1", EndKind::Deleted);
    store.end("bucket", "other", EndKind::Deleted);
    store.end("bucket", "a/2", EndKind::Marked);
    store.end("bucket", "a/3", EndKind::Moved(StorageClass::Named("REPLICATED".to_owned())));
    // Cut off before it was forgotten: it is told again.
    let page = store.ends().await.unwrap();
    assert_eq!(page[0].ends.len(), 4);
    assert!(teller.round().await.unwrap());
    assert!(store.ends().await.unwrap().is_empty());
    assert!(!teller.round().await.unwrap());

    let mut told = Vec::new();
    // Those of one millisecond stand in no order.
    let after = store.own_list("event/", None, 100).await.unwrap();
    for key in after.iter().filter(|key| !before.contains(key)) {
        let message: Value = serde_json::from_slice(&store.own_get(key).await.unwrap()).unwrap();
        told.extend(message["Records"].as_array().cloned().unwrap_or_default());
    }
    let mut seen: Vec<(&str, &str)> = told
        .iter()
        .map(|record| {
            let name = record["eventName"].as_str().unwrap();
            (name, record["s3"]["object"]["key"].as_str().unwrap())
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            ("LifecycleExpiration:Delete", "a%2F1"),
            ("LifecycleExpiration:DeleteMarkerCreated", "a%2F2"),
            ("LifecycleTransition", "a%2F3"),
        ]
    );
    let moved = told.iter().find(|record| record["eventName"] == "LifecycleTransition").unwrap();
    let class = &moved["lifecycleEventData"]["transitionEventData"]["destinationStorageClass"];
    assert_eq!(class, "REPLICATED");
    assert_eq!(moved["s3"]["object"]["size"], 3);
    assert_eq!(moved["userIdentity"]["principalId"], "s3.amazonaws.com");
}
