//! Of keys that the grid keeps, over a store in memory.

use super::*;
use crate::tests::memory::MemoryStore;

fn account() -> AccountId {
    AccountId::founders()
}

async fn kms() -> (Kms, Arc<Found>) {
    let kms = Kms::new(Env::real(), Arc::new(MemoryStore::default()), Arc::from("here"));
    let found = kms.create(&account(), "of a test", BTreeMap::new()).await.unwrap();
    (kms, found)
}

#[tokio::test]
async fn a_key_that_is_due_is_rotated_when_it_next_seals() {
    let (kms, found) = kms().await;
    let id = found.key.id.clone();
    let first = kms.seal(&found, b"one", "").await.unwrap();
    assert_eq!(Sealed::read(&first).unwrap().0.version, 1);
    let aged = |key: &mut Key| {
        key.rotation_days = Some(90);
        key.versions.iter_mut().for_each(|version| version.created_ms -= days(91));
        Ok(())
    };
    let found = kms.change(&account(), &id, aged).await.unwrap();
    let second = kms.seal(&found, b"two", "").await.unwrap();
    assert_eq!(Sealed::read(&second).unwrap().0.version, 2);
    let now = kms.find(&account(), &id).await.unwrap();
    assert_eq!(&**kms.open(&now, &first, "").await.unwrap(), b"one");
    assert_eq!(&**kms.open(&now, &second, "").await.unwrap(), b"two");
    // Not due again.
    let third = kms.seal(&now, b"three", "").await.unwrap();
    assert_eq!(Sealed::read(&third).unwrap().0.version, 2);
}

#[tokio::test]
async fn many_that_see_that_a_key_is_due_rotate_it_once() {
    let (kms, found) = kms().await;
    let id = found.key.id.clone();
    let aged = |key: &mut Key| {
        key.rotation_days = Some(90);
        key.versions.iter_mut().for_each(|version| version.created_ms -= days(91));
        Ok(())
    };
    let found = kms.change(&account(), &id, aged).await.unwrap();
    // Each of them holds the key as it was before.
    for _ in 0..3 {
        let sealed = kms.seal(&found, b"x", "").await.unwrap();
        assert_eq!(Sealed::read(&sealed).unwrap().0.version, 2);
    }
    assert_eq!(kms.find(&account(), &id).await.unwrap().key.versions.len(), 2);
}

#[tokio::test]
async fn what_a_version_sealed_that_is_not_known_yet_is_opened() {
    let (kms, old) = kms().await;
    let id = old.key.id.clone();
    let new = kms.rotate(&account(), &id).await.unwrap();
    let sealed = kms.seal(&new, b"x", "").await.unwrap();
    assert_eq!(&**kms.open(&old, &sealed, "").await.unwrap(), b"x");
    kms.enable(&account(), &id, false).await.unwrap();
    assert!(matches!(kms.open(&old, &sealed, "").await, Err(KmsError::Disabled(_))));
}

#[tokio::test]
async fn an_account_has_so_many_keys_and_changes_them_so_fast() {
    let (kms, found) = kms().await;
    let more = |n: usize| {
        let key = Key { id: format!("{n}"), ..found.key.clone() };
        let value = Some(serde_json::to_vec(&key).unwrap());
        RecordWrite { path: key_path(&account(), &key.id), expect: None, value }
    };
    let most = limits::KMS_KEYS_OF_ACCOUNT_MAX;
    kms.store.write_records((1..most).map(more).collect()).await.unwrap();
    let one_more = kms.create(&account(), "", BTreeMap::new()).await;
    assert!(matches!(one_more, Err(KmsError::Limit(_))));
    let other = AccountId::new("123456789012").unwrap();
    kms.create(&other, "", BTreeMap::new()).await.unwrap();

    let mut slowed = false;
    for n in 0..2 * limits::CHANGES_AT_ONCE {
        let set = kms.set_alias(&account(), &format!("alias/{n}"), &found.key.id, false).await;
        slowed = set == Err(GridError::SlowDown.into());
        if slowed {
            break;
        }
        set.unwrap();
    }
    assert!(slowed);
}

#[tokio::test]
async fn a_key_whose_time_is_over_is_gone() {
    let (kms, found) = kms().await;
    let id = found.key.id.clone();
    let over = |key: &mut Key| {
        key.state = KeyState::PendingDeletion { at_ms: 1 };
        Ok(())
    };
    assert!(matches!(kms.change(&account(), &id, over).await, Err(KmsError::NotFound(_))));
    assert!(matches!(kms.find(&account(), &id).await, Err(KmsError::NotFound(_))));
    assert!(kms.list(&account()).await.unwrap().is_empty());
    let left = kms.store.records("kms/", "", 10).await.unwrap();
    assert!(left.is_empty(), "its material went with its record");
}

#[tokio::test]
async fn names_lead_to_keys_of_their_own_account_only() {
    let (kms, found) = kms().await;
    let (id, arn) = (&found.key.id, kms.arn(&account(), &found.key.id));
    kms.set_alias(&account(), "alias/a/b", id, false).await.unwrap();
    let other = AccountId::new("123456789012").unwrap();
    for name in [id.as_str(), &arn, "alias/a/b", &kms.alias_arn(&account(), "alias/a/b")] {
        assert_eq!(kms.find(&account(), name).await.unwrap().key.id, *id, "{name}");
        let by_other = kms.find(&other, name).await;
        assert_eq!(by_other.is_ok(), name.starts_with("arn:"), "{name}");
    }
    for name in ["", "arn:aws:kms:", "arn:aws:kms:x:y", "alias/", "alias/none", "../key"] {
        assert!(matches!(kms.find(&account(), name).await, Err(KmsError::NotFound(_))), "{name}");
    }
    for name in ["alias/", "b", "alias/\u{e4}", "alias/a b"] {
        assert!(kms.set_alias(&account(), name, id, false).await.is_err(), "{name}");
    }
    let again = kms.set_alias(&account(), "alias/a/b", id, false).await;
    assert_eq!(again, Err(KmsError::Exists("alias/a/b".to_owned())));
    kms.delete_alias(&account(), "alias/a/b").await.unwrap();
    assert!(kms.find(&account(), "alias/a/b").await.is_err());
}
