//! Listings equal those of a plain ordered map, whatever the keys.

use proptest::prelude::*;

use super::model::{self, Model};
use super::support::*;
use crate::namespace::types::*;

fn key() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        4 => Just(b'/'),
        4 => Just(b'a'),
        2 => Just(b'b'),
        1 => Just(b'-'),
        1 => Just(b'.'),
        1 => Just(b'0'),
        1 => Just(0u8),
        1 => Just(1u8),
        1 => Just(0xFFu8),
    ];
    proptest::collection::vec(byte, 1..7)
}

fn after() -> impl Strategy<Value = Option<ListAfter>> {
    prop_oneof![
        Just(None),
        key().prop_map(|key| Some(ListAfter::Key(key))),
        key().prop_map(|key| Some(ListAfter::Prefix(key))),
    ]
}

fn group_with(keys: &[Vec<u8>]) -> (Group, Model) {
    let mut group = Group::new();
    let mut model = Model::new();
    for key in keys {
        group.put(key, b"x", 0, Precondition::None).unwrap();
        model.insert(key.clone(), b"x".to_vec());
    }
    (group, model)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_walk_of_the_tree_is_byte_order_of_whole_keys(keys in proptest::collection::vec(key(), 0..60)) {
        let (group, model) = group_with(&keys);
        group.check();
        let (lines, more) = model::lines(&group.list(b"", None, None, 1_000));
        let expected: Vec<_> = model.keys().map(|key| (false, key.clone())).collect();
        prop_assert_eq!((lines, more), (expected, false));
    }

    #[test]
    fn every_listing_equals_the_reference(
        keys in proptest::collection::vec(key(), 0..60),
        asks in proptest::collection::vec(
            (
                proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'a'), Just(b'b'), Just(0u8), Just(0xFFu8)], 0..3),
                prop_oneof![
                    Just(None),
                    Just(Some(b"/".to_vec())),
                    Just(Some(b"a".to_vec())),
                    Just(Some(b"/a".to_vec())),
                    Just(Some(b"a/".to_vec())),
                    Just(Some(b"//".to_vec())),
                    Just(Some(vec![0])),
                    Just(Some(vec![0xFF])),
                ],
                after(),
                1u32..8,
            ),
            1..30,
        ),
    ) {
        let (group, model) = group_with(&keys);
        for (prefix, delimiter, after, limit) in asks {
            let delimiter = delimiter.as_deref();
            let expected = model::list(&model, &prefix, delimiter, after.as_ref(), limit as usize);
            let listing = group.list(&prefix, delimiter, after.clone(), limit);
            prop_assert_eq!(model::lines(&listing), expected, "{:?} {:?} {:?}", prefix, delimiter, after);
            // Page by page is all at once.
            let mut all = Vec::new();
            let mut at = after.clone();
            loop {
                let page = group.list(&prefix, delimiter, at, limit);
                all.extend(model::lines(&page).0);
                let Some(next) = page.next else { break };
                at = Some(next);
            }
            let whole = model::list(&model, &prefix, delimiter, after.as_ref(), usize::MAX).0;
            prop_assert_eq!(all, whole);
        }
    }

    #[test]
    fn uploads_are_listed_in_order_of_key_then_start(
        keys in proptest::collection::vec(key(), 0..40),
        prefix in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'a')], 0..2),
        delimiter in prop_oneof![Just(None), Just(Some(b"/".to_vec())), Just(Some(b"a".to_vec()))],
        limit in 1u32..6,
    ) {
        let mut group = Group::new();
        let mut uploads = Vec::new();
        for (nonce, key) in keys.iter().enumerate() {
            let id = create_upload(&mut group, key, nonce as u64);
            uploads.push((key.clone(), id));
        }
        uploads.sort();
        let mut expected: Vec<(Vec<u8>, Option<UploadId>)> = Vec::new();
        for (key, id) in uploads.iter().filter(|(key, _)| key.starts_with(&prefix)) {
            let one = Model::from([(key.clone(), Vec::new())]);
            let line = match &model::list(&one, &prefix, delimiter.as_deref(), None, 1).0[0] {
                (true, common) => (common.clone(), None),
                (false, key) => (key.clone(), Some(*id)),
            };
            if line.1.is_some() || expected.last() != Some(&line) {
                expected.push(line);
            }
        }
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let query = NamespaceQuery::ListUploads {
                bucket: BUCKET, prefix: prefix.clone(), delimiter: delimiter.clone(), after, limit,
            };
            let Ok(NamespaceAnswer::Uploads(listing)) = group.ask(query) else { panic!("no list") };
            prop_assert!(listing.entries.len() <= limit as usize);
            all.extend(listing.entries.into_iter().map(|entry| match entry {
                UploadEntry::Upload(key, id, _) => (key, Some(id)),
                UploadEntry::Prefix(common) => (common, None),
            }));
            let Some(next) = listing.next else { break };
            after = Some(next);
        }
        prop_assert_eq!(all, expected);
    }
}

pub fn create_upload(group: &mut Group, key: &[u8], nonce: u64) -> UploadId {
    let command = NamespaceCommand::CreateUpload {
        session: group.session,
        bucket: BUCKET,
        key: key.to_vec(),
        nonce,
        owner: "o".into(),
        meta: ObjectMeta::default(),
        checksum: None,
        now_ms: 1,
    };
    let NamespaceOk::Upload(id) = group.ok(command) else { panic!("no upload") };
    id
}

#[test]
fn a_delimiter_listing_does_not_read_what_it_rolls_up() {
    // 300 directories of 300 files: the listing of the root touches one row per directory.
    let mut group = Group::new();
    for dir in 0..40 {
        for file in 0..40 {
            group
                .put(format!("d{dir:03}/{file:03}").as_bytes(), b"", 0, Precondition::None)
                .unwrap();
        }
    }
    let counting = Counting { inner: &group.store, rows: Default::default() };
    let query = NamespaceQuery::List {
        bucket: BUCKET,
        prefix: vec![],
        delimiter: Some(b"/".to_vec()),
        after: None,
        limit: 1_000,
    };
    let reply = crate::machine::StateMachine::query(
        &crate::namespace::Namespace,
        &counting,
        &query.encode(),
    )
    .unwrap();
    let Ok(NamespaceAnswer::List(listing)) = decode_query_reply(&reply).unwrap() else {
        panic!("no list")
    };
    assert_eq!(listing.entries.len(), 40);
    let rows = counting.rows.load(std::sync::atomic::Ordering::Relaxed);
    assert!(rows <= 50, "{rows} rows read");
}

struct Counting<'a> {
    inner: &'a crate::rows::memory::Memory,
    rows: std::sync::atomic::AtomicUsize,
}

impl nexusgrid_env::KvRead for Counting<'_> {
    fn get(
        &self,
        family: &'static str,
        key: &[u8],
    ) -> Result<Option<bytes::Bytes>, nexusgrid_env::KvError> {
        self.rows.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.inner.get(family, key)
    }

    fn scan(
        &self,
        family: &'static str,
        range: &nexusgrid_env::ScanRange,
    ) -> Result<Vec<nexusgrid_env::kv::Row>, nexusgrid_env::KvError> {
        let rows = self.inner.scan(family, range)?;
        self.rows.fetch_add(rows.len(), std::sync::atomic::Ordering::Relaxed);
        Ok(rows)
    }
}
