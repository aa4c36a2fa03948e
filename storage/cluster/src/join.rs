//! Admission: how a machine with a token becomes a node.
//!
//! ```text
//! new machine                         a node that holds the CA key            root group
//!   TLS: is this the CA of my token? ──►
//!   token secret, CSR, facts ─────────► CSR well formed, claims no id
//!                                       hash(secret), key, facts ───────────► token good? use it up,
//!                                                                            assign a node id
//!   certificate, CA, gossip key, ◄───── sign for that id ◄──────────────────
//!   bootstrap
//! ```
//!
//! The token is used up before the certificate is signed; if the answer is lost, the same key may
//! ask again and gets the same id. A node without the CA key answers with the addresses of those
//! that have it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nexusgrid_codec::ClusterId;
use nexusgrid_env::{Env, NodeId, Peer, RpcError, RpcRequest, RpcResponse, RpcService};
use parking_lot::RwLock;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::ca::{self, CertAuthority, SigningRequest};
use crate::directory::{Admission, AdmissionError, JoinAttempt, NodeDirectory, NodeFacts};
use crate::error::ClusterError;
use crate::identity::NodeIdentity;
use crate::limits;
use crate::message;
use crate::method;
use crate::renew::{RenewReply, RenewRequest};
use crate::rpc::{self, Parts};
use crate::tls::{self, IdentityCell};
use crate::token::{self, JoinToken};

#[derive(Serialize, Deserialize)]
pub(crate) struct JoinRequest {
    pub(crate) cluster: [u8; 16],
    pub(crate) token_id: [u8; 8],
    pub(crate) secret: Zeroizing<[u8; 32]>,
    pub(crate) csr: Vec<u8>,
    pub(crate) facts: NodeFacts,
}

#[derive(Serialize, Deserialize)]
pub(crate) enum JoinReply {
    /// The node's identity; the bootstrap payload is the reply's body.
    Admitted {
        node: NodeId,
        certificate: Vec<u8>,
        ca_certificate: Vec<u8>,
        gossip_key: Zeroizing<[u8; 32]>,
    },
    /// Ask one of these (`host:port`).
    Elsewhere(Vec<String>),
}

/// Admits and renews: the server's side. Every node serves it; those with the CA key decide.
pub struct AdmissionService {
    env: Env,
    identity: Arc<IdentityCell>,
    directory: Arc<dyn NodeDirectory>,
    admission: Arc<dyn Admission>,
    authority: RwLock<Option<Arc<CertAuthority>>>,
}

impl AdmissionService {
    /// A service without the CA key yet. Register it for [`method::JOIN`] and [`method::RENEW`].
    pub fn new(
        env: Env,
        identity: Arc<IdentityCell>,
        directory: Arc<dyn NodeDirectory>,
        admission: Arc<dyn Admission>,
    ) -> Arc<AdmissionService> {
        let authority = RwLock::default();
        Arc::new(AdmissionService { env, identity, directory, admission, authority })
    }

    /// Gives (or takes away) the CA's key: this node can sign from now on.
    pub fn set_authority(&self, authority: Option<Arc<CertAuthority>>) {
        *self.authority.write() = authority;
    }

    async fn join(&self, request: JoinRequest) -> Result<RpcResponse, RpcError> {
        let refused = |why: &str| RpcError::Refused(why.to_owned());
        if request.cluster != self.identity.cluster().0 {
            return Err(refused("the token is of another cluster"));
        }
        check_facts(&request.facts)?;
        let signing = SigningRequest::parse(&request.csr)
            .map_err(|error| RpcError::Refused(error.to_string()))?;
        let expected = ca::joining_name(self.identity.cluster());
        if signing.name() != expected {
            // Whoever has no certificate has no id either, and must not name one.
            return Err(refused("the signing request claims an identity"));
        }
        let authority = self.authority.read().clone();
        let Some(authority) = authority else {
            let addresses =
                self.directory.signers().into_iter().map(|(_, addr)| addr.to_string()).collect();
            return Ok(RpcResponse {
                head: message::encode(&JoinReply::Elsewhere(addresses))?,
                body: Bytes::new(),
            });
        };
        let attempt = JoinAttempt {
            token_id: request.token_id,
            secret_hash: token::hash_secret(&request.secret),
            key_hash: signing.key_hash(),
            facts: request.facts,
        };
        let admitted = self.admission.redeem(attempt).await.map_err(refusal)?;
        let certificate = authority
            .sign(
                &signing,
                &expected,
                admitted.node,
                admitted.generation,
                self.env.clock.wall(),
                &*self.env.rng,
            )
            .map_err(|error| RpcError::Failed(error.to_string()))?;
        tracing::info!(node = %admitted.node, "admitted a node");
        let reply = JoinReply::Admitted {
            node: admitted.node,
            certificate: certificate.to_vec(),
            ca_certificate: authority.certificate().to_vec(),
            gossip_key: Zeroizing::new(*self.identity.identity().gossip_key()),
        };
        Ok(RpcResponse { head: message::encode(&reply)?, body: admitted.bootstrap })
    }

    async fn renew(&self, from: Peer, request: RenewRequest) -> Result<RpcResponse, RpcError> {
        let signing = SigningRequest::parse(&request.csr)
            .map_err(|error| RpcError::Refused(error.to_string()))?;
        let own_name = ca::node_name(self.identity.cluster(), from.node);
        if signing.name() != own_name {
            tracing::warn!(peer = %from.node, asked = %signing.name(), "refused a renewal");
            return Err(RpcError::Refused("a node may renew its own certificate only".into()));
        }
        let authority = self
            .authority
            .read()
            .clone()
            .ok_or_else(|| RpcError::Busy("this node cannot sign: ask another".into()))?;
        let generation = self
            .admission
            .renew(from.node, request.generation, signing.key_hash())
            .await
            .map_err(refusal)?;
        let certificate = authority
            .sign(&signing, &own_name, from.node, generation, self.env.clock.wall(), &*self.env.rng)
            .map_err(|error| RpcError::Failed(error.to_string()))?;
        let reply = RenewReply { certificate: certificate.to_vec() };
        Ok(RpcResponse { head: message::encode(&reply)?, body: Bytes::new() })
    }
}

#[async_trait]
impl RpcService for AdmissionService {
    async fn serve(&self, from: Peer, request: RpcRequest) -> Result<RpcResponse, RpcError> {
        if request.method == method::JOIN.id {
            self.join(message::decode(&request.head)?).await
        } else if request.method == method::RENEW.id {
            self.renew(from, message::decode(&request.head)?).await
        } else {
            Err(RpcError::Refused("not a method of admission".into()))
        }
    }
}

fn refusal(error: AdmissionError) -> RpcError {
    match error {
        AdmissionError::Token(refusal) => {
            tracing::warn!(%refusal, "refused a join");
            RpcError::Refused(refusal.to_string())
        }
        AdmissionError::Refused(why) => RpcError::Refused(why),
        AdmissionError::Unavailable(why) => RpcError::Busy(why),
    }
}

fn check_facts(facts: &NodeFacts) -> Result<(), RpcError> {
    let name_fits = |name: &str| {
        !name.is_empty()
            && name.len() <= limits::JOIN_NAME_BYTES_MAX
            && !name.chars().any(char::is_control)
    };
    if !name_fits(&facts.host) || !name_fits(&facts.zone) {
        return Err(RpcError::Refused("host and zone must be printable names".into()));
    }
    if facts.drives.len() > limits::JOIN_DRIVES_MAX {
        return Err(RpcError::Refused("too many drives".into()));
    }
    Ok(())
}

/// Settings of a join.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// Time for one attempt at one address (default 15 s).
    pub attempt_timeout: Duration,
}

impl Default for JoinOptions {
    fn default() -> JoinOptions {
        JoinOptions { attempt_timeout: Duration::from_secs(15) }
    }
}

/// What a machine holds once it is a node.
pub struct Joined {
    /// Its identity: store it before anything else.
    pub identity: NodeIdentity,
    /// What the root group gave it to begin with.
    pub bootstrap: Bytes,
}

/// Joins a cluster: tries `address` if given, else the token's addresses, in order.
///
/// # Errors
/// [`ClusterError::Token`] for an expired token, [`ClusterError::WrongCluster`] if who answers is
/// not of the token's cluster, [`ClusterError::Refused`] if the cluster says no, and
/// [`ClusterError::Unreachable`] if nobody could say anything.
pub async fn join(
    env: &Env,
    address: Option<&str>,
    token: &JoinToken,
    facts: NodeFacts,
    options: &JoinOptions,
) -> Result<Joined, ClusterError> {
    token.check_expiry(env.clock.wall())?;
    let (key, csr) = ca::make_request(&ca::joining_name(token.cluster))?;
    let request = JoinRequest {
        cluster: token.cluster.0,
        token_id: token.id,
        secret: Zeroizing::new(*token.secret()),
        csr,
        facts,
    };
    let request = message::encode(&request)?;
    let mut ahead: Vec<String> = match address {
        Some(address) => vec![address.to_owned()],
        None => token.addresses.clone(),
    };
    ahead.reverse();
    let mut last = ClusterError::Unreachable("no address to join at is known".into());
    let mut redirects = 0;
    while let Some(address) = ahead.pop() {
        let attempt = ask(env, &address, token, request.clone());
        let answer = match timeout(options.attempt_timeout, attempt).await {
            Ok(answer) => answer,
            Err(_) => Err(ClusterError::Unreachable(format!("{address}: no answer in time"))),
        };
        match answer {
            Ok((JoinReply::Admitted { node, certificate, ca_certificate, gossip_key }, body)) => {
                if ca::fingerprint(&ca_certificate) != token.ca_fingerprint {
                    return Err(ClusterError::WrongCluster(format!("{address}: another CA")));
                }
                let identity = NodeIdentity::new(
                    token.cluster,
                    node,
                    certificate,
                    key,
                    ca_certificate,
                    *gossip_key,
                )?;
                return Ok(Joined { identity, bootstrap: body });
            }
            Ok((JoinReply::Elsewhere(addresses), _)) => {
                redirects += 1;
                last = ClusterError::Unreachable(format!("{address}: it cannot admit nodes"));
                if redirects <= limits::JOIN_REDIRECTS_MAX {
                    let fresh = addresses.into_iter().take(limits::JOIN_REDIRECTS_MAX);
                    ahead.extend(fresh.collect::<Vec<_>>().into_iter().rev());
                }
            }
            Err(
                error @ (ClusterError::Unreachable(_)
                | ClusterError::WrongCluster(_)
                | ClusterError::Rpc(_)),
            ) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

async fn ask(
    env: &Env,
    address: &str,
    token: &JoinToken,
    request: Bytes,
) -> Result<(JoinReply, Bytes), ClusterError> {
    let unreachable =
        |error: &dyn std::fmt::Display| ClusterError::Unreachable(format!("{address}: {error}"));
    let config = tls::joining(Arc::clone(&env.clock), token.cluster, token.ca_fingerprint)?;
    let stream = rpc::connect_any(address).await.map_err(|error| unreachable(&error))?;
    let name = any_name(token.cluster)?;
    let stream =
        tokio_rustls::TlsConnector::from(config).connect(name, stream).await.map_err(|error| {
            match tls::tls_error(&error) {
                Some(rustls::Error::InvalidCertificate(
                    rustls::CertificateError::UnknownIssuer,
                )) => {
                    ClusterError::WrongCluster(format!("{address} is not of the token's cluster"))
                }
                Some(rustls::Error::InvalidCertificate(error)) => {
                    ClusterError::Certificate(format!("{address}: {error:?}"))
                }
                _ => unreachable(&error),
            }
        })?;
    let (mut sender, driver) = http1::Builder::new()
        .max_headers(limits::RPC_HTTP_HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(&error))?;
    env.exec.spawn(driver);
    let http_request = Request::post(rpc::path(method::JOIN.id))
        .header(http::header::HOST, "nexusgrid")
        .header(rpc::HEAD, request.len())
        .header(rpc::DEADLINE, method::JOIN.deadline_max.as_millis().to_string())
        .body(Parts::new(request, Bytes::new()))
        .map_err(|error| unreachable(&error))?;
    let response = sender.send_request(http_request).await.map_err(|error| unreachable(&error))?;
    let (http_head, body) = response.into_parts();
    let too_large = || ClusterError::Unreachable(format!("{address}: malformed answer"));
    let (head_len, body_len) = rpc::lengths(&http_head.headers, &body).ok_or_else(too_large)?;
    if head_len > method::JOIN.reply.head || body_len > method::JOIN.reply.body {
        return Err(too_large());
    }
    let (head, body) =
        rpc::read(body, head_len, body_len).await.map_err(|error| unreachable(&error))?;
    if http_head.status != StatusCode::OK {
        return Err(match rpc::error_of(NodeId(0), http_head.status, &head) {
            RpcError::Refused(why) => ClusterError::Refused(why),
            error => ClusterError::Rpc(error),
        });
    }
    Ok((message::decode(&head)?, body))
}

/// TLS wants a name; the pinned CA decides whom to believe.
fn any_name(cluster: ClusterId) -> Result<ServerName<'static>, ClusterError> {
    ServerName::try_from(ca::joining_name(cluster))
        .map_err(|error| ClusterError::Certificate(error.to_string()))
}
