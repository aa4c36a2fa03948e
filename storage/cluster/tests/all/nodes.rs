//! Attacks on admission and identity, one test each, and what must work beside them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nexusgrid_cluster::ca::{self, CertAuthority, NodeCertificate};
use nexusgrid_cluster::identity::count_start;
use nexusgrid_cluster::method::{JOIN, PING, RENEW};
use nexusgrid_cluster::{ClusterError, IdentityCell, JoinOptions, JoinToken, NodeIdentity, join};
use nexusgrid_codec::ClusterId;
use nexusgrid_env::sim::SimDisk;
use nexusgrid_env::{Clock, Env, Exec, NodeId, OpenMode, Roles, RpcError, RpcRequest};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::*;

/// What a hostile or careless peer presents.
type Credentials = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A TLS connection to node 2, made by hand.
async fn tls_connect(
    cluster: &TestCluster,
    credentials: Option<Credentials>,
    addr: std::net::SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cluster.authority.certificate().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let config = match credentials {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from(ca::node_name(cluster.id, NodeId(2))).unwrap();
    let stream = TcpStream::connect(addr).await.unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// A TLS connection to node 2 with the certificate of `node`.
pub async fn connect_as(
    cluster: &TestCluster,
    node: u64,
    addr: std::net::SocketAddr,
) -> TlsStream<TcpStream> {
    let (certificate, key) =
        cluster.authority.issue(NodeId(node), 1, cluster.clock.wall(), &*cluster.env.rng).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    tls_connect(cluster, Some((vec![certificate], key)), addr).await.unwrap()
}

async fn http(mut stream: TlsStream<TcpStream>, method: u16, head: &[u8]) -> String {
    let text = format!(
        "POST /v1/{method:04x} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-head: {0}\r\n\
         content-length: {0}\r\n\r\n",
        head.len()
    );
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.write_all(head).await.unwrap();
    let mut reply = Vec::new();
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut reply)).await.unwrap();
    String::from_utf8_lossy(&reply).into_owned()
}

fn encode(message: &impl Serialize) -> Bytes {
    Bytes::from(postcard::to_extend(message, vec![1]).unwrap())
}

#[tokio::test]
async fn a_joined_node_is_a_node() {
    let cluster = TestCluster::new(1);
    let signer = cluster.signer(2).await;
    let joined = cluster.join(signer.addr(), &cluster.token(DAY)).await.unwrap();
    assert_eq!(&joined.bootstrap[..], b"bootstrap");
    assert_eq!(joined.identity.gossip_key(), &GOSSIP_KEY);
    assert_eq!(joined.identity.cluster, cluster.id);
    let node = joined.identity.node;
    assert_eq!(node, NodeId(101));
    let one = cluster.node_with(joined.identity, Roles::ALL, cluster.options()).await;
    cluster.root.edit(101, |record| record.rpc_addr = one.addr());
    assert_eq!(&one.call(2, echo(b"who", "")).await.unwrap().head[..], b"n101");
    assert_eq!(&signer.call(101, echo(b"who", "")).await.unwrap().head[..], b"n2");
}

#[tokio::test]
async fn a_node_without_the_ca_key_sends_the_joiner_on() {
    let cluster = TestCluster::new(1);
    let plain = cluster.node(3).await;
    let token = cluster.token(DAY);
    let nobody = cluster.join(plain.addr(), &token).await;
    assert!(matches!(nobody, Err(ClusterError::Unreachable(_))), "{:?}", nobody.err());
    let _signer = cluster.signer(2).await;
    assert!(cluster.join(plain.addr(), &token).await.is_ok());
}

#[tokio::test]
async fn the_tokens_own_addresses_are_tried_in_order() {
    let cluster = TestCluster::new(1);
    let signer = cluster.signer(2).await;
    let mut token = cluster.token(DAY);
    token.addresses = vec!["127.0.0.1:1".into(), signer.addr().to_string()];
    let joined = join(&cluster.env, None, &token, facts(Roles::ALL), &JoinOptions::default()).await;
    assert!(joined.is_ok(), "{:?}", joined.err());
}

#[tokio::test]
async fn a_join_token_used_twice_is_refused() {
    let cluster = TestCluster::new(1);
    let signer = cluster.signer(2).await;
    let token = cluster.token(DAY);
    cluster.join(signer.addr(), &token).await.unwrap();
    let again = cluster.join(signer.addr(), &token).await.err().unwrap();
    assert!(matches!(&again, ClusterError::Refused(why) if why.contains("used")), "{again}");
    assert_eq!(cluster.root.state.lock().nodes.len(), 2);
}

#[tokio::test]
async fn a_join_whose_answer_was_lost_may_be_repeated_with_the_same_key() {
    let cluster = TestCluster::new(1);
    let signer = cluster.signer(2).await;
    let token = cluster.token(DAY);
    let (_, csr) = ca::make_request(&ca::joining_name(cluster.id)).unwrap();
    let request = join_request(&cluster, &token, csr);
    for _ in 0..2 {
        let stream = tls_connect(&cluster, None, signer.addr()).await.unwrap();
        let reply = http(stream, JOIN.id.0, &request).await;
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    }
    assert_eq!(cluster.root.state.lock().nodes.len(), 2, "one new node, not two");
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let cluster = TestCluster::new(1);
    let signer = cluster.signer(2).await;
    let token = cluster.token(Duration::from_secs(3600));
    cluster.clock.advance(Duration::from_secs(3601));
    let early = cluster.join(signer.addr(), &token).await.err().unwrap();
    assert!(matches!(early, ClusterError::Token(_)), "{early}");
    // A machine whose clock is behind finds out from the cluster.
    let mut behind = token.clone();
    behind.expires = cluster.clock.wall();
    behind.expires.0 += 60_000;
    let late = cluster.join(signer.addr(), &behind).await.err().unwrap();
    assert!(matches!(&late, ClusterError::Refused(why) if why.contains("expired")), "{late}");
}

#[tokio::test]
async fn a_token_with_a_wrong_secret_is_refused() {
    let cluster = TestCluster::new(1);
    let signer = cluster.signer(2).await;
    let token = cluster.token(DAY);
    let mut forged = JoinToken::create(
        &*cluster.env.rng,
        cluster.id,
        cluster.authority.fingerprint(),
        cluster.clock.wall(),
        DAY,
        Vec::new(),
    );
    forged.id = token.id;
    let refused = cluster.join(signer.addr(), &forged).await.err().unwrap();
    assert!(matches!(&refused, ClusterError::Refused(why) if why.contains("unknown")), "{refused}");
    assert!(cluster.join(signer.addr(), &token).await.is_ok(), "the token is not used up");
}

#[tokio::test]
async fn a_token_of_another_cluster_is_refused() {
    let cluster = TestCluster::new(1);
    let other = TestCluster::new(5);
    let signer = cluster.signer(2).await;
    // The machine finds that it speaks to the wrong cluster before it says anything.
    let refused = cluster.join(signer.addr(), &other.token(DAY)).await.err().unwrap();
    assert!(matches!(refused, ClusterError::WrongCluster(_)), "{refused}");
    // A machine that does not look is told.
    let (_, csr) = ca::make_request(&ca::joining_name(cluster.id)).unwrap();
    let request = join_request(&other, &other.token(DAY), csr);
    let stream = tls_connect(&cluster, None, signer.addr()).await.unwrap();
    let reply = http(stream, JOIN.id.0, &request).await;
    assert!(reply.contains("another cluster"), "{reply}");
    // Same id, other CA: an impostor.
    let impostor = TestCluster::new(1);
    let refused = cluster.join(signer.addr(), &impostor.token(DAY)).await.err().unwrap();
    assert!(matches!(refused, ClusterError::WrongCluster(_)), "{refused}");
}

/// The wire form of a join request, written by hand.
fn join_request(cluster: &TestCluster, token: &JoinToken, csr: Vec<u8>) -> Bytes {
    // The secret is not to be had from a token's type: take it from the printed text's bytes.
    let secret = crate::tokens::secret_of(&token.to_text());
    encode(&(cluster.id.0, token.id, secret, csr, facts(Roles::ALL)))
}

#[tokio::test]
async fn a_csr_for_another_nodes_id_is_refused_at_a_join() {
    let cluster = TestCluster::new(1);
    let signer = cluster.signer(2).await;
    let token = cluster.token(DAY);
    let (_, csr) = ca::make_request(&ca::node_name(cluster.id, NodeId(2))).unwrap();
    let stream = tls_connect(&cluster, None, signer.addr()).await.unwrap();
    let reply = http(stream, JOIN.id.0, &join_request(&cluster, &token, csr)).await;
    assert!(reply.starts_with("HTTP/1.1 400") && reply.contains("identity"), "{reply}");
    let (_, csr) = ca::make_request(&ca::joining_name(cluster.id)).unwrap();
    let stream = tls_connect(&cluster, None, signer.addr()).await.unwrap();
    let reply = http(stream, JOIN.id.0, &join_request(&cluster, &token, csr)).await;
    assert!(reply.starts_with("HTTP/1.1 200"), "the token was not used up: {reply}");
}

#[tokio::test]
async fn a_csr_for_another_nodes_id_is_refused_at_a_renewal() {
    let cluster = TestCluster::new(1);
    let signer = cluster.signer(2).await;
    let one = cluster.node(1).await;
    let (_, csr) = ca::make_request(&ca::node_name(cluster.id, NodeId(2))).unwrap();
    let request = RpcRequest { method: RENEW.id, head: encode(&(1_u32, csr)), body: Bytes::new() };
    let refused = one.call(2, request).await.unwrap_err();
    assert!(refused.to_string().contains("its own"), "{refused}");
    drop(signer);
}

#[tokio::test]
async fn a_csr_that_is_forged_or_greedy_is_refused() {
    let cluster = TestCluster::new(1);
    let signer = cluster.signer(2).await;
    let token = cluster.token(DAY);
    let name = ca::joining_name(cluster.id);
    let (_, good) = ca::make_request(&name).unwrap();
    let mut unsigned = good.clone();
    *unsigned.last_mut().unwrap() ^= 1;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params =
        rcgen::CertificateParams::new(vec![ca::node_name(cluster.id, NodeId(2))]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name.as_str());
    let with_names = params.serialize_request(&key).unwrap().der().to_vec();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name.as_str());
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let as_ca = params.serialize_request(&key).unwrap().der().to_vec();
    for csr in [unsigned, with_names, as_ca, Vec::new(), vec![0x30; 5000], good[..60].to_vec()] {
        let stream = tls_connect(&cluster, None, signer.addr()).await.unwrap();
        let reply = http(stream, JOIN.id.0, &join_request(&cluster, &token, csr)).await;
        assert!(reply.starts_with("HTTP/1.1 400"), "{reply}");
    }
    assert_eq!(cluster.root.state.lock().nodes.len(), 1);
}

#[tokio::test]
async fn without_a_certificate_only_joining_is_possible() {
    let cluster = TestCluster::new(1);
    let two = cluster.signer(2).await;
    for method in [PING.id.0, RENEW.id.0, ECHO.id.0, META_ONLY.id.0, 0x0103] {
        let stream = tls_connect(&cluster, None, two.addr()).await.unwrap();
        let reply = http(stream, method, b"").await;
        assert!(reply.starts_with("HTTP/1.1 400") && reply.contains("may not call"), "{reply}");
    }
    assert_eq!(two.served(), 0);
}

#[tokio::test]
async fn a_revoked_node_is_refused_at_its_next_call() {
    let cluster = TestCluster::new(1);
    let one = cluster.node(1).await;
    let two = cluster.node(2).await;
    assert!(one.call(2, echo(b"", "")).await.is_ok());
    assert!(one.call(2, request(WRITE, "x")).await.is_ok());
    cluster.root.edit(1, |record| record.revoked = true);
    let served = two.served();
    for spec in [ECHO, WRITE, READ] {
        let refused = one.call(2, request(spec, "")).await;
        assert!(
            matches!(&refused, Err(RpcError::Refused(why)) if why.contains("removed")),
            "{}: {refused:?}",
            spec.name
        );
    }
    // And nobody calls it any more.
    assert!(matches!(two.call(1, echo(b"", "")).await, Err(RpcError::Unreachable(..))));
    assert_eq!(two.served(), served);
}

#[tokio::test]
async fn an_unknown_node_of_this_cluster_is_asked_to_wait() {
    let cluster = TestCluster::new(1);
    let one = cluster.node(1).await;
    let _two = cluster.node(2).await;
    let record = cluster.root.state.lock().nodes.remove(&NodeId(1)).unwrap();
    assert!(matches!(one.call(2, echo(b"", "")).await, Err(RpcError::Busy(_))));
    cluster.root.state.lock().nodes.insert(NodeId(1), record);
    assert!(one.call(2, echo(b"", "")).await.is_ok());
}

#[tokio::test]
async fn a_cloned_disk_is_refused() {
    let cluster = TestCluster::new(1);
    let _signer = cluster.signer(2).await;
    let original = cluster.node(1).await;
    let identity = original.cell.identity();
    identity.store(&cluster.env, &original.dir).await.unwrap();
    let clone_dir = cluster.dirs.path().join("clone");
    identity.store(&cluster.env, &clone_dir).await.unwrap();
    let mut clone = cluster.node_with(identity, Roles::ALL, cluster.options()).await;
    clone.dir = clone_dir;

    original.renewal(&cluster).renew_now().await.unwrap();
    let refused = clone.renewal(&cluster).renew_now().await.unwrap_err();
    assert!(
        matches!(&refused, ClusterError::Refused(why) if why.contains("copied disk")),
        "{refused}"
    );
    assert!(clone.call(2, echo(b"", "")).await.is_ok(), "one generation is the grace");
    original.renewal(&cluster).renew_now().await.unwrap();
    let refused = clone.call(2, echo(b"", "")).await;
    assert!(
        matches!(&refused, Err(RpcError::Refused(why)) if why.contains("old disk")),
        "{refused:?}"
    );
    assert!(original.call(2, echo(b"", "")).await.is_ok());
}

/// The CA's key, to sign what the CA never would. Repeats the documented sealed layout.
fn stolen_ca_key(cluster: &TestCluster) -> rcgen::KeyPair {
    let sealed = cluster.authority.seal(&MASTER, &*cluster.env.rng).unwrap();
    let mut key = [0; 32];
    hkdf::Hkdf::<sha2::Sha256>::new(None, &MASTER)
        .expand(b"nexusgrid ca key v1", &mut key)
        .unwrap();
    let key = ring::aead::UnboundKey::new(&ring::aead::AES_256_GCM, &key).unwrap();
    let key = ring::aead::LessSafeKey::new(key);
    let mut aad = b"nexusgrid ca key v1".to_vec();
    aad.extend(cluster.id.0);
    aad.extend(cluster.authority.fingerprint());
    let nonce = ring::aead::Nonce::try_assume_unique_for_key(&sealed[1..13]).unwrap();
    let mut secret = sealed[13..].to_vec();
    let opened = key.open_in_place(nonce, ring::aead::Aad::from(aad), &mut secret).unwrap();
    rcgen::KeyPair::try_from(&*opened).unwrap()
}

/// A certificate of the cluster's CA with any name and serial number.
fn any_certificate(cluster: &TestCluster, name: &str, serial: Vec<u8>) -> Credentials {
    let issuer =
        rcgen::Issuer::from_ca_cert_der(cluster.authority.certificate(), stolen_ca_key(cluster))
            .unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.serial_number = Some(rcgen::SerialNumber::from(serial));
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    (vec![certificate.der().clone()], key)
}

#[tokio::test]
async fn a_clients_certificate_is_refused_on_a_nodes_rpc() {
    let cluster = TestCluster::new(1);
    let _one = cluster.node(1).await;
    let two = cluster.node(2).await;
    let good = ca::node_name(cluster.id, NodeId(1));
    let serial =
        |node: u64| [&[1][..], &node.to_be_bytes(), &1_u32.to_be_bytes(), &[9; 4]].concat();
    // Proof that the forge works: this one passes.
    let forged = any_certificate(&cluster, &good, serial(1));
    let stream = tls_connect(&cluster, Some(forged), two.addr()).await.unwrap();
    assert!(http(stream, ECHO.id.0, b"").await.starts_with("HTTP/1.1 200"));
    let served = two.served();
    for (name, serial) in [
        (good.replacen("n1.", "client-1.", 1), serial(1)),
        (good.replacen("n1.", "n01.", 1), serial(1)),
        (good.replacen("n1.", "n0.", 1), serial(0)),
        (good.clone(), serial(2)),
        (good.clone(), vec![5; 16]),
        (ca::node_name(ClusterId([9; 16]), NodeId(1)), serial(1)),
        ("n1.nexusgrid".to_owned(), serial(1)),
        (ca::joining_name(cluster.id), serial(1)),
    ] {
        let credentials = any_certificate(&cluster, &name, serial);
        let stream = tls_connect(&cluster, Some(credentials), two.addr()).await.unwrap();
        let reply = http(stream, ECHO.id.0, b"").await;
        assert!(reply.starts_with("HTTP/1.1 400"), "{name}: {reply}");
    }
    // The CA's own certificate is no node's either.
    let key =
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(stolen_ca_key(&cluster).serialize_der()));
    let as_ca = (vec![cluster.authority.certificate().clone()], key);
    if let Ok(stream) = tls_connect(&cluster, Some(as_ca), two.addr()).await {
        let reply = http(stream, ECHO.id.0, b"").await;
        assert!(!reply.starts_with("HTTP/1.1 200"), "{reply}");
    }
    assert_eq!(two.served(), served);
}

#[tokio::test]
async fn a_certificate_of_a_wrong_ca_is_refused() {
    let cluster = TestCluster::new(1);
    let impostor = TestCluster::new(1);
    let two = cluster.node(2).await;
    let liar = impostor.node(1).await;
    // The impostor, same cluster id and all, calls our node: neither believes the other.
    impostor
        .root
        .state
        .lock()
        .nodes
        .insert(NodeId(2), cluster.root.state.lock().nodes[&NodeId(2)].clone());
    let refused = liar.call(2, echo(b"", "")).await;
    assert!(matches!(refused, Err(RpcError::Unreachable(..))), "{refused:?}");
    // One that trusts us and presents its own CA's certificate gets an alert.
    let (certificate, key) =
        impostor.authority.issue(NodeId(1), 1, cluster.clock.wall(), &*cluster.env.rng).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    if let Ok(stream) = tls_connect(&cluster, Some((vec![certificate], key)), two.addr()).await {
        assert_eq!(http(stream, ECHO.id.0, b"").await, "");
    }
    // Our node calls the impostor, who sits at the address of node 1.
    let mut record = impostor.root.state.lock().nodes[&NodeId(1)].clone();
    record.rpc_addr = liar.addr();
    cluster.root.state.lock().nodes.insert(NodeId(1), record);
    let refused = two.call(1, echo(b"", "")).await;
    assert!(matches!(refused, Err(RpcError::Unreachable(..))), "{refused:?}");
    assert_eq!((two.served(), liar.served()), (0, 0));
}

#[tokio::test]
async fn a_node_at_anothers_address_is_not_taken_for_it() {
    let cluster = TestCluster::new(1);
    let one = cluster.node(1).await;
    let two = cluster.node(2).await;
    let three = cluster.node(3).await;
    cluster.root.edit(3, |record| record.rpc_addr = two.addr());
    let refused = one.call(3, echo(b"", "")).await;
    assert!(matches!(refused, Err(RpcError::Unreachable(..))), "{refused:?}");
    assert_eq!((two.served(), three.served()), (0, 0));
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let cluster = TestCluster::new(1);
    let one = cluster.node(1).await;
    let two = cluster.node(2).await;
    assert!(one.call(2, echo(b"", "")).await.is_ok());
    cluster.clock.advance(31 * DAY);
    // On the connection that is open.
    let open = one.call(2, echo(b"", "")).await;
    assert!(matches!(&open, Err(RpcError::Refused(why)) if why.contains("expired")), "{open:?}");
    // On a new one: the caller finds the server's certificate expired.
    let three = cluster.node_with(cluster.issue(3, 1), Roles::ALL, cluster.options()).await;
    let fresh = three.call(2, echo(b"", "")).await;
    assert!(matches!(fresh, Err(RpcError::Unreachable(..))), "{fresh:?}");
    // And the server the caller's.
    let refused = one.call(3, echo(b"", "")).await;
    assert!(matches!(refused, Err(RpcError::Refused(_) | RpcError::Unknown(..))), "{refused:?}");
    assert_eq!((two.served(), three.served()), (1, 0));
    // A machine that joins finds out as well.
    let refused = cluster.join(two.addr(), &cluster.token(DAY)).await.err().unwrap();
    assert!(matches!(refused, ClusterError::Certificate(_)), "{refused}");
}

#[tokio::test]
async fn a_certificate_is_renewed_and_used() {
    let cluster = TestCluster::new(1);
    let signer = cluster.signer(2).await;
    let one = cluster.node(1).await;
    one.cell.identity().store(&cluster.env, &one.dir).await.unwrap();
    let renewal = one.renewal(&cluster);
    assert!(one.call(2, echo(b"", "")).await.is_ok());
    assert!(!renewal.is_due(cluster.clock.wall()));
    cluster.clock.advance(19 * DAY);
    assert!(!renewal.is_due(cluster.clock.wall()));
    cluster.clock.advance(2 * DAY);
    assert!(renewal.is_due(cluster.clock.wall()), "two thirds of 30 days");
    renewal.renew_now().await.unwrap();
    signer.renewal(&cluster).renew_now().await.unwrap();
    assert!(!renewal.is_due(cluster.clock.wall()));
    assert_eq!(one.cell.certificate().generation, 2);
    let stored = NodeIdentity::load(&cluster.env, &one.dir).await.unwrap();
    assert_eq!(stored.parsed().unwrap().generation, 2);
    cluster.clock.advance(20 * DAY);
    assert!(one.call(2, echo(b"", "")).await.is_ok(), "the first would have expired");
}

#[tokio::test]
async fn the_renewal_task_renews_by_itself() {
    let cluster = TestCluster::new(1);
    let _signer = cluster.signer(2).await;
    let one = cluster.node(1).await;
    cluster.clock.advance(21 * DAY);
    let mut renewal = one.renewal(&cluster);
    renewal.options.check_every = Duration::from_millis(20);
    renewal.start();
    until("the certificate is renewed", || one.cell.certificate().generation == 2).await;
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_is_repeated() {
    let cluster = TestCluster::new(1);
    let signer = cluster.signer(2).await;
    let one = cluster.node(1).await;
    one.cell.identity().store(&cluster.env, &one.dir).await.unwrap();
    one.renewal(&cluster).renew_now().await.unwrap();
    // The process died before it could store generation 3: it comes back with 2 and the key that
    // it had stored before it asked.
    let generation_2 = one.cell.identity();
    let dir = one.dir.clone();
    let disk = cluster.env.disk.clone();
    let renewal = one.renewal(&cluster);
    signer.admission.set_authority(None);
    assert!(renewal.renew_now().await.is_err());
    let pending = std::fs::read(dir.join("renewal")).unwrap();
    signer.admission.set_authority(Some(cluster.authority.clone()));
    renewal.renew_now().await.unwrap();
    assert!(!disk.exists(&dir.join("renewal")).unwrap());
    std::fs::write(dir.join("renewal"), pending).unwrap();
    generation_2.store(&cluster.env, &dir).await.unwrap();
    let mut revived = cluster.node_with(generation_2, Roles::ALL, cluster.options()).await;
    revived.dir = dir;
    revived.renewal(&cluster).renew_now().await.unwrap();
    assert_eq!(revived.cell.certificate().generation, 3);
    assert_eq!(cluster.root.state.lock().nodes[&NodeId(1)].generation, 3);
}

#[tokio::test]
async fn a_renewal_must_name_the_certificate_it_is_asked_with() {
    let cluster = TestCluster::new(1);
    let _signer = cluster.signer(2).await;
    let one = cluster.node(1).await;
    let (_, csr) = ca::make_request(&ca::node_name(cluster.id, NodeId(1))).unwrap();
    let request = RpcRequest { method: RENEW.id, head: encode(&(2_u32, csr)), body: Bytes::new() };
    assert!(matches!(one.call(2, request).await, Err(RpcError::Refused(_))));
    assert_eq!(cluster.root.state.lock().nodes[&NodeId(1)].generation, 1);
}

#[tokio::test]
async fn the_identity_survives_and_damage_is_told() {
    let cluster = TestCluster::new(1);
    let disk = SimDisk::new(7);
    let env = Env { disk: disk.mount(), exec: Exec::inline(), ..cluster.env.clone() };
    let dir = std::path::Path::new("/data/node");
    assert!(!NodeIdentity::exists(&env, dir).await.unwrap());
    let absent = NodeIdentity::load(&env, dir).await;
    assert!(matches!(absent, Err(ClusterError::NoIdentity(_))));
    let (old, new) = (cluster.issue(4, 1), cluster.issue(4, 2));
    old.store(&env, dir).await.unwrap();
    assert!(NodeIdentity::exists(&env, dir).await.unwrap());
    new.store(&env, dir).await.unwrap();
    disk.crash();
    let env = Env { disk: disk.mount(), ..env };
    assert_eq!(NodeIdentity::load(&env, dir).await.unwrap(), new, "stored means durable");
    let path = dir.join("identity");
    let len = env.disk.open(&path, OpenMode::Read).unwrap().len().unwrap();
    for byte in (0..len).step_by(37) {
        disk.flip_bit(&path, byte * 8).unwrap();
        let damaged = NodeIdentity::load(&env, dir).await;
        assert!(matches!(damaged, Err(ClusterError::DamagedIdentity(..))), "byte {byte}");
        disk.flip_bit(&path, byte * 8).unwrap();
    }
    assert!(NodeIdentity::load(&env, dir).await.is_ok());
}

#[tokio::test]
async fn an_identity_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let cluster = TestCluster::new(1);
    let dir = cluster.dirs.path().join("private");
    cluster.issue(4, 1).store(&cluster.env, &dir).await.unwrap();
    let mode = std::fs::metadata(dir.join("identity")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn starts_are_counted_durably() {
    let cluster = TestCluster::new(1);
    let disk = SimDisk::new(7);
    let mut env = Env { disk: disk.mount(), exec: Exec::inline(), ..cluster.env.clone() };
    for expected in 1..=5 {
        assert_eq!(count_start(&env, "/data".as_ref()).await.unwrap(), expected);
        disk.crash();
        env.disk = disk.mount();
    }
}

#[test]
fn the_ca_key_opens_only_with_its_master_key_in_its_cluster() {
    let cluster = TestCluster::new(1);
    let certificate = cluster.authority.certificate();
    let sealed = cluster.authority.seal(&MASTER, &*cluster.env.rng).unwrap();
    let opened = CertAuthority::open(cluster.id, certificate, &sealed, &MASTER).unwrap();
    let (certificate_of_9, _) =
        opened.issue(NodeId(9), 3, cluster.clock.wall(), &*cluster.env.rng).unwrap();
    let parsed = NodeCertificate::parse(&certificate_of_9).unwrap();
    assert_eq!((parsed.node, parsed.generation, parsed.cluster), (NodeId(9), 3, cluster.id));
    let wrong = |cluster_id, certificate: &[u8], sealed: &[u8], master| {
        let opened = CertAuthority::open(cluster_id, certificate, sealed, master);
        assert!(matches!(opened, Err(ClusterError::SealedCaKey)), "{:?}", opened.err());
    };
    wrong(cluster.id, certificate, &sealed, &[1; 32]);
    wrong(ClusterId([8; 16]), certificate, &sealed, &MASTER);
    wrong(cluster.id, TestCluster::new(1).authority.certificate(), &sealed, &MASTER);
    for at in 0..sealed.len() {
        let mut altered = sealed.clone();
        altered[at] ^= 0x10;
        wrong(cluster.id, certificate, &altered, &MASTER);
    }
    for len in 0..sealed.len() {
        wrong(cluster.id, certificate, &sealed[..len], &MASTER);
    }
}

#[test]
fn secrets_do_not_show_in_debug_output() {
    let cluster = TestCluster::new(1);
    let identity = cluster.issue(1, 1);
    let token = cluster.token(DAY);
    let cell = IdentityCell::new(cluster.clock.clone(), identity.clone()).unwrap();
    let text = format!("{identity:?} {token:?} {cell:?} {:?}", cluster.authority);
    assert!(!text.contains("42, 42"), "the gossip key: {text}");
    assert!(text.len() < 700, "{text}");
}

#[tokio::test]
async fn random_certificates_and_requests_do_not_panic() {
    let cluster = TestCluster::new(1);
    let certificate = cluster.authority.certificate().to_vec();
    let (_, csr) = ca::make_request("x").unwrap();
    for (valid, rounds) in [(certificate, 2000_u64), (csr, 300)] {
        for _ in 0..rounds {
            let mut bytes = valid.clone();
            for _ in 0..=cluster.env.rng.below(3) {
                let at = cluster.env.rng.below(bytes.len() as u64) as usize;
                bytes[at] = cluster.env.rng.u64() as u8;
            }
            bytes.truncate(bytes.len() - cluster.env.rng.below(20) as usize);
            let _ = NodeCertificate::parse(&bytes);
            let _ = ca::SigningRequest::parse(&bytes);
        }
    }
}
