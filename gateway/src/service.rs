//! From an HTTP request to an HTTP reply: everything around s3s that is not S3.
//!
//! Gives each request an id and a slot (or tells it SlowDown), bounds its body, refuses what s3s
//! would buffer without bound, and notes its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use nexusgrid_env::Env;
use nexusgrid_grid::{GridError, RejectKind};
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::host::SingleDomain;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Error, S3ErrorCode, StdError};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::access_log::AccessLog;
use crate::auth::{Doorkeeper, Keys, RequestNotes, SharedKeys};
use crate::context::PeerAddress;
use crate::context::query_pairs;
use crate::cors;
use crate::digest::DigestPool;
use crate::error::{GatewayError, from_grid, refuse};
use crate::events::{Deliverer, Events, Targets, Teller};
use crate::form::{self, Forms};
use crate::identity::Directory;
use crate::identity::oidc::Tokens;
use crate::identity::route::{FormBody, Identities, is_form};
use crate::kms::Kms;
use crate::kms::route::{Posted, is_call};
use crate::limits;
use crate::metrics::Metrics;
use crate::outbound::{Outbound, Private};
use crate::quota::Quotas;
use crate::rules::Rules;
use crate::s3::{Handlers, UNNAMED_REGION, insert_lines};
use crate::signature_v2::{self, Version2};
use crate::store::SharedStore;
use crate::tenants;
use crate::turns::{Lines, Turns};
use crate::website::{self, Site, Visit};
use crate::wire::{FinalChunk, RequestBody, RequestEnd, ResponseBody, WholeCheck};

/// How identity providers are asked for their keys.
#[derive(Clone, Debug, Default)]
pub struct OidcOptions {
    /// What of private networks may be asked, with or without TLS. Default: nothing.
    pub private: Vec<Private>,
    /// Certificates to trust beside the system's, PEM. Default: none.
    pub roots: Option<String>,
    /// Audiences of providers that name none. Default: none, so that their tokens are for nobody.
    pub audiences: Vec<String>,
}

/// How the gateway serves.
#[derive(Clone, Debug)]
pub struct GatewayOptions {
    /// The region it answers to whoever asks. Requests may be signed for any. Default `us-east-1`.
    pub region: String,
    /// Buckets are also served as `BUCKET.domain` under this domain. Default none.
    pub domain: Option<String>,
    /// Buckets' web sites are served as `BUCKET.website_domain`. Default none.
    pub website_domain: Option<String>,
    /// Requests worked on at once. Default [`limits::REQUESTS_MAX`].
    pub requests_max: usize,
    /// Pages of listings worked on at once, at least one. Default
    /// [`limits::LISTINGS_PER_PROCESSOR`] for each processor of this machine.
    pub listings_max: usize,
    /// How long a request waits for its turn. Default [`limits::REQUEST_QUEUE_WAIT`].
    pub queue_wait: Duration,
    /// How long a request body may stand still. Default [`limits::BODY_STALL_TIMEOUT`].
    pub body_stall: Duration,
    /// Threads that compute digests. Default 2.
    pub digest_threads: usize,
    /// How identity providers are asked.
    pub oidc: OidcOptions,
    /// Whether clients may send keys of their own (SSE-C) although connections are plain here: right
    /// where TLS ends before the gateway. Default no.
    pub sse_c_without_tls: bool,
    /// Whether requests and HTML forms may be signed by Signature Version 2, as old applications do:
    /// an HMAC-SHA1 by the secret itself, for no region and no day. Default no.
    pub signature_v2: bool,
    /// Whether buckets may be named with a tenant's name before theirs (`TENANT:bucket`), as Ceph's
    /// clients do. Default no.
    pub tenant_names: bool,
    /// Whether a role's trust in a user or role of another account, by name, is enough to take it
    /// on, as Ceph has it. Default no: it takes that account's policies, too.
    pub trust_suffices: bool,
    /// Private addresses that events may be sent to. Default none.
    pub events_private: Vec<Private>,
    /// How often it is looked for what lifecycle rules did. Default [`limits::ENDS_LOOK_EVERY`].
    pub ends_every: Duration,
    /// How often what accounts with quotas hold is counted up. Default [`limits::QUOTA_EVERY`].
    pub quota_every: Duration,
    /// How long a bucket's access records wait for more. Default [`limits::ACCESS_LOG_EVERY`].
    pub access_log_every: Duration,
}

impl Default for GatewayOptions {
    fn default() -> GatewayOptions {
        GatewayOptions {
            region: UNNAMED_REGION.to_owned(),
            domain: None,
            website_domain: None,
            requests_max: limits::REQUESTS_MAX,
            listings_max: listings_max(),
            queue_wait: limits::REQUEST_QUEUE_WAIT,
            body_stall: limits::BODY_STALL_TIMEOUT,
            digest_threads: 2,
            oidc: OidcOptions::default(),
            sse_c_without_tls: false,
            signature_v2: false,
            tenant_names: false,
            trust_suffices: false,
            events_private: Vec::new(),
            ends_every: limits::ENDS_LOOK_EVERY,
            quota_every: limits::QUOTA_EVERY,
            access_log_every: limits::ACCESS_LOG_EVERY,
        }
    }
}

/// S3 over the grid, as a function from request to reply; cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

fn listings_max() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    ((processors as f64 * limits::LISTINGS_PER_PROCESSOR) as usize).max(1)
}

struct Inner {
    s3: S3Service,
    forms: Forms,
    store: SharedStore,
    /// Takes requests signed by Version 2; `None`: nobody does.
    version_2: Option<Version2>,
    rules: Arc<Rules>,
    #[cfg(test)]
    directory: Arc<Directory>,
    lines: Lines,
    options: GatewayOptions,
    env: Env,
    metrics: Metrics,
    log: AccessLog,
    events: Events,
    targets: Arc<Targets>,
}

impl Gateway {
    /// Puts the parts together.
    pub fn new(
        store: SharedStore,
        keys: SharedKeys,
        env: Env,
        metrics: Metrics,
        options: GatewayOptions,
    ) -> Result<Gateway, GatewayError> {
        let digests = DigestPool::start(options.digest_threads)?;
        let region = Arc::from(options.region.as_str());
        let directory = Directory::new(env.clone(), Arc::clone(&store), keys);
        let directory = Arc::new(directory.with_trust(options.trust_suffices));
        let rules = Arc::new(Rules::new(env.clone(), Arc::clone(&store), metrics.clone()));
        let log = AccessLog::new(
            env.clone(),
            (Arc::clone(&store), Arc::clone(&rules)),
            digests.clone(),
            Arc::clone(&region),
            metrics.clone(),
            options.access_log_every,
        );
        let kms = Kms::new(env.clone(), Arc::clone(&store), Arc::clone(&region));
        let kms = Arc::new(kms);
        let events =
            Events::new(env.clone(), Arc::clone(&store), Arc::clone(&region), metrics.clone());
        let targets = Arc::new(Targets::new(env.clone(), Arc::clone(&store)));
        let kept_store = Arc::clone(&store);
        let handlers = Handlers {
            events: events.clone(),
            targets: Arc::clone(&targets),
            store,
            digests,
            region,
            rules: Arc::clone(&rules),
            directory: Arc::clone(&directory),
            kms: Arc::clone(&kms),
            sse_c_without_tls: options.sse_c_without_tls,
        };
        let domain = |domain: &String| {
            SingleDomain::new(domain).map_err(|_| GatewayError::Domain(domain.clone()))
        };
        let host = options.domain.as_ref().map(domain).transpose()?;
        if let Some(website) = &options.website_domain {
            domain(website)?;
            let above = format!(".{}", website.to_ascii_lowercase());
            let is_taken = options.domain.as_ref().is_some_and(|own| {
                own.eq_ignore_ascii_case(website) || own.to_ascii_lowercase().ends_with(&above)
            });
            if is_taken {
                return Err(GatewayError::Domain(format!(
                    "{website}: S3 itself has it, or a part"
                )));
            }
        }
        let lines = Lines {
            requests: Turns::new(options.requests_max),
            listings: Turns::new(options.listings_max.max(1)),
            wait: options.queue_wait,
        };
        let door = Doorkeeper {
            lines: lines.clone(),
            metrics: metrics.clone(),
            directory: Arc::clone(&directory),
            rules: Arc::clone(&rules),
            clock: Arc::clone(&env.clock),
        };
        let forms = Forms {
            handlers: handlers.clone(),
            door: door.clone(),
            host: options.domain.as_ref().map(domain).transpose()?,
            takes_version_2: options.signature_v2,
        };
        let version_2 = options.signature_v2.then(|| {
            let host = options.domain.as_ref().map(domain).transpose()?;
            Ok::<_, GatewayError>(Version2 { door: door.clone(), host })
        });
        let version_2 = version_2.transpose()?;
        let mut builder = S3ServiceBuilder::new(handlers);
        builder.set_auth(Keys(Arc::clone(&directory)));
        let OidcOptions { private, roots, audiences } = options.oidc.clone();
        let outbound = Outbound::new(env.clone(), private, roots);
        let tokens = Tokens::new(env.clone(), outbound, audiences);
        let identities = Identities { directory: Arc::clone(&directory), tokens };
        builder.set_route(Posted { identities, directory: Arc::clone(&directory), kms });
        #[cfg(test)]
        let kept = Arc::clone(&directory);
        builder.set_access(door);
        builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(s3_config()))));
        if let Some(host) = host {
            builder.set_host(host);
        }
        if options.tenant_names {
            builder.set_validation(tenants::Names);
        }
        let s3 = builder.build();
        Ok(Gateway {
            inner: Arc::new(Inner {
                s3,
                forms,
                store: kept_store,
                version_2,
                rules,
                #[cfg(test)]
                directory: kept,
                lines,
                options,
                env,
                metrics,
                log,
                events,
                targets,
            }),
        })
    }

    /// Who is who.
    #[cfg(test)]
    pub(crate) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.inner.directory)
    }

    /// Does what a gateway does besides answering, until `shutdown`: delivers access records and
    /// events.
    pub async fn work(&self, shutdown: CancellationToken) {
        let inner = &*self.inner;
        let outbound = Outbound::new(
            inner.env.clone(),
            inner.options.events_private.clone(),
            inner.options.oidc.roots.clone(),
        );
        let deliverer = Deliverer::new(
            inner.events.queue().clone(),
            Arc::clone(&inner.targets),
            Arc::new(outbound),
        );
        let records = inner.log.clone().deliver(shutdown.clone());
        let teller = Teller {
            env: inner.env.clone(),
            store: Arc::clone(&inner.store),
            rules: Arc::clone(&inner.rules),
            events: inner.events.clone(),
        };
        let ends = teller.run(inner.options.ends_every, shutdown.clone());
        let quotas = Quotas::new(Arc::clone(&inner.store));
        let (every, metrics) = (inner.options.quota_every, &inner.metrics);
        let counting = quotas.run(&inner.env, every, metrics, shutdown.clone());
        tokio::join!(records, ends, counting, deliverer.run(shutdown));
    }

    /// What owners laid down for buckets and this gateway cannot read: what it is, by bucket.
    pub fn unreadable_rules(&self) -> std::collections::BTreeMap<String, Vec<&'static str>> {
        self.inner.rules.unreadable()
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Answers one request. Every failure is a reply.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<ResponseBody>
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
        StdError: From<B::Error>,
    {
        let inner = &*self.inner;
        let notes = Arc::new(RequestNotes {
            id: format!("{:016X}", inner.env.rng.u64()),
            ..Default::default()
        });
        let mut end = RequestEnd {
            notes: Arc::clone(&notes),
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            status: 0,
            started: inner.env.clock.now(),
            clock: Arc::clone(&inner.env.clock),
            metrics: inner.metrics.clone(),
            is_in_flight: false,
            sent: 0,
            complete: false,
            log: inner.log.clone(),
            answered: None,
            size: None,
            version: None,
        };

        let (mut parts, body) = request.into_parts();
        let options = &inner.options;
        let domains = (options.website_domain.as_deref(), options.domain.as_deref());
        let visit = website::enter(&mut parts, domains);
        let awaits_continue = parts.headers.get(header::EXPECT).is_some();
        let whole = whole_check(&parts);
        let (whole, differs) = match whole {
            Some((check, flag)) => (Some(check), Some(flag)),
            None => (None, None),
        };
        let body = RequestBody {
            inner: Some(body),
            stall: inner.options.body_stall,
            timer: None,
            begun: false,
            awaits_continue,
            whole,
            final_chunk: FinalChunk::of(&parts.headers),
            metrics: inner.metrics.clone(),
            exec: inner.env.exec.clone(),
        };

        let key = claimed_key(&parts);
        let peer = parts.extensions.get::<PeerAddress>().map(|PeerAddress(address)| *address);
        let turn = inner.lines.requests.take(key.as_deref(), peer);
        let slot = tokio::time::timeout(inner.options.queue_wait, turn);
        let reply = match slot.await {
            Ok(Some(slot)) => {
                inner.metrics.in_flight.inc();
                end.is_in_flight = true;
                notes.held.lock().request = Some(slot);
                match refused_beforehand(&parts) {
                    Some(error) => error_reply(error),
                    None if signs_for_no_region(&parts) => self.other_region(),
                    None => {
                        let origin = origin(&parts);
                        let mut reply = self.answer(parts, body, visit.as_ref(), &notes).await;
                        notes.held.lock().listing = None;
                        if let Some(key) = notes.key.get() {
                            inner.lines.requests.signed(key);
                        }
                        if let Some((method, uri, headers)) = origin {
                            let said =
                                cors::reply_headers(&inner.rules, &method, &uri, &headers).await;
                            reply.headers_mut().extend(said);
                        }
                        if differs.is_some_and(|differs| differs.load(Ordering::SeqCst)) {
                            let message = "The digest you specified did not match the body.";
                            error_reply(refuse(RejectKind::BadDigest, message))
                        } else {
                            reply
                        }
                    }
                }
            }
            Ok(None) | Err(_) => {
                inner.metrics.refused.inc();
                error_reply(from_grid(GridError::SlowDown))
            }
        };
        finish(reply, end)
    }

    async fn answer<B>(
        &self,
        mut parts: http::request::Parts,
        body: B,
        visit: Option<&Visit>,
        notes: &Arc<RequestNotes>,
    ) -> Response<s3s::Body>
    where
        B: HttpBody<Data = Bytes, Error = StdError> + Send + 'static,
    {
        if parts.method == Method::OPTIONS {
            let reply = cors::preflight(&self.inner.rules, &parts.uri, &parts.headers).await;
            return reply.unwrap_or_else(error_reply);
        }
        if let Some(visit) = visit {
            let site = Site { s3: &self.inner.s3, rules: &self.inner.rules, notes };
            return site.answer(parts, visit).await;
        }
        if form::is_upload(&parts.method, &parts.headers) {
            let reply = self.inner.forms.answer(parts, body, notes).await;
            return reply.unwrap_or_else(error_reply);
        }
        if let Err(error) = self.sign_as_s3s_reads(&mut parts, notes).await {
            return error_reply(error);
        }
        let mut request = match ready(parts, body).await {
            Ok(request) => request,
            Err(error) => return error_reply(error),
        };
        request.extensions_mut().insert(Arc::clone(notes));
        let mut reply = self.inner.s3.call(request).await.unwrap_or_else(|error| {
            tracing::error!(%error, request_id = %notes.id, "no reply from s3s");
            error_reply(S3Error::new(S3ErrorCode::InternalError))
        });
        insert_lines(&mut reply);
        reply
    }

    /// Makes signatures that s3s does not read such as it does.
    async fn sign_as_s3s_reads(
        &self,
        parts: &mut http::request::Parts,
        notes: &Arc<RequestNotes>,
    ) -> Result<(), S3Error> {
        date_in_its_own_header(&mut parts.headers);
        match &self.inner.version_2 {
            // The identity interfaces never take it.
            Some(version_2) if signature_v2::is_claimed(parts) && !is_posted(parts) => {
                version_2.check(parts, notes).await
            }
            _ => Ok(()),
        }
    }

    /// What a client is told that signed for a place that cannot be: which region this is, so that it
    /// signs again for that.
    fn other_region(&self) -> Response<s3s::Body> {
        let region = &self.inner.options.region;
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>\
             <Code>AuthorizationHeaderMalformed</Code>\
             <Message>The authorization header is malformed; the region is wrong; expecting \
             '{region}'</Message><Region>{region}</Region></Error>"
        );
        let mut reply = Response::new(s3s::Body::from(Bytes::from(text)));
        *reply.status_mut() = StatusCode::BAD_REQUEST;
        let xml = HeaderValue::from_static("application/xml");
        reply.headers_mut().insert(header::CONTENT_TYPE, xml);
        if let Ok(region) = HeaderValue::from_str(region) {
            reply.headers_mut().insert("x-amz-bucket-region", region);
        }
        reply
    }

    /// The reply for a connection beyond the limit.
    pub(crate) fn slow_down(&self) -> Response<s3s::Body> {
        self.inner.metrics.refused.inc();
        let mut reply = error_reply(from_grid(GridError::SlowDown));
        let close = HeaderValue::from_static("close");
        reply.headers_mut().insert(header::CONNECTION, close);
        let id = format!("{:016X}", self.inner.env.rng.u64());
        if let Ok(id) = HeaderValue::from_str(&id) {
            reply.headers_mut().insert("x-amz-request-id", id);
        }
        reply
    }
}

/// The access key that a request says it is signed by: from its header, or its query.
fn claimed_key(parts: &http::request::Parts) -> Option<String> {
    let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let in_header = header.and_then(|value| value.split_once("Credential=")).map(|(_, it)| it);
    let query = parts.uri.query().unwrap_or("");
    let in_query = query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Credential="));
    let key = match in_header.or(in_query) {
        Some(credential) => credential.split(['/', '%']).next().map(str::to_owned),
        None => signature_v2::claimed_key(parts),
    };
    key.filter(|key| key.len() <= 128)
}

/// Whether the region that a request was signed for has a name that no region has: s3s would refuse
/// it without a word of which to take. (`s3cmd` signs for `US` until it is told.)
fn signs_for_no_region(parts: &http::request::Parts) -> bool {
    let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let credential = header.and_then(|value| value.split_once("Credential=")).map(|(_, it)| it);
    let region = credential.and_then(|credential| credential.split([',', ' ']).next());
    let region = region.and_then(|credential| credential.split('/').nth(2));
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    // None at all is what clients of services without regions may sign for.
    region.is_some_and(|region| !region.bytes().all(is_plain))
}

/// What of a request its reply must be told to a web page by; `None`: no web page asks.
fn origin(parts: &http::request::Parts) -> Option<(Method, Uri, http::HeaderMap)> {
    let is_asked = parts.method != Method::OPTIONS && parts.headers.contains_key(header::ORIGIN);
    is_asked.then(|| (parts.method.clone(), parts.uri.clone(), parts.headers.clone()))
}

/// Whether it is for one of the interfaces to which forms and calls are posted.
fn is_posted(parts: &http::request::Parts) -> bool {
    is_form(&parts.method, &parts.uri, &parts.headers)
        || is_call(&parts.method, &parts.uri, &parts.headers)
}

/// Signature Version 4 may name its time in `Date`, where s3s looks for none. The time is part of
/// what is signed, wherever it stands.
fn date_in_its_own_header(headers: &mut http::HeaderMap) {
    let is_signed = headers
        .get(header::AUTHORIZATION)
        .is_some_and(|value| value.as_bytes().starts_with(b"AWS4-HMAC-SHA256 "));
    if !is_signed || headers.contains_key("x-amz-date") {
        return;
    }
    let date = headers.get(header::DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(nexusgrid_iam::time::parse_http);
    let date = date.and_then(|ms| u64::try_from(ms).ok());
    let date = date.map(|ms| nexusgrid_iam::time::written(ms, "%Y%m%dT%H%M%SZ"));
    if let Some(date) = date.and_then(|date| HeaderValue::from_str(&date).ok()) {
        headers.insert("x-amz-date", date);
    }
}

/// The request as s3s gets it. A form is read first: its clients send no hash of it, and the
/// signature is to cover what was read.
async fn ready<B>(parts: http::request::Parts, body: B) -> Result<Request<s3s::Body>, S3Error>
where
    B: HttpBody<Data = Bytes, Error = StdError> + Send + 'static,
{
    if is_lengthless(&parts) {
        return measured(parts, body).await;
    }
    if !is_posted(&parts) {
        return Ok(Request::from_parts(parts, boxed(body)));
    }
    let limited = Limited::new(body, limits::FORM_BYTES_MAX);
    // Nobody knows yet who sends it.
    let collected = tokio::time::timeout(limits::FORM_READ_TIMEOUT, limited.collect()).await;
    let Ok(collected) = collected else {
        return Err(refuse(RejectKind::Timeout, "the form took too long"));
    };
    let bytes = match collected {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(refuse(RejectKind::TooLarge, "the form is too large"));
        }
        Err(_) => return Err(refuse(RejectKind::IncompleteBody, "the form ended early")),
    };
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut request = Request::from_parts(parts, s3s::Body::from(bytes.clone()));
    if let Ok(hash) = HeaderValue::from_str(&hash) {
        request.headers_mut().insert("x-amz-content-sha256", hash);
    }
    request.extensions_mut().insert(FormBody(bytes));
    Ok(request)
}

/// Whether it is a signed upload that says no length: s3s, as S3, would not look at it.
fn is_lengthless(parts: &http::request::Parts) -> bool {
    let headers = &parts.headers;
    let is_signed = headers
        .get(header::AUTHORIZATION)
        .is_some_and(|value| value.as_bytes().starts_with(b"AWS4-HMAC-SHA256 "));
    parts.method == Method::PUT
        && is_signed
        && headers.contains_key(header::TRANSFER_ENCODING)
        && !headers.contains_key(header::CONTENT_LENGTH)
        && !headers.contains_key("x-amz-decoded-content-length")
}

/// Such an upload with its length, if it is a small one.
async fn measured<B>(
    mut parts: http::request::Parts,
    body: B,
) -> Result<Request<s3s::Body>, S3Error>
where
    B: HttpBody<Data = Bytes, Error = StdError> + Send + 'static,
{
    let limited = Limited::new(body, limits::LENGTHLESS_BYTES_MAX);
    let bytes = match tokio::time::timeout(limits::FORM_READ_TIMEOUT, limited.collect()).await {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(S3Error::new(S3ErrorCode::MissingContentLength));
        }
        Ok(Err(_)) => return Err(refuse(RejectKind::IncompleteBody, "the body ended early")),
        Err(_) => return Err(refuse(RejectKind::Timeout, "the body took too long")),
    };
    parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    Ok(Request::from_parts(parts, s3s::Body::from(bytes)))
}

fn boxed<B>(body: B) -> s3s::Body
where
    B: HttpBody<Data = Bytes, Error = StdError> + Send + 'static,
{
    s3s::Body::http_body_unsync(body)
}

fn s3_config() -> S3Config {
    let mut config = S3Config::default();
    config.xml_max_body_size = limits::XML_BODY_BYTES_MAX;
    config.put_object_max_size = Some(limits::PUT_BYTES_MAX);
    config.aws_chunked_stream_max_chunk_size = limits::SIGNED_CHUNK_BYTES_MAX;
    config.presigned_url_max_skew_time_secs = limits::CLOCK_SKEW_SECONDS_MAX;
    config.presigned_url_max_expires_secs = limits::PRESIGNED_SECONDS_MAX;
    config.sig_v4_allowed_services = ["s3", "iam", "sts", "kms"].map(str::to_owned).to_vec();
    config.enable_sig_v2 = false;
    // The one is part of what is signed, whether it is named among the signed headers or not; the
    // other is of proxies, and means nothing here.
    config.unsigned_amz_header_allowlist =
        ["x-amz-date", "x-amz-cf-id"].map(str::to_owned).to_vec();
    // Forms never get to s3s; these are the second lock.
    config.allow_post_signature = false;
    config.post_object_max_file_size = 0;
    config.form_max_parts = 1;
    // A request is what its method, path and query make it, not what it calls itself.
    config.operation_id_routing = false;
    config
}

fn query_has(uri: &Uri, name: &str) -> bool {
    uri.query().unwrap_or("").split('&').any(|pair| pair.split('=').next() == Some(name))
}

/// What is sent as a document, by the subresource that it is about.
const DOCUMENTS: &[&str] = &[
    "acl",
    "cors",
    "encryption",
    "legal-hold",
    "lifecycle",
    "logging",
    "notification",
    "object-lock",
    "ownershipControls",
    "policy",
    "publicAccessBlock",
    "requestPayment",
    "retention",
    "tagging",
    "versioning",
    "website",
];

/// The check of an XML body: a multi-delete's digests speak of the body, a completion's checksums
/// of the object that it makes.
fn whole_check(
    parts: &http::request::Parts,
) -> Option<(WholeCheck, Arc<std::sync::atomic::AtomicBool>)> {
    if parts.method == Method::POST && query_has(&parts.uri, "delete") {
        return WholeCheck::of(&parts.headers, true);
    }
    if parts.method == Method::PUT && DOCUMENTS.iter().any(|name| query_has(&parts.uri, name)) {
        return WholeCheck::of(&parts.headers, true);
    }
    if parts.method == Method::POST && query_has(&parts.uri, "uploadId") {
        return WholeCheck::of(&parts.headers, false);
    }
    None
}

/// What s3s must not see.
fn refused_beforehand(parts: &http::request::Parts) -> Option<S3Error> {
    // S3 has no URLs that are valid for longer than a week, and none that never were.
    let expires = query_pairs(&parts.uri).into_iter().find(|(name, _)| name == "X-Amz-Expires");
    if let Some((_, seconds)) = expires {
        let is_one = seconds
            .parse()
            .is_ok_and(|seconds: u32| (1..=limits::PRESIGNED_SECONDS_MAX).contains(&seconds));
        if !is_one {
            return Some(S3Error::with_message(
                S3ErrorCode::AccessDenied,
                "X-Amz-Expires must be between 1 and 604800 seconds",
            ));
        }
    }
    let repeated = [header::HOST, header::AUTHORIZATION, header::CONTENT_LENGTH]
        .into_iter()
        .find(|name| parts.headers.get_all(name).iter().count() > 1);
    repeated.map(|name| {
        refuse(RejectKind::InvalidRequest, format!("the header {name} is there more than once"))
    })
}

fn error_reply(error: S3Error) -> Response<s3s::Body> {
    error.to_http_response().unwrap_or_else(|_| {
        let mut reply = Response::new(s3s::Body::empty());
        *reply.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        reply
    })
}

/// Names the request in the body of S3's errors, as in its header.
fn name_request(headers: &mut http::HeaderMap, body: &mut s3s::Body, id: &str) {
    let text = body.bytes().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
    let Some(start) = text.as_deref().and_then(|text| text.strip_suffix("</Error>")) else {
        return;
    };
    let named = format!("{start}<RequestId>{id}</RequestId></Error>");
    if headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(named.len()));
    }
    *body = s3s::Body::from(named);
}

fn finish(reply: Response<s3s::Body>, mut end: RequestEnd) -> Response<ResponseBody> {
    let (mut parts, mut body) = reply.into_parts();
    // s3s answers HEAD with a range as if it were whole.
    if end.method == Method::HEAD
        && parts.status == StatusCode::OK
        && parts.headers.contains_key(header::CONTENT_RANGE)
    {
        parts.status = StatusCode::PARTIAL_CONTENT;
    }
    if end.method == Method::HEAD {
        body = s3s::Body::empty();
    }
    if let Ok(id) = HeaderValue::from_str(&end.notes.id) {
        parts.headers.insert("x-amz-request-id", id);
    }
    if parts.status.is_client_error() || parts.status.is_server_error() {
        name_request(&mut parts.headers, &mut body, &end.notes.id);
    }
    parts.headers.insert(header::SERVER, HeaderValue::from_static("NexusGrid"));
    // What somebody stored as text is not to become a page that runs.
    let nosniff = HeaderValue::from_static("nosniff");
    parts.headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    end.status = parts.status.as_u16();
    end.answered = Some(end.clock.now());
    if end.notes.asked.get().is_some() {
        let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let whole = text("content-range").and_then(|range| range.rsplit('/').next());
        let is_object = matches!(end.method, Method::GET | Method::HEAD) && end.status < 400;
        let length = whole.or_else(|| text("content-length")).filter(|_| is_object);
        end.size = length.and_then(|length| length.parse().ok()).or(end.size);
        end.version = text("x-amz-version-id").map(str::to_owned);
    }
    end.complete = body.is_end_stream();
    Response::from_parts(parts, ResponseBody { inner: body, end })
}
