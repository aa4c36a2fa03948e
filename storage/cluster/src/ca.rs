//! The cluster's certificate authority, and what a node certificate says.
//!
//! `init` makes the CA. Its certificate is public and on every node; its key signs node
//! certificates and nothing else. The key is kept in the root group's state *sealed* under a key
//! that only gateways are given ([`CertAuthority::seal`]), so that a voter that was not handed the
//! master key can replicate it but not sign with it.
//!
//! A node certificate carries
//! - one DNS name, `n<node>.<cluster>.nexusgrid`: the caller pins the peer by it;
//! - a serial number of 17 bytes: `01 ‖ node (8) ‖ generation (4) ‖ random (4)`: the node table
//!   holds the newest generation, so that a clone of an old disk is recognised.
//!
//! Signing requests carry no identity: the signer sets every field itself and takes only the public
//! key. A request that claims another node's name is refused rather than ignored.

#![deny(clippy::indexing_slicing)]

use nexusgrid_codec::ClusterId;
use nexusgrid_env::{NodeId, Rng, UnixMillis};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SigningKey,
};
use ring::aead;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::{Zeroize, Zeroizing};

use crate::error::ClusterError;
use crate::limits;

const SEALED_VERSION: u8 = 1;
const SEAL_NONCE_LEN: usize = 12;
const SERIAL_MARK: u8 = 1;

/// The library's date type, of a crate that we do not name ourselves. Whole seconds, and not
/// beyond the years that ASN.1 knows.
macro_rules! date {
    ($at:expr) => {
        rcgen::date_time_ymd(1970, 1, 1)
            + std::time::Duration::from_secs(($at.0 / 1000).min(YEAR_9000_SECONDS))
    };
}
const YEAR_9000_SECONDS: u64 = 221_845_392_000;

/// SHA-256 of a certificate (DER).
pub fn fingerprint(certificate_der: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate_der).into()
}

/// The DNS name in a node's certificate.
pub fn node_name(cluster: ClusterId, node: NodeId) -> String {
    format!("n{}.{cluster}.nexusgrid", node.0)
}

/// The name in the signing request of a machine that has no id yet.
pub fn joining_name(cluster: ClusterId) -> String {
    format!("joining.{cluster}.nexusgrid")
}

/// The CA with its key: signs node certificates. Erases the key on drop.
pub struct CertAuthority {
    cluster: ClusterId,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, CaKey>,
}

/// The CA's key pair, erased on drop as far as the library lets us: the PKCS#8 bytes are ours; the
/// parsed scalar inside `ring` is freed by it.
struct CaKey(KeyPair);

impl Drop for CaKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}

impl CertAuthority {
    /// Makes a new CA for a new cluster.
    ///
    /// # Errors
    /// [`ClusterError::Certificate`] if the crypto library refuses.
    pub fn create(cluster: ClusterId, now: UnixMillis) -> Result<CertAuthority, ClusterError> {
        let key = CaKey(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?);
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("NexusGrid CA {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = date!(backdated(now));
        params.not_after = date!(later(now, limits::CA_LIFE));
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(CertAuthority { cluster, certificate, issuer: Issuer::new(params, key) })
    }

    /// The CA's certificate (DER), for every node to hold.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The cluster this CA speaks for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// SHA-256 of the CA's certificate, for join tokens.
    pub fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.certificate)
    }

    /// The key, sealed under `master` (AES-256-GCM), and the certificate: for the root group's
    /// state. Whoever has not `master` can keep it but not sign.
    ///
    /// # Errors
    /// [`ClusterError::SealedCaKey`] if sealing fails.
    pub fn seal(&self, master: &[u8; 32], rng: &dyn Rng) -> Result<Vec<u8>, ClusterError> {
        let mut secret = Zeroizing::new(self.issuer.key().0.serialize_der());
        let mut nonce = [0; SEAL_NONCE_LEN];
        rng.fill(&mut nonce);
        let key = seal_key(master)?;
        let tag = key
            .seal_in_place_separate_tag(
                aead::Nonce::assume_unique_for_key(nonce),
                aead::Aad::from(seal_aad(self.cluster, &self.certificate)),
                &mut secret,
            )
            .map_err(|_| ClusterError::SealedCaKey)?;
        let mut sealed = vec![SEALED_VERSION];
        sealed.extend(nonce);
        sealed.extend(secret.iter());
        sealed.extend(tag.as_ref());
        Ok(sealed)
    }

    /// The inverse of [`CertAuthority::seal`], given the CA's certificate.
    ///
    /// # Errors
    /// [`ClusterError::SealedCaKey`] for a wrong `master`, another cluster or altered bytes.
    pub fn open(
        cluster: ClusterId,
        certificate: &[u8],
        sealed: &[u8],
        master: &[u8; 32],
    ) -> Result<CertAuthority, ClusterError> {
        let refused = || ClusterError::SealedCaKey;
        let (version, sealed) = sealed.split_first().ok_or_else(refused)?;
        if *version != SEALED_VERSION {
            return Err(refused());
        }
        let (nonce, sealed) = sealed.split_first_chunk::<SEAL_NONCE_LEN>().ok_or_else(refused)?;
        let mut secret = Zeroizing::new(sealed.to_vec());
        let opened = seal_key(master)?
            .open_in_place(
                aead::Nonce::assume_unique_for_key(*nonce),
                aead::Aad::from(seal_aad(cluster, certificate)),
                &mut secret,
            )
            .map_err(|_| refused())?;
        let key = CaKey(KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(&*opened),
            &PKCS_ECDSA_P256_SHA256,
        )?);
        let certificate = CertificateDer::from(certificate.to_vec());
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(CertAuthority { cluster, certificate, issuer })
    }

    /// Signs a certificate for `node`: the public key of `request`, everything else set here.
    /// The request's name must be the one expected: [`joining_name`] at a join, the node's own
    /// [`node_name`] at a renewal.
    ///
    /// # Errors
    /// [`ClusterError::Refused`] for a request in another's name;
    /// [`ClusterError::Certificate`] if it is malformed or not signed by its own key.
    pub fn sign(
        &self,
        request: &SigningRequest,
        expected_name: &str,
        node: NodeId,
        generation: u32,
        now: UnixMillis,
        rng: &dyn Rng,
    ) -> Result<CertificateDer<'static>, ClusterError> {
        if request.name != expected_name {
            return Err(ClusterError::Refused(format!(
                "the signing request is for {}, not {expected_name}",
                request.name
            )));
        }
        let name = node_name(self.cluster, node);
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&name);
        params.subject_alt_names = vec![SanType::DnsName(
            name.try_into().map_err(|_| ClusterError::Certificate("node name".into()))?,
        )];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date!(backdated(now));
        params.not_after = date!(later(now, limits::CERTIFICATE_LIFE));
        params.serial_number = Some(serial(node, generation, rng));
        Ok(params.signed_by(&request.public_key, &self.issuer)?.der().clone())
    }

    /// Issues an identity directly, as `init` does for the first node.
    ///
    /// # Errors
    /// [`ClusterError::Certificate`] if the crypto library refuses.
    pub fn issue(
        &self,
        node: NodeId,
        generation: u32,
        now: UnixMillis,
        rng: &dyn Rng,
    ) -> Result<(CertificateDer<'static>, Zeroizing<Vec<u8>>), ClusterError> {
        let name = node_name(self.cluster, node);
        let (key, request) = make_request(&name)?;
        let request = SigningRequest::parse(&request)?;
        let certificate = self.sign(&request, &name, node, generation, now, rng)?;
        Ok((certificate, key))
    }
}

impl std::fmt::Debug for CertAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CertAuthority").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// Makes a key pair and a signing request for `name`: (PKCS#8 key, DER request).
///
/// # Errors
/// [`ClusterError::Certificate`] if the crypto library refuses.
pub fn make_request(name: &str) -> Result<(Zeroizing<Vec<u8>>, Vec<u8>), ClusterError> {
    let mut key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    let request = params.serialize_request(&key)?.der().to_vec();
    let secret = Zeroizing::new(key.serialize_der());
    key.zeroize();
    Ok((secret, request))
}

/// A signing request that parsed and is signed by its own key.
pub struct SigningRequest {
    name: String,
    public_key: rcgen::PublicKey,
}

impl SigningRequest {
    /// Parses and verifies a request (DER).
    ///
    /// # Errors
    /// [`ClusterError::Certificate`] if it is malformed, not signed by its key, asks for a CA or
    /// for alternative names.
    pub fn parse(der: &[u8]) -> Result<SigningRequest, ClusterError> {
        let bad = |why: &str| ClusterError::Certificate(format!("signing request: {why}"));
        if der.len() > limits::CSR_BYTES_MAX {
            return Err(bad("too long"));
        }
        let parsed = CertificateSigningRequestParams::from_der(
            &CertificateSigningRequestDer::from(der.to_vec()),
        )?;
        if !parsed.params.subject_alt_names.is_empty() || matches!(parsed.params.is_ca, IsCa::Ca(_))
        {
            return Err(bad("it asks for more than a name"));
        }
        let mut names = parsed.params.distinguished_name.iter();
        let name = match (names.next(), names.next()) {
            (Some((DnType::CommonName, rcgen::DnValue::Utf8String(name))), None) => name.clone(),
            (Some((DnType::CommonName, rcgen::DnValue::PrintableString(name))), None) => {
                name.as_str().to_owned()
            }
            _ => return Err(bad("its subject must be one common name")),
        };
        Ok(SigningRequest { name, public_key: parsed.public_key })
    }

    /// SHA-256 of the public key.
    pub fn key_hash(&self) -> [u8; 32] {
        Sha256::digest(self.public_key.subject_public_key_info()).into()
    }

    /// The name it asks for.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What a verified node certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeCertificate {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Counts the certificates of this node, from 1.
    pub generation: u32,
    /// Begin of validity.
    pub not_before: UnixMillis,
    /// End of validity.
    pub not_after: UnixMillis,
}

impl NodeCertificate {
    /// Reads a certificate (DER). Does *not* verify its signature: TLS did.
    ///
    /// # Errors
    /// [`ClusterError::Certificate`] if it is not a node certificate: a client's, the CA's, or one
    /// of something else.
    pub fn parse(der: &[u8]) -> Result<NodeCertificate, ClusterError> {
        let bad = |why: &str| ClusterError::Certificate(format!("not a node's: {why}"));
        if der.len() > limits::CERTIFICATE_BYTES_MAX {
            return Err(bad("too long"));
        }
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| bad("cannot be parsed"))?;
        if !rest.is_empty() || certificate.is_ca() {
            return Err(bad("of another kind"));
        }
        let names = certificate
            .subject_alternative_name()
            .ok()
            .flatten()
            .ok_or_else(|| bad("no alternative name"))?;
        let [GeneralName::DNSName(name)] = names.value.general_names.as_slice() else {
            return Err(bad("it must carry one DNS name"));
        };
        let (cluster, node) = parse_node_name(name).ok_or_else(|| bad("its name"))?;
        let (serial_node, generation) =
            parse_serial(certificate.raw_serial()).ok_or_else(|| bad("its serial number"))?;
        if serial_node != node {
            return Err(bad("name and serial number differ"));
        }
        let validity = certificate.validity();
        let millis = |seconds: i64| UnixMillis(u64::try_from(seconds).unwrap_or(0) * 1000);
        Ok(NodeCertificate {
            cluster,
            node,
            generation,
            not_before: millis(validity.not_before.timestamp()),
            not_after: millis(validity.not_after.timestamp()),
        })
    }

    /// When to renew: two thirds into its life.
    pub fn renew_at(&self) -> UnixMillis {
        let life = self.not_after.0.saturating_sub(self.not_before.0);
        UnixMillis(self.not_before.0.saturating_add(life / 3 * 2))
    }
}

/// Parses `n<node>.<cluster>.nexusgrid`, in its one canonical spelling.
pub(crate) fn parse_node_name(name: &str) -> Option<(ClusterId, NodeId)> {
    let rest = name.strip_suffix(".nexusgrid")?;
    let (node, cluster) = rest.split_once('.')?;
    let node = NodeId(node.strip_prefix('n')?.parse().ok()?);
    let cluster = parse_cluster(cluster)?;
    (node.0 != 0 && node_name(cluster, node) == name).then_some((cluster, node))
}

/// Parses a cluster id's 32 hexadecimal digits.
pub fn parse_cluster(text: &str) -> Option<ClusterId> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    Some(ClusterId(u128::from_str_radix(text, 16).ok()?.to_be_bytes()))
}

fn serial(node: NodeId, generation: u32, rng: &dyn Rng) -> SerialNumber {
    let mut random = [0; 4];
    rng.fill(&mut random);
    let mut bytes = vec![SERIAL_MARK];
    bytes.extend(node.0.to_be_bytes());
    bytes.extend(generation.to_be_bytes());
    bytes.extend(random);
    SerialNumber::from(bytes)
}

fn parse_serial(raw: &[u8]) -> Option<(NodeId, u32)> {
    let (mark, rest) = raw.split_first()?;
    let (node, rest) = rest.split_first_chunk::<8>()?;
    let (generation, rest) = rest.split_first_chunk::<4>()?;
    (*mark == SERIAL_MARK && rest.len() == 4)
        .then(|| (NodeId(u64::from_be_bytes(*node)), u32::from_be_bytes(*generation)))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn seal_key(master: &[u8; 32]) -> Result<aead::LessSafeKey, ClusterError> {
    // A key of its own, so that the master key serves several purposes without sharing nonces.
    let mut key = Zeroizing::new([0; 32]);
    hkdf::Hkdf::<Sha256>::new(None, master)
        .expand(b"nexusgrid ca key v1", key.as_mut())
        .map_err(|_| ClusterError::SealedCaKey)?;
    let key = aead::UnboundKey::new(&aead::AES_256_GCM, key.as_ref())
        .map_err(|_| ClusterError::SealedCaKey)?;
    Ok(aead::LessSafeKey::new(key))
}

fn seal_aad(cluster: ClusterId, certificate: &[u8]) -> Vec<u8> {
    let mut aad = b"nexusgrid ca key v1".to_vec();
    aad.extend(cluster.0);
    aad.extend(fingerprint(certificate));
    aad
}

fn backdated(now: UnixMillis) -> UnixMillis {
    let by = u64::try_from(limits::CERTIFICATE_BACKDATE.as_millis()).unwrap_or(0);
    UnixMillis(now.0.saturating_sub(by))
}

fn later(now: UnixMillis, by: std::time::Duration) -> UnixMillis {
    UnixMillis(now.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(0)))
}
