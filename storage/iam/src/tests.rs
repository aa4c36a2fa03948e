//! Properties of [`authorize`], against rules written down a second time, as a table.

use std::collections::BTreeMap;

use proptest::prelude::*;
use zeroize::Zeroizing;

use crate::*;

const NOW: Context = Context { now_unix_ms: 1_000_000 };

fn key() -> AccessKeyId {
    AccessKeyId::new("TESTKEY").expect("valid")
}

/// The rules once more: (action, kind of resource, grant), independent of the code under test.
fn table(action: Action) -> (&'static str, &'static str) {
    match action {
        Action::ListBuckets => ("cluster", "any"),
        Action::CreateBucket => ("bucket", "admin"),
        Action::HeadBucket => ("bucket", "read"),
        Action::DeleteBucket => ("bucket", "owner"),
        Action::ListObjects => ("bucket", "read"),
        Action::ListUploads => ("bucket", "write"),
        Action::GetObject => ("object", "read"),
        Action::PutObject => ("object", "write"),
        Action::DeleteObject => ("bucket or object", "write"),
        Action::ListParts => ("object", "write"),
        Action::AbortUpload => ("object", "write"),
        Action::ConfigureBucket => ("bucket", "owner"),
        Action::BypassRetention => ("bucket or object", "owner"),
        Action::ReadCluster => ("cluster", "admin"),
        Action::ManageCluster => ("cluster", "admin"),
    }
}

fn reference(principal: &Principal, action: Action, resource: &Resource<'_>, now: u64) -> bool {
    let kind = match resource {
        Resource::Cluster => "cluster",
        Resource::Bucket(_) => "bucket",
        Resource::Object { .. } => "object",
    };
    let (kinds, needs) = table(action);
    let alive = principal.enabled && principal.expires_unix_ms.is_none_or(|end| now < end);
    let grant = resource
        .bucket()
        .and_then(|bucket| principal.grants.get(bucket).copied())
        .unwrap_or_default();
    let held = match needs {
        "any" => true,
        "read" => grant.read,
        "write" => grant.write,
        "owner" => grant.owner,
        _ => false,
    };
    alive && kinds.contains(kind) && (principal.administrator || held)
}

fn grant() -> impl Strategy<Value = Grant> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(read, write, owner)| Grant {
        read,
        write,
        owner,
    })
}

fn principal() -> impl Strategy<Value = Principal> {
    (
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.9),
        prop::option::of(0u64..20),
        prop::collection::btree_map("[a-c]", grant(), 0..4),
    )
        .prop_map(|(administrator, enabled, expires_unix_ms, grants)| Principal {
            key: key(),
            administrator,
            enabled,
            expires_unix_ms,
            grants,
        })
}

proptest! {
    #[test]
    fn agrees_with_the_table(
        principal in principal(), index in 0..Action::ALL.len(), kind in 0..3, bucket in "[a-d]", now in 0u64..20,
    ) {
        let action = Action::ALL[index];
        let resource = match kind {
            0 => Resource::Cluster,
            1 => Resource::Bucket(&bucket),
            _ => Resource::Object { bucket: &bucket, key: "k" },
        };
        let context = Context { now_unix_ms: now };
        let decision = authorize(&principal, action, &resource, &context);
        prop_assert_eq!(decision.allowed(), reference(&principal, action, &resource, now));
    }

    #[test]
    fn a_larger_grant_never_takes_away(small in grant(), more in grant(), needed in grant()) {
        if small.covers(needed) {
            prop_assert!(small.union(more).covers(needed));
        }
        prop_assert!(small.covers(Grant::NONE));
        prop_assert!(Grant::ALL.covers(needed));
    }

    #[test]
    fn grants_of_other_buckets_do_not_count(others in prop::collection::btree_map("[b-z]{1,3}", grant(), 0..6)) {
        let principal = Principal { grants: others, ..Principal::new(key()) };
        for action in Action::ALL {
            for resource in [Resource::Bucket("a"), Resource::Object { bucket: "a", key: "k" }] {
                prop_assert!(!authorize(&principal, action, &resource, &NOW).allowed());
            }
        }
        prop_assert!(!principal.sees_bucket("a", &NOW));
    }

    #[test]
    fn ids_and_secrets_are_well_formed(id in any::<[u8; 10]>(), secret in prop::collection::vec(any::<u8>(), 25)) {
        let id = AccessKeyId::from_random(id);
        prop_assert!(AccessKeyId::new(id.as_str()).is_ok());
        prop_assert_eq!(id.as_str().len(), 18);
        let random: [u8; 25] = secret.try_into().expect("25 bytes");
        let secret = Secret::from_random(&Zeroizing::new(random));
        prop_assert_eq!(secret.expose().len(), 40);
        prop_assert!(secret.matches(secret.expose()));
        prop_assert!(!secret.matches(""));
    }
}

#[test]
fn deny_by_default() {
    let nobody = Principal::new(key());
    for action in Action::ALL {
        for resource in
            [Resource::Cluster, Resource::Bucket("b"), Resource::Object { bucket: "b", key: "k" }]
        {
            let allowed = authorize(&nobody, action, &resource, &NOW).allowed();
            let expected = action == Action::ListBuckets && resource == Resource::Cluster;
            assert_eq!(allowed, expected, "{action:?} on {resource:?}");
        }
    }
}

#[test]
fn a_disabled_or_expired_administrator_may_do_nothing() {
    let admin = Principal { administrator: true, ..Principal::new(key()) };
    let disabled = Principal { enabled: false, ..admin.clone() };
    let expired = Principal { expires_unix_ms: Some(NOW.now_unix_ms), ..admin.clone() };
    let resource = Resource::Cluster;
    let ask = |who: &Principal| authorize(who, Action::ManageCluster, &resource, &NOW);
    assert_eq!(ask(&admin), Decision::Allow);
    assert_eq!(ask(&disabled), Decision::Deny(Reason::KeyDisabled));
    assert_eq!(ask(&expired), Decision::Deny(Reason::KeyExpired));
}

#[test]
fn all_names_every_action_once() {
    let unique: std::collections::BTreeSet<_> = Action::ALL.into_iter().collect();
    assert_eq!(unique.len(), Action::ALL.len());
}

#[test]
fn distinct_random_bytes_give_distinct_names() {
    let mut seen = BTreeMap::new();
    for byte in 0..10 {
        for bit in 0..8 {
            let mut random = [0u8; 10];
            random[byte] = 1 << bit;
            assert!(seen.insert(AccessKeyId::from_random(random), ()).is_none());
        }
    }
}

#[test]
fn access_key_ids_are_checked() {
    for bad in ["", "abc", "with space", "slash/slash", "ümlaut", &"x".repeat(129)] {
        assert!(AccessKeyId::new(bad).is_err(), "{bad}");
    }
    for good in ["abcd", "AKIA.test_key-1", &"x".repeat(128)] {
        assert!(AccessKeyId::new(good).is_ok(), "{good}");
    }
}
