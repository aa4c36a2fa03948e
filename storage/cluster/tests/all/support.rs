//! A small cluster for tests: real sockets, an in-memory root group, a clock that can be moved.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nexusgrid_cluster::ca::CertAuthority;
use nexusgrid_cluster::directory::{Admission, AdmissionError, Admitted, next_generation};
use nexusgrid_cluster::method::{JOIN, META, RENEW};
use nexusgrid_cluster::{
    AdmissionService, Callers, Channel, ClusterError, IdentityCell, JoinAttempt, JoinOptions,
    JoinToken, Joined, MethodSpec, NodeClass, NodeDirectory, NodeFacts, NodeIdentity, NodeRecord,
    Renewal, RpcRouter, TokenRecord, Transport, TransportOptions, join, token,
};
use nexusgrid_codec::ClusterId;
use nexusgrid_env::real::{OsRng, RealClock, RealDisk};
use nexusgrid_env::sim::{SimDisk, SimEngine};
use nexusgrid_env::{
    BootInstant, Clock, Env, Exec, NodeId, Peer, Roles, Rpc, RpcError, RpcRequest, RpcResponse,
    RpcService, UnixMillis,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

pub const ECHO: MethodSpec = MethodSpec::new(0x0401, "echo", Callers::Nodes)
    .request_max(1024, 64 * 1024)
    .reply_max(1024, 64 * 1024);
pub const META_ONLY: MethodSpec = MethodSpec::new(0x0402, "meta_only", META);
pub const HANG: MethodSpec = MethodSpec::new(0x0403, "hang", Callers::Nodes);
pub const WRITE: MethodSpec = MethodSpec::new(0x0404, "write", Callers::Nodes)
    .channel(Channel::ShardWrite)
    .request_max(1024, 2 << 20);
pub const READ: MethodSpec = MethodSpec::new(0x0405, "read", Callers::Nodes)
    .channel(Channel::ShardRead)
    .request_max(1024, 0)
    .reply_max(1024, 2 << 20);
pub const METHODS: &[MethodSpec] = &[ECHO, META_ONLY, HANG, WRITE, READ];

pub const GOSSIP_KEY: [u8; 32] = [42; 32];
pub const MASTER: [u8; 32] = [77; 32];
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// A real clock whose wall time can be moved.
pub struct MovableClock {
    real: RealClock,
    wall_offset_ms: AtomicU64,
}

impl MovableClock {
    pub fn advance(&self, by: Duration) {
        self.wall_offset_ms.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }
}

#[async_trait]
impl Clock for MovableClock {
    fn now(&self) -> BootInstant {
        self.real.now()
    }
    fn wall(&self) -> UnixMillis {
        UnixMillis(self.real.wall().0 + self.wall_offset_ms.load(Ordering::Relaxed))
    }
    async fn sleep(&self, duration: Duration) {
        self.real.sleep(duration).await;
    }
    fn suspend_jumps(&self) -> watch::Receiver<u64> {
        self.real.suspend_jumps()
    }
}

/// What the root group would hold: node table and tokens.
#[derive(Default)]
pub struct Root {
    pub state: Mutex<RootState>,
    clock: Mutex<Option<Arc<MovableClock>>>,
}

#[derive(Default)]
pub struct RootState {
    pub nodes: BTreeMap<NodeId, NodeRecord>,
    pub keys: BTreeMap<NodeId, [u8; 32]>,
    pub tokens: BTreeMap<[u8; 8], TokenRecord>,
    pub joined_by_key: BTreeMap<[u8; 32], NodeId>,
    pub signers: Vec<(NodeId, SocketAddr)>,
    pub next_node: u64,
}

impl Root {
    pub fn edit(&self, node: u64, change: impl FnOnce(&mut NodeRecord)) {
        change(self.state.lock().nodes.get_mut(&NodeId(node)).unwrap());
    }
}

impl NodeDirectory for Root {
    fn lookup(&self, node: NodeId) -> Option<NodeRecord> {
        self.state.lock().nodes.get(&node).cloned()
    }
    fn signers(&self) -> Vec<(NodeId, SocketAddr)> {
        self.state.lock().signers.clone()
    }
}

#[async_trait]
impl Admission for Root {
    async fn redeem(&self, attempt: JoinAttempt) -> Result<Admitted, AdmissionError> {
        let now = self.clock.lock().as_ref().unwrap().wall();
        let mut state = self.state.lock();
        token::admits(
            state.tokens.get(&attempt.token_id),
            &attempt.secret_hash,
            &attempt.key_hash,
            now,
        )?;
        let node = match state.joined_by_key.get(&attempt.key_hash) {
            Some(node) => *node,
            None => {
                state.next_node += 1;
                NodeId(state.next_node)
            }
        };
        state.tokens.get_mut(&attempt.token_id).unwrap().used_by_key = Some(attempt.key_hash);
        state.joined_by_key.insert(attempt.key_hash, node);
        state.keys.insert(node, attempt.key_hash);
        state.nodes.insert(
            node,
            NodeRecord {
                node,
                rpc_addr: attempt.facts.rpc_addr,
                gossip_addr: attempt.facts.gossip_addr,
                roles: attempt.facts.roles,
                revoked: false,
                generation: 1,
            },
        );
        Ok(Admitted { node, generation: 1, bootstrap: Bytes::from_static(b"bootstrap") })
    }

    async fn renew(
        &self,
        node: NodeId,
        current: u32,
        key_hash: [u8; 32],
    ) -> Result<u32, AdmissionError> {
        let mut state = self.state.lock();
        let newest = state.nodes.get(&node).unwrap().generation;
        let newest_key = state.keys.get(&node).copied().unwrap_or_default();
        let next = next_generation(newest, &newest_key, current, &key_hash)?;
        state.nodes.get_mut(&node).unwrap().generation = next;
        state.keys.insert(node, key_hash);
        Ok(next)
    }
}

/// Counts and answers.
#[derive(Default)]
pub struct TestService {
    pub served: AtomicUsize,
    pub finished: AtomicUsize,
    pub release: Notify,
}

#[async_trait]
impl RpcService for TestService {
    async fn serve(&self, from: Peer, request: RpcRequest) -> Result<RpcResponse, RpcError> {
        self.served.fetch_add(1, Ordering::SeqCst);
        let reply = match request.method {
            id if id == HANG.id => {
                self.release.notified().await;
                Ok(RpcResponse::default())
            }
            id if id == READ.id => {
                let body = Bytes::from(vec![0xab; 1 << 20]);
                Ok(RpcResponse { head: request.head, body })
            }
            id if id == WRITE.id => {
                let length = request.body.len().to_string();
                Ok(RpcResponse { head: Bytes::from(length), body: Bytes::new() })
            }
            _ if &request.head[..] == b"fail" => Err(RpcError::Failed("as asked".into())),
            _ if &request.head[..] == b"who" => {
                Ok(RpcResponse { head: Bytes::from(from.node.to_string()), body: Bytes::new() })
            }
            _ => Ok(RpcResponse { head: request.head, body: request.body }),
        };
        self.finished.fetch_add(1, Ordering::SeqCst);
        reply
    }
}

pub struct TestCluster {
    pub root: Arc<Root>,
    pub authority: Arc<CertAuthority>,
    pub clock: Arc<MovableClock>,
    pub env: Env,
    pub id: ClusterId,
    pub dirs: tempfile::TempDir,
}

pub struct TestNode {
    pub env: Env,
    pub dir: PathBuf,
    pub cell: Arc<IdentityCell>,
    pub transport: Arc<Transport>,
    pub admission: Arc<AdmissionService>,
    pub service: Arc<TestService>,
}

pub fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

pub fn facts(roles: Roles) -> NodeFacts {
    NodeFacts {
        host: "host".into(),
        zone: "zone".into(),
        class: NodeClass::Stable,
        roles,
        rpc_addr: any_port(),
        gossip_addr: any_port(),
        drives: Vec::new(),
    }
}

pub fn echo(head: &'static [u8], body: impl Into<Bytes>) -> RpcRequest {
    RpcRequest { method: ECHO.id, head: Bytes::from_static(head), body: body.into() }
}

pub fn request(spec: MethodSpec, body: impl Into<Bytes>) -> RpcRequest {
    RpcRequest { method: spec.id, head: Bytes::from_static(b"head"), body: body.into() }
}

pub const SOON: Duration = Duration::from_secs(10);

impl TestCluster {
    pub fn new(id: u8) -> TestCluster {
        let clock =
            Arc::new(MovableClock { real: RealClock::start(), wall_offset_ms: AtomicU64::new(0) });
        let env = Env {
            clock: clock.clone(),
            disk: Arc::new(RealDisk),
            kv: Arc::new(SimEngine::new(SimDisk::new(0).mount())),
            rng: Arc::new(OsRng),
            exec: Exec::threads(),
            invariants: Default::default(),
            rules: Default::default(),
        };
        let id = ClusterId([id; 16]);
        let root = Arc::new(Root::default());
        *root.clock.lock() = Some(clock.clone());
        root.state.lock().next_node = 100;
        let authority = Arc::new(CertAuthority::create(id, clock.wall()).unwrap());
        let dirs = tempfile::tempdir().unwrap();
        TestCluster { root, authority, clock, env, id, dirs }
    }

    pub fn issue(&self, node: u64, generation: u32) -> NodeIdentity {
        let (certificate, key) = self
            .authority
            .issue(NodeId(node), generation, self.clock.wall(), &*self.env.rng)
            .unwrap();
        NodeIdentity::new(
            self.id,
            NodeId(node),
            certificate.to_vec(),
            key,
            self.authority.certificate().to_vec(),
            GOSSIP_KEY,
        )
        .unwrap()
    }

    pub fn options(&self) -> TransportOptions {
        TransportOptions::new(any_port())
    }

    pub async fn node(&self, node: u64) -> TestNode {
        self.node_with(self.issue(node, 1), Roles::ALL, self.options()).await
    }

    pub async fn node_with(
        &self,
        identity: NodeIdentity,
        roles: Roles,
        options: TransportOptions,
    ) -> TestNode {
        let node = identity.node;
        let generation = identity.parsed().unwrap().generation;
        let cell = IdentityCell::new(self.clock.clone(), identity).unwrap();
        let router = RpcRouter::new();
        let service = Arc::new(TestService::default());
        router.register(METHODS, service.clone());
        let env = Env { exec: Exec::threads(), ..self.env.clone() };
        let directory: Arc<dyn NodeDirectory> = self.root.clone();
        let admission =
            AdmissionService::new(env.clone(), cell.clone(), directory.clone(), self.root.clone());
        router.register(&[JOIN, RENEW], admission.clone());
        let transport =
            Transport::start(env.clone(), options, cell.clone(), directory, router).await.unwrap();
        let addr = transport.local_addr();
        self.root.state.lock().nodes.entry(node).or_insert(NodeRecord {
            node,
            rpc_addr: addr,
            gossip_addr: addr,
            roles,
            revoked: false,
            generation,
        });
        let dir = self.dirs.path().join(node.to_string());
        TestNode { env, dir, cell, transport, admission, service }
    }

    /// A node that holds the CA key and is known to.
    pub async fn signer(&self, node: u64) -> TestNode {
        let signer = self.node(node).await;
        signer.admission.set_authority(Some(self.authority.clone()));
        self.root.state.lock().signers.push((NodeId(node), signer.addr()));
        signer
    }

    pub fn token(&self, life: Duration) -> JoinToken {
        let token = JoinToken::create(
            &*self.env.rng,
            self.id,
            self.authority.fingerprint(),
            self.clock.wall(),
            life,
            Vec::new(),
        );
        self.root.state.lock().tokens.insert(token.id, token.record());
        token
    }

    pub async fn join(&self, at: SocketAddr, token: &JoinToken) -> Result<Joined, ClusterError> {
        let options = JoinOptions::default();
        join(&self.env, Some(&at.to_string()), token, facts(Roles::ALL), &options).await
    }
}

impl TestNode {
    pub fn addr(&self) -> SocketAddr {
        self.transport.local_addr()
    }

    pub fn served(&self) -> usize {
        self.service.served.load(Ordering::SeqCst)
    }

    pub async fn call(&self, to: u64, request: RpcRequest) -> Result<RpcResponse, RpcError> {
        self.transport.call(NodeId(to), request, SOON).await
    }

    pub fn renewal(&self, cluster: &TestCluster) -> Renewal {
        Renewal {
            env: self.env.clone(),
            dir: self.dir.clone(),
            identity: self.cell.clone(),
            rpc: self.transport.clone(),
            directory: cluster.root.clone(),
            options: Default::default(),
        }
    }
}

/// Waits for a condition that other tasks bring about.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = timeout(SOON, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never happened: {what}"));
}
