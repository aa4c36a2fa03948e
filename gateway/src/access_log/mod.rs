//! Access logs: requests to buckets whose owners want records of them, in S3's format, as objects
//! in a bucket of their choice.
//!
//! State: records that are not stored yet. They wait in memory, for
//! [`GatewayOptions::access_log_every`](crate::GatewayOptions) at most, and go with a gateway that
//! dies: as with S3, the log is there to see what happened, not to prove it. What may be stored is
//! decided at each delivery: the target's owner lets `logging.s3.amazonaws.com` write there on
//! behalf of the source (`aws:SourceArn`, `aws:SourceAccount`), by policy or list.

mod record;
mod target;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header;
use nexusgrid_env::{BootInstant, Env};
use nexusgrid_grid::{ChecksumAlgorithm, GridError, ObjectMeta, PutRequest, Tenant};
use nexusgrid_iam::{
    Action, Context, Decision, LOG_DELIVERY, Principal, Reason, Resource, authorize,
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub(crate) use record::Entry;
use record::{operation_name, without_secrets};
use target::Source;
pub(crate) use target::Target;

use crate::auth::Ask;
use crate::context::{PeerAddress, Signature};
use crate::digest::DigestPool;
use crate::limits;
use crate::metrics::Metrics;
use crate::rules::{BucketRules, Rules};
use crate::s3::body::rehash;
use crate::store::SharedStore;

/// What the log must know of a request that only its beginning tells.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The bucket.
    pub rules: Arc<BucketRules>,
    /// What is known of the line so far.
    pub entry: Entry,
    /// Whether nothing but a list let the caller in.
    pub acl_required: AtomicBool,
}

impl Asked {
    /// `None` for buckets without a log.
    pub fn of(
        rules: &Arc<BucketRules>,
        principal: &Principal,
        key: Option<&str>,
        ask: &Ask<'_>,
    ) -> Option<Asked> {
        rules.logging()?;
        let Ask { headers, uri, peer, signature, .. } = *ask;
        let text = |name: header::HeaderName| {
            headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let query = uri.query().unwrap_or_default();
        let is_presigned = query.contains("X-Amz-Signature=");
        let (version_of_signature, place) = match signature {
            _ if principal.is_anonymous() => (None, None),
            Signature::Version4 if is_presigned => (Some("SigV4"), Some("QueryString")),
            Signature::Version4 => (Some("SigV4"), Some("AuthHeader")),
            Signature::Version2 { in_query: true } => (Some("SigV2"), Some("QueryString")),
            Signature::Version2 { in_query: false } => (Some("SigV2"), Some("AuthHeader")),
            Signature::Form4 => (Some("SigV4"), None),
            Signature::Form2 => (Some("SigV2"), None),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let version = crate::context::query_pairs(uri).into_iter();
        let mut version = version.filter(|(name, _)| name == "versionId");
        let version = version.next().map(|(_, value)| value);
        let entry = Entry {
            owner: rules.owner.canonical_id(),
            bucket: rules.info.name.clone(),
            peer: peer.map(|PeerAddress(address)| address.to_canonical().to_string()),
            requester: (!principal.is_anonymous()).then(|| principal.arn.clone()),
            key: key.map(str::to_owned),
            request_line: Some(without_secrets(path)),
            referer: text(header::REFERER).map(|referer| without_secrets(&referer)),
            user_agent: text(header::USER_AGENT),
            version,
            signature: version_of_signature,
            auth_type: place,
            host: text(header::HOST),
            ..Entry::default()
        };
        Some(Asked { rules: Arc::clone(rules), entry, acl_required: AtomicBool::new(false) })
    }
}

/// What the end of a request adds.
#[derive(Debug)]
pub(crate) struct Answered<'a> {
    pub request_id: &'a str,
    pub operation: &'static str,
    pub method: &'a str,
    pub status: u16,
    pub error: Option<String>,
    pub sent: u64,
    pub size: Option<u64>,
    pub version: Option<String>,
    pub total: Duration,
    pub turnaround: Duration,
    /// Objects of a request that is about several.
    pub several: Vec<One>,
}

/// One object of a request that is about several.
#[derive(Debug)]
pub(crate) struct One {
    pub key: String,
    pub version: Option<String>,
    /// The code of its error.
    pub error: Option<String>,
}

/// Records by the bucket they are about.
#[derive(Debug)]
struct Waiting {
    since: BootInstant,
    bytes: usize,
    lines: BTreeMap<String, String>,
}

/// What goes into one object: a target, the source where its key names one, and the day where it
/// names that.
type Pile = (Target, Option<String>, Option<u64>);

/// The log of one gateway; cheap to clone.
#[derive(Clone)]
pub(crate) struct AccessLog {
    inner: Arc<Inner>,
}

struct Inner {
    env: Env,
    store: SharedStore,
    rules: Arc<Rules>,
    digests: DigestPool,
    region: Arc<str>,
    metrics: Metrics,
    every: Duration,
    waiting: Mutex<BTreeMap<Pile, Waiting>>,
}

impl AccessLog {
    pub fn new(
        env: Env,
        (store, rules): (SharedStore, Arc<Rules>),
        digests: DigestPool,
        region: Arc<str>,
        metrics: Metrics,
        every: Duration,
    ) -> AccessLog {
        let waiting = Mutex::default();
        let inner = Inner { env, store, rules, digests, region, metrics, every, waiting };
        AccessLog { inner: Arc::new(inner) }
    }

    /// Notes a request that has ended.
    pub fn note(&self, asked: &Asked, answered: Answered<'_>) {
        let Some(target) = asked.rules.logging() else { return };
        let millis = |time: Duration| Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let now = self.inner.env.clock.wall().0;
        let method = answered.method;
        let total_ms = millis(answered.total);
        let mut entry = asked.entry.clone();
        entry.unix_ms = now.saturating_sub(total_ms.unwrap_or(0));
        answered.request_id.clone_into(&mut entry.request_id);
        entry.operation = operation_name(answered.operation, method);
        let path = entry.request_line.take().unwrap_or_default();
        entry.request_line = Some(format!("{method} {path} HTTP/1.1"));
        entry.acl_required = asked.acl_required.load(Ordering::Relaxed) && answered.status < 400;
        entry.status = Some(answered.status);
        entry.error = answered.error;
        entry.sent = answered.sent;
        entry.size = answered.size;
        entry.version = answered.version.or(entry.version);
        entry.total_ms = total_ms;
        entry.turnaround_ms = millis(answered.turnaround);
        let mut lines = String::new();
        entry.write(&mut lines);
        for One { key, version, error } in answered.several {
            let one = Entry {
                operation: "BATCH.DELETE.OBJECT".to_owned(),
                key: Some(key),
                status: error.is_none().then_some(204),
                error,
                version,
                request_line: None,
                sent: 0,
                size: None,
                total_ms: None,
                turnaround_ms: None,
                ..entry.clone()
            };
            one.write(&mut lines);
        }
        self.add(target, &asked.rules.info.name, entry.unix_ms, &lines);
    }

    fn add(&self, target: &Target, source: &str, unix_ms: u64, lines: &str) {
        let inner = &*self.inner;
        let by_source = target.format != target::KeyFormat::Simple;
        let by_day = target.format == target::KeyFormat::ByEvent;
        let day = unix_ms / 86_400_000 * 86_400_000;
        let pile = (target.clone(), by_source.then(|| source.to_owned()), by_day.then_some(day));
        let mut waiting = inner.waiting.lock();
        let held: usize = waiting.values().map(|waiting| waiting.bytes).sum();
        if held + lines.len() > limits::ACCESS_LOG_WAITING_BYTES_MAX {
            inner.metrics.access_records_lost.inc();
            return;
        }
        let now = inner.env.clock.now();
        let entry = waiting.entry(pile).or_insert_with(|| Waiting {
            since: now,
            bytes: 0,
            lines: BTreeMap::new(),
        });
        entry.bytes += lines.len();
        entry.lines.entry(source.to_owned()).or_default().push_str(lines);
    }

    /// Delivers what has waited long enough, until `shutdown`; then all that is left.
    pub async fn deliver(self, shutdown: CancellationToken) {
        let tick = self.inner.every.min(limits::ACCESS_LOG_TICK);
        loop {
            let ended = tokio::select! {
                biased;
                () = shutdown.cancelled() => true,
                () = self.inner.env.clock.sleep(tick) => false,
            };
            self.deliver_due(ended).await;
            if ended {
                return;
            }
        }
    }

    async fn deliver_due(&self, all: bool) {
        let inner = &*self.inner;
        let now = inner.env.clock.now();
        let due: Vec<Pile> = inner
            .waiting
            .lock()
            .iter()
            .filter(|(_, waiting)| {
                all || now.since(waiting.since) >= inner.every
                    || waiting.bytes >= limits::ACCESS_LOG_OBJECT_BYTES
            })
            .map(|(pile, _)| pile.clone())
            .collect();
        for pile in due {
            let Some(waiting) = inner.waiting.lock().remove(&pile) else { continue };
            if let Err(error) = self.store(&pile, &waiting).await {
                tracing::warn!(bucket = %pile.0.bucket, %error, "access records not delivered");
                let lines = waiting.lines.values().map(String::len).sum::<usize>();
                let tries_on =
                    !all && matches!(error, GridError::Unavailable(_) | GridError::SlowDown);
                if tries_on && lines < limits::ACCESS_LOG_WAITING_BYTES_MAX / 2 {
                    self.put_back(pile, waiting);
                } else {
                    inner.metrics.access_records_lost.inc();
                }
            }
        }
    }

    fn put_back(&self, pile: Pile, before: Waiting) {
        let mut waiting = self.inner.waiting.lock();
        match waiting.get_mut(&pile) {
            None => {
                waiting.insert(pile, before);
            }
            Some(after) => {
                after.since = before.since;
                after.bytes += before.bytes;
                for (source, lines) in before.lines {
                    after.lines.entry(source).or_default().insert_str(0, &lines);
                }
            }
        }
    }

    /// Stores the lines of those sources that may have theirs there.
    async fn store(&self, pile: &Pile, waiting: &Waiting) -> Result<(), GridError> {
        let inner = &*self.inner;
        let (target, _, day) = pile;
        let place = inner.rules.of(&target.bucket).await?;
        let now = inner.env.clock.wall().0;
        let unique = format!("{:016X}", inner.env.rng.u64());
        let mut body = String::with_capacity(waiting.bytes);
        let mut key = None;
        for (bucket, lines) in &waiting.lines {
            // A bucket that is gone has no owner who could be asked.
            let Ok(from) = inner.rules.of(bucket).await else { continue };
            let source = Source { account: from.owner.as_str(), region: &inner.region, bucket };
            let name = target.key(source, day.unwrap_or(now), &unique);
            if may_deliver(&from, &place, target, Some(&name), now) {
                body.push_str(lines);
                key = key.or(Some(name));
            } else {
                inner.metrics.access_records_lost.inc();
                let to = &target.bucket;
                tracing::warn!(%bucket, %to, "access records refused by the target's owner");
            }
        }
        let Some(key) = key else { return Ok(()) };
        let meta =
            ObjectMeta { content_type: Some("text/plain".to_owned()), ..ObjectMeta::default() };
        let request = PutRequest {
            bucket: target.bucket.clone(),
            key,
            meta,
            precondition: Default::default(),
            length: Some(body.len() as u64),
            tenant: Tenant(LOG_DELIVERY.to_owned()),
        };
        let body: Bytes = body.into();
        let body = futures_util::stream::once(async move { Ok(body) });
        let incoming = rehash(Box::pin(body), ChecksumAlgorithm::Crc64Nvme, &inner.digests);
        inner.store.put(request, incoming.stream, incoming.finish).await.map(|_| ())
    }
}

/// Whether `target`'s owner lets records of a bucket be stored there: in the prefix as such, and,
/// once it is known, under this key.
pub(crate) fn may_deliver(
    source: &BucketRules,
    place: &BucketRules,
    target: &Target,
    key: Option<&str>,
    now_unix_ms: u64,
) -> bool {
    let service = Principal::grid(LOG_DELIVERY);
    let mut context = crate::context::of_caller(&service, now_unix_ms);
    context.set("aws:SourceArn", format!("arn:aws:s3:::{}", source.info.name));
    // By either of its names: lists know accounts by the longer one.
    context.set("aws:SourceAccount", source.owner.to_string());
    context.add("aws:SourceAccount", source.owner.canonical_id());
    let ask = |key: &str, context: &Context| {
        let resource = Resource::Object { bucket: &target.bucket, key };
        let rules = place.for_iam(None, None);
        authorize(&service, Action::PutObject, &resource, &rules, context, now_unix_ms)
    };
    let is_denied = |key: &str| ask(key, &context) == Decision::Deny(Reason::Denied);
    ask(&target.prefix, &context).allowed() && !key.is_some_and(is_denied)
}
