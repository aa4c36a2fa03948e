//! Buckets and keys.
//!
//! ```text
//!   CreateBucket ──> Active ──BeginDelete──> Deleting ──(its group dropped it)──FinishDelete──> gone
//!                      ^──────CancelDelete──────┘
//! ```
//!
//! A bucket's key versions stay after it is gone: copies by link in other buckets of its group may
//! still be sealed under them.
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use nexusgrid_codec::id::GroupId;
use nexusgrid_env::kv::prefix_end;

use super::limits;
use super::machine::{Change, Step, all, check_sealed, check_text, full, invalid};
use super::rows::{self, ROOT};
use super::topology::{Bucket, BucketState};
use super::types::{AccessKey, BucketKey, BucketSettings, InvalidField, RootError, RootOk};
use crate::namespace::types::BucketId;

/// The bucket of the cluster's own objects: no name that S3 allows, and none that a client's request
/// finds ([`Topology::bucket`](super::topology::Topology::bucket)).
pub const SYSTEM_BUCKET: &str = ".nexusgrid";

/// S3's rules for names of general-purpose buckets.
pub fn is_bucket_name(name: &str) -> bool {
    let is_alnum = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let looks_like_ip = name.split('.').count() == 4
        && name.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| is_alnum(byte) || *byte == b'-' || *byte == b'.')
        // Its labels are a host's: a bucket can be named by its host, too.
        && name.split('.').map(str::as_bytes).all(|label| {
            label.first().is_some_and(is_alnum) && label.last().is_some_and(is_alnum)
        })
        && !looks_like_ip
        && !["xn--", "sthree-", "amzn-s3-demo-"].iter().any(|prefix| name.starts_with(prefix))
        && !["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"]
            .iter()
            .any(|suffix| name.ends_with(suffix))
}

impl Change<'_> {
    pub(super) fn create_bucket(
        &mut self,
        name: String,
        owner: String,
        settings: BucketSettings,
        sealed_key: Vec<u8>,
        now_ms: u64,
    ) -> Step<RootOk> {
        if !is_bucket_name(&name) {
            return Err(invalid(InvalidField::BucketName));
        }
        self.make_bucket(name, owner, settings, sealed_key, now_ms)
    }

    pub(super) fn create_system_bucket(
        &mut self,
        sealed_key: Vec<u8>,
        now_ms: u64,
    ) -> Step<RootOk> {
        let known: Option<Bucket> = self.tx.load(ROOT, &rows::bucket(SYSTEM_BUCKET))?;
        if let Some(known) = known {
            return Ok(RootOk::Bucket { bucket: known.id, group: known.group });
        }
        let (name, owner) = (SYSTEM_BUCKET.to_owned(), "nexusgrid".to_owned());
        self.make_bucket(name, owner, BucketSettings::default(), sealed_key, now_ms)
    }

    fn make_bucket(
        &mut self,
        name: String,
        owner: String,
        settings: BucketSettings,
        sealed_key: Vec<u8>,
        now_ms: u64,
    ) -> Step<RootOk> {
        check_text(&owner, InvalidField::AccessKey)?;
        check_sealed(&sealed_key)?;
        let known: Option<Bucket> = self.tx.load(ROOT, &rows::bucket(&name))?;
        if let Some(known) = known {
            return Err(match known.state {
                BucketState::Active if known.owner == owner => RootError::BucketOwned,
                BucketState::Deleting if known.owner == owner => RootError::BucketDeleting,
                _ => RootError::BucketExists,
            }
            .into());
        }
        let buckets: Vec<Bucket> = all(&self.tx, b"B")?;
        if buckets.len() >= limits::BUCKETS_MAX {
            return Err(full(InvalidField::BucketName));
        }
        let mut per_group: BTreeMap<GroupId, usize> =
            (1..=self.cluster.groups).map(|group| (GroupId(group), 0)).collect();
        for bucket in &buckets {
            *per_group.entry(bucket.group).or_default() += 1;
        }
        let group = per_group.iter().min_by_key(|(group, count)| (**count, **group));
        let group = *group.ok_or_else(|| invalid(InvalidField::Groups))?.0;
        self.cluster.buckets += 1;
        let id = BucketId(self.cluster.buckets);
        let key = BucketKey { bucket: id, version: 1, sealed: sealed_key };
        self.tx.store(ROOT, rows::bucket_key(id, 1), &key);
        self.tx.store(ROOT, rows::bucket_name(id), &name);
        self.set_bucket(&Bucket {
            id,
            name,
            owner,
            group,
            created_ms: now_ms,
            settings,
            state: BucketState::Active,
            key_version: 1,
        });
        Ok(RootOk::Bucket { bucket: id, group })
    }

    fn set_bucket(&mut self, bucket: &Bucket) {
        self.tx.store(ROOT, rows::bucket(&bucket.name), bucket);
        self.map_changed = true;
    }

    fn bucket_by_id(&self, id: BucketId) -> Step<Bucket> {
        let name: Option<String> = self.tx.load(ROOT, &rows::bucket_name(id))?;
        let name = name.ok_or(RootError::NoSuchBucket)?;
        let bucket = self.tx.load(ROOT, &rows::bucket(&name))?;
        bucket.ok_or_else(|| RootError::NoSuchBucket.into())
    }

    pub(super) fn begin_delete_bucket(&mut self, name: &str) -> Step<RootOk> {
        if name == SYSTEM_BUCKET {
            return Err(RootError::NoSuchBucket.into());
        }
        let bucket: Option<Bucket> = self.tx.load(ROOT, &rows::bucket(name))?;
        let mut bucket = bucket.ok_or(RootError::NoSuchBucket)?;
        if bucket.state != BucketState::Deleting {
            bucket.state = BucketState::Deleting;
            self.set_bucket(&bucket);
        }
        Ok(RootOk::Bucket { bucket: bucket.id, group: bucket.group })
    }

    pub(super) fn cancel_delete_bucket(&mut self, id: BucketId) -> Step<RootOk> {
        let mut bucket = self.bucket_by_id(id)?;
        if bucket.state != BucketState::Active {
            bucket.state = BucketState::Active;
            self.set_bucket(&bucket);
        }
        Ok(RootOk::Done)
    }

    pub(super) fn finish_delete_bucket(&mut self, id: BucketId) -> Step<RootOk> {
        let bucket = match self.bucket_by_id(id) {
            Ok(bucket) => bucket,
            // Asked again: it is gone.
            Err(super::machine::Stop::Refuse(_)) => return Ok(RootOk::Done),
            Err(stop) => return Err(stop),
        };
        if bucket.state != BucketState::Deleting {
            return Err(invalid(InvalidField::State));
        }
        self.tx.delete(ROOT, rows::bucket(&bucket.name));
        self.tx.delete(ROOT, rows::bucket_name(id));
        self.drop_bucket_records(self.index, id)?;
        self.map_changed = true;
        Ok(RootOk::Done)
    }

    pub(super) fn set_bucket_settings(
        &mut self,
        id: BucketId,
        settings: BucketSettings,
    ) -> Step<RootOk> {
        let bucket = self.bucket_by_id(id)?;
        self.set_bucket(&Bucket { settings, ..bucket });
        Ok(RootOk::Done)
    }

    pub(super) fn put_bucket_key(&mut self, key: &BucketKey) -> Step<RootOk> {
        check_sealed(&key.sealed)?;
        let mut bucket = self.bucket_by_id(key.bucket)?;
        if bucket.key_version.checked_add(1) != Some(key.version) {
            return Err(RootError::KeyVersion.into());
        }
        bucket.key_version = key.version;
        self.tx.store(ROOT, rows::bucket_key(key.bucket, key.version), key);
        self.set_bucket(&bucket);
        Ok(RootOk::Done)
    }

    pub(super) fn create_key(&mut self, key: &AccessKey) -> Step<RootOk> {
        let is_id = (3..=128).contains(&key.id.len())
            && key.id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b',');
        if !is_id || key.grants.len() > limits::GRANTS_MAX {
            return Err(invalid(InvalidField::AccessKey));
        }
        check_text(&key.owner, InvalidField::AccessKey)?;
        check_sealed(&key.sealed_secret)?;
        for grant in &key.grants {
            check_text(&grant.bucket, InvalidField::AccessKey)?;
        }
        let row_key = rows::access_key(&key.id);
        if self.tx.get(ROOT, &row_key)?.is_some() {
            return Err(RootError::KeyExists.into());
        }
        let stored = self.tx.scan(ROOT, b"K", prefix_end(b"K").as_deref(), usize::MAX)?.len();
        if stored >= limits::ACCESS_KEYS_MAX {
            return Err(full(InvalidField::AccessKey));
        }
        self.tx.store(ROOT, row_key, key);
        Ok(RootOk::Done)
    }

    pub(super) fn delete_key(&mut self, id: &str) -> Step<RootOk> {
        let key = rows::access_key(id);
        if self.tx.get(ROOT, &key)?.is_none() {
            return Err(RootError::NoSuchKey.into());
        }
        self.tx.delete(ROOT, key);
        self.note_rules_change(self.index)?;
        Ok(RootOk::Done)
    }
}
