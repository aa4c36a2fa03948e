//! What owners have laid down for their buckets, as this gateway has it.
//!
//! State: rules read lately, each with the rules version it was read at. The node's copy of the
//! map brings the version of the grid; rules of another version are read again, so that none is
//! used that is older than that copy, nor any that is older than
//! [`PRINCIPAL_FRESH`](crate::limits::PRINCIPAL_FRESH). What cannot be read denies.

use std::collections::BTreeMap;
use std::sync::Arc;

use nexusgrid_env::{BootInstant, Env};
use nexusgrid_grid::lifecycle::Lifecycle;
use nexusgrid_grid::{BucketInfo, GridError, RecordWrite};
use nexusgrid_iam::acl::Acl;
use nexusgrid_iam::policy::{Document, DocumentKind};
use nexusgrid_iam::{AccountId, ResourcePolicy, Rules as IamRules, limits as iam_limits};
use parking_lot::Mutex;
use s3s::dto::{BucketLoggingStatus, Tagging};
use serde::{Deserialize, Serialize};

use crate::access_log::Target;
use crate::events::{self, Rule};
use crate::limits;
use crate::metrics::Metrics;
use crate::s3::read_xml;
use crate::store::SharedStore;

/// A kind of thing that can be laid down for a bucket; the name is the end of its record's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Its policy: the JSON as it was given.
    Policy,
    /// Whether its policy binds its owner, too.
    PolicyBindsOwner,
    /// Its access control list.
    Acl,
    /// Who owns objects of others.
    Ownership,
    /// What must not be public.
    PublicAccess,
    /// Its tags: XML.
    Tagging,
    /// Which web pages may use it: XML.
    Cors,
    /// Its default encryption: XML.
    Encryption,
    /// Who pays: XML.
    RequestPayment,
    /// Its web site: XML.
    Website,
    /// Where records of its requests go: XML.
    Logging,
    /// Who is told of what happens: XML.
    Notification,
    /// What becomes of its objects with time, as far as clients are told: encoded.
    Lifecycle,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Policy => "policy",
            Kind::PolicyBindsOwner => "policy-binds-owner",
            Kind::Acl => "acl",
            Kind::Ownership => "ownership",
            Kind::PublicAccess => "public-access",
            Kind::Tagging => "tagging",
            Kind::Cors => "cors",
            Kind::Encryption => "encryption",
            Kind::RequestPayment => "request-payment",
            Kind::Website => "website",
            Kind::Logging => "logging",
            Kind::Notification => "notification",
            Kind::Lifecycle => "lifecycle",
        }
    }
}

/// Who owns an object that another account writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ownership {
    /// The bucket's owner; access control lists are switched off.
    BucketOwnerEnforced,
    /// The bucket's owner, if the writer says `bucket-owner-full-control`.
    BucketOwnerPreferred,
    /// The writer.
    ObjectWriter,
}

impl Ownership {
    /// By S3's name.
    pub fn parse(name: &str) -> Option<Ownership> {
        Some(match name {
            "BucketOwnerEnforced" => Ownership::BucketOwnerEnforced,
            "BucketOwnerPreferred" => Ownership::BucketOwnerPreferred,
            "ObjectWriter" => Ownership::ObjectWriter,
            _ => return None,
        })
    }

    /// S3's name.
    pub fn name(self) -> &'static str {
        match self {
            Ownership::BucketOwnerEnforced => "BucketOwnerEnforced",
            Ownership::BucketOwnerPreferred => "BucketOwnerPreferred",
            Ownership::ObjectWriter => "ObjectWriter",
        }
    }
}

/// S3's public access block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicAccessBlock {
    /// New public lists are refused.
    pub block_acls: bool,
    /// Public lists do not count.
    pub ignore_acls: bool,
    /// New public policies are refused.
    pub block_policy: bool,
    /// A public policy counts for the owner's account only.
    pub restrict_buckets: bool,
}

/// Something that was stored and may have become unreadable.
#[derive(Clone, Debug, Default, PartialEq)]
enum Stored<T> {
    #[default]
    None,
    Is(T),
    Unreadable,
}

impl<T> Stored<T> {
    fn read(text: Option<&Vec<u8>>, parse: impl FnOnce(&[u8]) -> Option<T>) -> Stored<T> {
        match text {
            None => Stored::None,
            Some(text) => parse(text).map_or(Stored::Unreadable, Stored::Is),
        }
    }

    fn is_unreadable(&self) -> bool {
        matches!(self, Stored::Unreadable)
    }

    fn into_option(self) -> Option<T> {
        match self {
            Stored::Is(value) => Some(value),
            Stored::None | Stored::Unreadable => None,
        }
    }

    fn as_ref(&self) -> Option<&T> {
        match self {
            Stored::Is(value) => Some(value),
            Stored::None | Stored::Unreadable => None,
        }
    }
}

/// A bucket with all that was laid down for it.
#[derive(Clone, Debug)]
pub struct BucketRules {
    /// The bucket.
    pub info: BucketInfo,
    /// The account that owns it.
    pub owner: AccountId,
    texts: BTreeMap<String, Vec<u8>>,
    /// What was laid down and cannot be read.
    unreadable: Vec<&'static str>,
    policy: Stored<Document>,
    acl: Stored<Acl>,
    ownership: Stored<Ownership>,
    block: Stored<PublicAccessBlock>,
    logging: Option<Target>,
    events: Vec<Rule>,
    lifecycle: Option<Lifecycle>,
    tags: BTreeMap<String, Vec<String>>,
}

/// The account that a bucket's row names. Buckets of before there were accounts name a key: they
/// are the founders'.
pub fn account_of(owner: &str) -> AccountId {
    AccountId::new(owner).unwrap_or_else(|_| AccountId::founders())
}

impl BucketRules {
    fn new(info: BucketInfo, texts: BTreeMap<String, Vec<u8>>) -> BucketRules {
        let owner = account_of(&info.owner);
        let text = |kind: Kind| texts.get(kind.name());
        let policy = Stored::read(text(Kind::Policy), |text| {
            let text = std::str::from_utf8(text).ok()?;
            let kind = DocumentKind::Bucket(&info.name);
            Document::parse(text, kind, iam_limits::BUCKET_POLICY_BYTES_MAX).ok()
        });
        let acl = match Stored::read(text(Kind::Acl), |text| serde_json::from_slice(text).ok()) {
            Stored::None => Stored::Is(Acl::private(&owner.canonical_id())),
            stored => stored,
        };
        let ownership =
            Stored::read(text(Kind::Ownership), |text| serde_json::from_slice(text).ok());
        let block =
            Stored::read(text(Kind::PublicAccess), |text| serde_json::from_slice(text).ok());
        let logging = Stored::read(text(Kind::Logging), |text| {
            let enabled = read_xml::<BucketLoggingStatus>(text).ok()?.logging_enabled;
            enabled.as_ref().map_or(Some(None), |enabled| Target::read(enabled).map(Some))
        });
        let events = Stored::read(text(Kind::Notification), |text| {
            events::read(&read_xml(text).ok()?, &owner).ok()
        });
        let lifecycle = Stored::read(text(Kind::Lifecycle), |text| Lifecycle::decode(text).ok());
        let unreadable = [
            (policy.is_unreadable(), Kind::Policy),
            (acl.is_unreadable(), Kind::Acl),
            (ownership.is_unreadable(), Kind::Ownership),
            (block.is_unreadable(), Kind::PublicAccess),
            (logging.is_unreadable(), Kind::Logging),
            (events.is_unreadable(), Kind::Notification),
            (lifecycle.is_unreadable(), Kind::Lifecycle),
        ];
        let unreadable = unreadable.into_iter().filter(|(is, _)| *is);
        let unreadable = unreadable.map(|(_, kind)| kind.name()).collect();
        let tags = text(Kind::Tagging).and_then(|text| read_xml::<Tagging>(text).ok());
        let tags = tags.into_iter().flat_map(|tags| tags.tag_set);
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in tags.filter_map(|tag| Some((tag.key?, tag.value?))) {
            values.entry(key).or_default().push(value);
        }
        BucketRules {
            tags: values,
            unreadable,
            lifecycle: lifecycle.into_option(),
            owner,
            policy,
            acl,
            ownership,
            block,
            logging: logging.into_option().flatten(),
            events: events.into_option().unwrap_or_default(),
            texts,
            info,
        }
    }

    /// The text of something that was laid down.
    pub fn text(&self, kind: Kind) -> Option<&[u8]> {
        self.texts.get(kind.name()).map(Vec::as_slice)
    }

    /// Where records of its requests go, if anybody wants them.
    pub(crate) fn logging(&self) -> Option<&Target> {
        self.logging.as_ref()
    }

    /// What becomes of its objects with time.
    pub(crate) fn lifecycle(&self) -> Option<&Lifecycle> {
        self.lifecycle.as_ref()
    }

    /// Its tags, and the values of each. What cannot be read is none: a condition that asks for it does
    /// not hold.
    pub(crate) fn tags(&self) -> &BTreeMap<String, Vec<String>> {
        &self.tags
    }

    /// Who is told of what happens to its objects.
    pub(crate) fn events(&self) -> &[Rule] {
        &self.events
    }

    /// The policy, if there is one that can be read.
    pub fn policy(&self) -> Option<&Document> {
        self.policy.as_ref()
    }

    /// The access control list. One that cannot be read grants nothing.
    pub fn acl(&self) -> Acl {
        let nobody = || Acl { owner: self.owner.canonical_id(), grants: Vec::new() };
        self.acl.as_ref().cloned().unwrap_or_else(nobody)
    }

    /// Who owns objects of others, if it was laid down. What cannot be read switches lists off.
    pub fn ownership(&self) -> Option<Ownership> {
        match &self.ownership {
            Stored::None => None,
            Stored::Is(ownership) => Some(*ownership),
            Stored::Unreadable => Some(Ownership::BucketOwnerEnforced),
        }
    }

    /// Whether access control lists count.
    pub fn has_acls(&self) -> bool {
        self.ownership() != Some(Ownership::BucketOwnerEnforced)
    }

    /// What must not be public, if it was laid down. What cannot be read forbids all.
    pub fn public_access_block(&self) -> Option<PublicAccessBlock> {
        match &self.block {
            Stored::None => None,
            Stored::Is(block) => Some(*block),
            Stored::Unreadable => Some(PublicAccessBlock {
                block_acls: true,
                ignore_acls: true,
                block_policy: true,
                restrict_buckets: true,
            }),
        }
    }

    /// As [`nexusgrid_iam::authorize`] takes them.
    pub fn for_iam<'a>(
        &'a self,
        object_owner: Option<&'a str>,
        object_acl: Option<&'a Acl>,
    ) -> IamRules<'a> {
        let block = self.public_access_block().unwrap_or_default();
        IamRules {
            owner: Some(self.owner.as_str()),
            object_owner: object_owner.filter(|_| self.has_acls()),
            policy: match &self.policy {
                Stored::None => ResourcePolicy::None,
                Stored::Is(document) => ResourcePolicy::Is(document),
                Stored::Unreadable => ResourcePolicy::Unreadable,
            },
            bucket_acl: self.acl.as_ref().filter(|_| self.has_acls()),
            object_acl: object_acl.filter(|_| self.has_acls()),
            ignore_public_acls: block.ignore_acls,
            restrict_public_buckets: block.restrict_buckets,
            policy_binds_owner: self.text(Kind::PolicyBindsOwner).is_some(),
        }
    }

    /// Whether its policy opens it to everybody.
    pub fn policy_is_public(&self) -> bool {
        self.policy().is_some_and(Document::is_public)
    }
}

/// The rules of all buckets.
pub struct Rules {
    env: Env,
    store: SharedStore,
    kept: Mutex<BTreeMap<u64, Kept>>,
    /// What of buckets cannot be read, as far as they were asked about.
    unreadable: Mutex<BTreeMap<String, Vec<&'static str>>>,
    metrics: Metrics,
}

/// A bucket's rules, with the rules version and the moment they were read at.
type Kept = (u64, BootInstant, Arc<BucketRules>);

impl Rules {
    /// Of the buckets of `store`.
    pub fn new(env: Env, store: SharedStore, metrics: Metrics) -> Rules {
        let (kept, unreadable) = Default::default();
        Rules { env, store, kept, unreadable, metrics }
    }

    /// What owners laid down and this gateway cannot read: the buckets, and what it is of each. Rules
    /// about access deny then; records and events of the bucket go nowhere.
    pub fn unreadable(&self) -> BTreeMap<String, Vec<&'static str>> {
        self.unreadable.lock().clone()
    }

    /// Notes what of a bucket cannot be read, and says so once.
    fn note(&self, rules: &BucketRules) {
        let bucket = &rules.info.name;
        let mut unreadable = self.unreadable.lock();
        if unreadable.get(bucket).is_none_or(Vec::is_empty) && rules.unreadable.is_empty() {
            return;
        }
        if unreadable.get(bucket) != Some(&rules.unreadable) {
            let what = rules.unreadable.join(", ");
            tracing::error!(%bucket, what, "what was laid down for a bucket cannot be read");
        }
        if rules.unreadable.is_empty() {
            unreadable.remove(bucket);
        } else if unreadable.len() < limits::BUCKET_RULES_KEPT_MAX {
            unreadable.insert(bucket.clone(), rules.unreadable.clone());
        }
        let many = i64::try_from(unreadable.len()).unwrap_or(i64::MAX);
        self.metrics.buckets_unreadable.set(many);
    }

    /// A bucket that is gone has nothing that cannot be read.
    pub(crate) fn forget(&self, bucket: &str) {
        let mut unreadable = self.unreadable.lock();
        if unreadable.remove(bucket).is_some() {
            let many = i64::try_from(unreadable.len()).unwrap_or(i64::MAX);
            self.metrics.buckets_unreadable.set(many);
        }
    }

    /// The rules of a bucket.
    pub async fn of(&self, bucket: &str) -> Result<Arc<BucketRules>, GridError> {
        let info = match self.store.bucket(bucket).await {
            Ok(info) => info,
            Err(error) => {
                if error == GridError::NoSuchBucket {
                    self.forget(bucket);
                }
                return Err(error);
            }
        };
        // Read before the records: what is noted is never newer than what is kept.
        let version = self.store.rules_version();
        let now = self.env.clock.now();
        if let Some((at, since, rules)) = self.kept.lock().get(&info.id)
            && *at == version
            && now.since(*since) < limits::PRINCIPAL_FRESH
            && rules.info == info
        {
            return Ok(Arc::clone(rules));
        }
        let prefix = self.store.bucket_records(&info);
        let mut texts = BTreeMap::new();
        for record in self.store.records(&prefix, "", limits::BUCKET_RECORDS_MAX).await? {
            if let Some(name) = record.path.strip_prefix(&prefix) {
                texts.insert(name.to_owned(), record.value);
            }
        }
        let rules = Arc::new(BucketRules::new(info, texts));
        self.note(&rules);
        let mut kept = self.kept.lock();
        if kept.len() >= limits::BUCKET_RULES_KEPT_MAX {
            kept.clear();
        }
        kept.insert(rules.info.id, (version, now, Arc::clone(&rules)));
        Ok(rules)
    }

    /// Lays something down for a bucket, or takes it away.
    pub async fn set(
        &self,
        bucket: &BucketInfo,
        values: Vec<(Kind, Option<Vec<u8>>)>,
    ) -> Result<(), GridError> {
        let prefix = self.store.bucket_records(bucket);
        let writes = values
            .into_iter()
            .map(|(kind, value)| RecordWrite {
                path: format!("{prefix}{}", kind.name()),
                expect: None,
                value,
            })
            .collect();
        self.store.write_records(writes).await
    }
}
