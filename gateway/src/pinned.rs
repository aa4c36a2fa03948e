//! TLS to an address that was looked at, to whoever has a certificate for a name.
//!
//! Some clients take one word for both: where they connect to, and whose certificate they expect. Given a
//! name they resolve it again, and may be led elsewhere than to what was looked at; so they are given the
//! address, and a verifier that asks for the name all the same.

use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Verifies as usual, but for this name, whatever the connection is called.
#[derive(Debug)]
struct Pinned {
    name: ServerName<'static>,
    usual: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = &self.name;
        self.usual.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// How to connect to whoever proves to be `name` to those who trust `roots`.
pub(crate) fn config(name: &str, roots: RootCertStore) -> io::Result<ClientConfig> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let provider = Arc::new(ring::default_provider());
    let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let usual = usual.build().map_err(io::Error::other)?;
    Ok(ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned { name, usual }))
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// A certificate for a name, and who trusts it.
    fn server(name: &str) -> (Arc<ServerConfig>, RootCertStore) {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([name.to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &issuer).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone()).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        (Arc::new(config), roots)
    }

    async fn connects(asked: &str, server: Arc<ServerConfig>, roots: RootCertStore) -> bool {
        let (near, far) = tokio::io::duplex(16 << 10);
        let connector = TlsConnector::from(Arc::new(config(asked, roots).unwrap()));
        // What async-nats would call it: the address.
        let called = ServerName::try_from("127.0.0.1").unwrap();
        let (client, _) =
            tokio::join!(connector.connect(called, near), TlsAcceptor::from(server).accept(far));
        client.is_ok()
    }

    #[tokio::test]
    async fn who_is_connected_to_must_have_the_name_that_was_asked_for() {
        let (server, roots) = server("nats.example.org");
        assert!(connects("nats.example.org", Arc::clone(&server), roots.clone()).await);
        assert!(!connects("other.example.org", Arc::clone(&server), roots.clone()).await);
        assert!(!connects("127.0.0.1", Arc::clone(&server), roots).await);
        // Nor is one trusted that others vouch for.
        let (_, strangers) = super::tests::server("nats.example.org");
        assert!(!connects("nats.example.org", server, strangers).await);
    }
}
