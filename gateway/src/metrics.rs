//! What the gateway counts, for Prometheus.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The agent's registry: every part registers its metrics there, the admin listener shows them.
pub type SharedRegistry = Arc<Mutex<Registry>>;

/// Upper bounds of the duration histogram, seconds.
const DURATION_BUCKETS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Labels of a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// S3's name of the operation; `none` if the request did not get so far.
    pub operation: &'static str,
    /// HTTP status.
    pub status: u16,
}

/// Labels of a duration.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OperationLabels {
    /// S3's name of the operation.
    pub operation: &'static str,
}

/// Labels of an account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AccountLabels {
    /// Its id.
    pub account: String,
}

/// A number per account.
pub type PerAccount = Family<AccountLabels, Gauge<i64, AtomicI64>>;

/// Accounts that have quotas, as far as this gateway counts them up.
#[derive(Clone, Default)]
pub struct QuotaMetrics {
    /// Bytes that they hold.
    pub held_bytes: PerAccount,
    /// Objects that they hold.
    pub held_objects: PerAccount,
    /// The most bytes that they may hold.
    pub quota_bytes: PerAccount,
    /// The most objects that they may hold.
    pub quota_objects: PerAccount,
}

/// The gateway's metrics; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    /// Requests answered.
    pub requests: Family<RequestLabels, Counter>,
    /// From the first byte of a request's head to the last of its reply.
    pub duration: Family<OperationLabels, Histogram>,
    /// Body bytes received.
    pub received: Counter<u64, AtomicU64>,
    /// Body bytes sent.
    pub sent: Counter<u64, AtomicU64>,
    /// Open connections.
    pub connections: Gauge<i64, AtomicI64>,
    /// Requests being worked on.
    pub in_flight: Gauge<i64, AtomicI64>,
    /// Requests and connections told SlowDown for want of a slot.
    pub refused: Counter,
    /// Buckets of which something that was laid down cannot be read.
    pub buckets_unreadable: Gauge<i64, AtomicI64>,
    /// Access records that were not delivered.
    pub access_records_lost: Counter,
    /// Messages with events that their targets took.
    pub events_delivered: Counter,
    /// Attempts that targets did not take.
    pub events_refused: Counter,
    /// Messages that were given up.
    pub events_dead: Counter,
    /// Messages that are gone untold: of removed targets, and given up ones of which there were too many.
    pub events_lost: Counter,
    /// Quotas of accounts.
    pub quotas: QuotaMetrics,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            requests: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS)),
            received: Counter::default(),
            sent: Counter::default(),
            connections: Gauge::default(),
            in_flight: Gauge::default(),
            refused: Counter::default(),
            buckets_unreadable: Gauge::default(),
            access_records_lost: Counter::default(),
            events_delivered: Counter::default(),
            events_refused: Counter::default(),
            events_dead: Counter::default(),
            events_lost: Counter::default(),
            quotas: QuotaMetrics::default(),
        }
    }
}

impl Metrics {
    /// Makes the metrics and enters them in the registry.
    pub fn register(registry: &SharedRegistry) -> Metrics {
        let metrics = Metrics::default();
        let mut registry = registry.lock();
        let s3 = registry.sub_registry_with_prefix("nexusgrid_s3");
        s3.register("requests", "S3 requests answered", metrics.requests.clone());
        s3.register_with_unit(
            "request_duration",
            "Time from a request's head to the end of its reply",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        let bytes = "Bytes of request bodies received";
        s3.register_with_unit("received", bytes, Unit::Bytes, metrics.received.clone());
        let bytes = "Bytes of response bodies sent";
        s3.register_with_unit("sent", bytes, Unit::Bytes, metrics.sent.clone());
        s3.register("connections", "Open S3 connections", metrics.connections.clone());
        s3.register("in_flight", "S3 requests being worked on", metrics.in_flight.clone());
        s3.register("refused", "Requests and connections told SlowDown", metrics.refused.clone());
        s3.register(
            "buckets_unreadable",
            "Buckets of which something that was laid down cannot be read",
            metrics.buckets_unreadable.clone(),
        );
        for (name, about, family) in [
            (
                "account_held_bytes",
                "Bytes held by an account with a quota",
                &metrics.quotas.held_bytes,
            ),
            (
                "account_held_objects",
                "Objects held by an account with a quota",
                &metrics.quotas.held_objects,
            ),
            (
                "account_quota_bytes",
                "The most bytes an account may hold",
                &metrics.quotas.quota_bytes,
            ),
            (
                "account_quota_objects",
                "The most objects an account may hold",
                &metrics.quotas.quota_objects,
            ),
        ] {
            s3.register(name, about, family.clone());
        }
        let lost = metrics.access_records_lost.clone();
        s3.register("access_records_lost", "Access records that were not delivered", lost);
        for (name, about, counter) in [
            (
                "events_delivered",
                "Messages with events that their targets took",
                &metrics.events_delivered,
            ),
            (
                "events_refused",
                "Attempts that targets of events did not take",
                &metrics.events_refused,
            ),
            ("events_dead", "Messages with events that were given up", &metrics.events_dead),
            ("events_lost", "Messages with events that are gone untold", &metrics.events_lost),
        ] {
            s3.register(name, about, counter.clone());
        }
        metrics
    }
}
