//! TLS 1.3 between nodes: one configuration for each direction, replaced when the certificate is.
//!
//! Time comes from the clock seam, so that expiry can be tested. Sessions are never resumed: a
//! resumed session would skip the peer's certificate, and with it expiry and renewal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nexusgrid_codec::ClusterId;
use nexusgrid_env::{Clock, NodeId};
use parking_lot::RwLock;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::ca::{self, NodeCertificate};
use crate::error::ClusterError;
use crate::identity::NodeIdentity;

/// This node's identity as it is now, with the TLS configurations made from it. Shared by all parts
/// of a process; [`IdentityCell::replace`] is how a renewed certificate takes effect.
pub struct IdentityCell {
    clock: Arc<dyn Clock>,
    current: RwLock<Arc<TlsIdentity>>,
    /// Counts replacements: connections made with an older certificate are not reused.
    epoch: AtomicU64,
}

pub(crate) struct TlsIdentity {
    pub(crate) identity: NodeIdentity,
    pub(crate) certificate: NodeCertificate,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

impl IdentityCell {
    /// Makes the configurations for `identity`.
    ///
    /// # Errors
    /// [`ClusterError::Certificate`] if certificate, key and CA do not belong together.
    pub fn new(
        clock: Arc<dyn Clock>,
        identity: NodeIdentity,
    ) -> Result<Arc<IdentityCell>, ClusterError> {
        let current = RwLock::new(Arc::new(TlsIdentity::new(&clock, identity)?));
        Ok(Arc::new(IdentityCell { clock, current, epoch: AtomicU64::new(0) }))
    }

    /// Uses `identity` for connections made from now on.
    ///
    /// # Errors
    /// [`ClusterError::Certificate`] if its parts do not belong together or it is another node's;
    /// the current one then stays.
    pub fn replace(&self, identity: NodeIdentity) -> Result<(), ClusterError> {
        let replacement = TlsIdentity::new(&self.clock, identity)?;
        let mut current = self.current.write();
        if replacement.identity.node != current.identity.node
            || replacement.identity.cluster != current.identity.cluster
        {
            return Err(ClusterError::Certificate("it is another node's".into()));
        }
        *current = Arc::new(replacement);
        self.epoch.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// The identity as it is now.
    pub fn identity(&self) -> NodeIdentity {
        self.current().identity.clone()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.current().identity.node
    }

    /// This cluster.
    pub fn cluster(&self) -> ClusterId {
        self.current().identity.cluster
    }

    /// What this node's certificate says.
    pub fn certificate(&self) -> NodeCertificate {
        self.current().certificate
    }

    pub(crate) fn current(&self) -> Arc<TlsIdentity> {
        Arc::clone(&self.current.read())
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

impl std::fmt::Debug for IdentityCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("IdentityCell").field(&self.current().identity).finish()
    }
}

impl TlsIdentity {
    fn new(clock: &Arc<dyn Clock>, identity: NodeIdentity) -> Result<TlsIdentity, ClusterError> {
        let certificate = identity.parsed()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let time: Arc<dyn TimeProvider> = Arc::new(EnvTime(Arc::clone(clock)));
        let ca_certificate = CertificateDer::from(identity.ca_certificate.clone());
        let mut roots = RootCertStore::empty();
        roots.add(ca_certificate.clone())?;
        let roots = Arc::new(roots);
        // The CA's certificate goes along, for the machine that joins and knows only its hash.
        let chain = vec![CertificateDer::from(identity.certificate.clone()), ca_certificate];
        let key = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key().to_vec()));

        // Without a certificate one may connect, to join: roles are checked for each request.
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .map_err(|error| ClusterError::Certificate(error.to_string()))?;
        let mut server =
            ServerConfig::builder_with_details(Arc::clone(&provider), Arc::clone(&time))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain.clone(), key())?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        let mut client = ClientConfig::builder_with_details(provider, time)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key())?;
        client.resumption = rustls::client::Resumption::disabled();

        Ok(TlsIdentity {
            identity,
            certificate,
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }

    /// The name a peer's certificate must carry.
    pub(crate) fn peer_name(&self, peer: NodeId) -> Result<ServerName<'static>, ClusterError> {
        ServerName::try_from(ca::node_name(self.identity.cluster, peer))
            .map_err(|error| ClusterError::Certificate(error.to_string()))
    }
}

/// The configuration of a machine that joins: no certificate of its own, and of the cluster it
/// knows the CA's fingerprint.
pub(crate) fn joining(
    clock: Arc<dyn Clock>,
    cluster: ClusterId,
    ca_fingerprint: [u8; 32],
) -> Result<Arc<ClientConfig>, ClusterError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = PinnedCa { cluster, ca_fingerprint, provider: Arc::clone(&provider) };
    let mut client = ClientConfig::builder_with_details(provider, Arc::new(EnvTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    client.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(client))
}

/// Accepts any node of the one cluster whose CA certificate has this fingerprint, and no one else.
#[derive(Debug)]
struct PinnedCa {
    cluster: ClusterId,
    ca_fingerprint: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let ca = intermediates
            .iter()
            .find(|certificate| ca::fingerprint(certificate) == self.ca_fingerprint)
            .ok_or_else(unknown)?;
        let peer = NodeCertificate::parse(end_entity).map_err(|_| unknown())?;
        if peer.cluster != self.cluster {
            return Err(unknown());
        }
        let name =
            ServerName::try_from(ca::node_name(peer.cluster, peer.node)).map_err(|_| unknown())?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|_| unknown())?
            .verify_server_cert(end_entity, &[], &name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The TLS failure inside an I/O error, if that is what it is.
pub(crate) fn tls_error<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // An `io::Error` hides what it wraps from `source` of the wrapper.
        if let Some(inner) = error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref())
            && let Some(tls) = inner.downcast_ref::<rustls::Error>()
        {
            return Some(tls);
        }
        cause = error.source();
    }
    None
}

struct EnvTime(Arc<dyn Clock>);

impl TimeProvider for EnvTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.wall().0)))
    }
}

impl std::fmt::Debug for EnvTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EnvTime")
    }
}
