//! The register of remote procedures: who may call them, how large they may be, how they travel.

use std::time::Duration;

use nexusgrid_env::{MethodId, Peer, Roles};

use crate::limits;

/// How a method's bytes travel between two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// mTLS.
    Control,
    /// Plain HTTP/1.1 on a connection bound to the peer; a MAC covers head and body both ways.
    /// For bodies that are ciphertext already.
    ShardWrite,
    /// As [`Channel::ShardWrite`], but the reply's body carries no MAC: the reader proves it by the
    /// AEAD tags within.
    ShardRead,
}

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callers {
    /// Anyone who can connect, without a certificate (node 0): admission only.
    Anyone,
    /// Every node in good standing.
    Nodes,
    /// Nodes in good standing with at least one of these roles.
    AnyOf(Roles),
}

impl Callers {
    /// Whether `peer` is among them.
    pub fn allow(&self, peer: &Peer) -> bool {
        let is_node = peer.node.0 != 0;
        match self {
            Callers::Anyone => true,
            Callers::Nodes => is_node,
            Callers::AnyOf(roles) => {
                is_node
                    && ((roles.storage && peer.roles.storage)
                        || (roles.meta && peer.roles.meta)
                        || (roles.gateway && peer.roles.gateway))
            }
        }
    }
}

/// Nodes with the meta role.
pub const META: Callers = Callers::AnyOf(Roles { storage: false, meta: true, gateway: false });
/// Nodes with the gateway role.
pub const GATEWAY: Callers = Callers::AnyOf(Roles { storage: false, meta: false, gateway: true });
/// Nodes with the storage role.
pub const STORAGE: Callers = Callers::AnyOf(Roles { storage: true, meta: false, gateway: false });
/// Nodes with the meta or the gateway role.
pub const META_OR_GATEWAY: Callers =
    Callers::AnyOf(Roles { storage: false, meta: true, gateway: true });

/// Largest head and body, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Encoded arguments or result.
    pub head: usize,
    /// Bulk bytes.
    pub body: usize,
}

/// One remote procedure.
///
/// ```
/// use nexusgrid_cluster::method::{Callers, Channel, MethodSpec};
/// const PUT: MethodSpec = MethodSpec::new(0x0301, "shard_put", Callers::Nodes)
///     .channel(Channel::ShardWrite)
///     .request_max(4096, 9 << 20);
/// assert_eq!(PUT.request.body, 9 << 20);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MethodSpec {
    /// The procedure.
    pub id: MethodId,
    /// Its name, for logs and metrics.
    pub name: &'static str,
    /// Who may call it.
    pub callers: Callers,
    /// How it travels.
    pub channel: Channel,
    /// Bounds of the request.
    pub request: Sizes,
    /// Bounds of the reply.
    pub reply: Sizes,
    /// Longest time a caller may give it; a longer deadline is cut to this.
    pub deadline_max: Duration,
    /// Waits on purpose: counts against the caller's own limit, not against the server's.
    pub long_poll: bool,
}

impl MethodSpec {
    /// A control method with heads up to 1 MiB, no bodies, and calls of at most 60 s.
    pub const fn new(id: u16, name: &'static str, callers: Callers) -> MethodSpec {
        MethodSpec {
            id: MethodId(id),
            name,
            callers,
            channel: Channel::Control,
            request: Sizes { head: 1 << 20, body: 0 },
            reply: Sizes { head: 1 << 20, body: 0 },
            deadline_max: Duration::from_secs(60),
            long_poll: false,
        }
    }

    /// Travels on `channel`.
    #[must_use]
    pub const fn channel(mut self, channel: Channel) -> MethodSpec {
        self.channel = channel;
        self
    }

    /// Bounds the request's head and body, in bytes (cut to the crate's limits).
    #[must_use]
    pub const fn request_max(mut self, head: usize, body: usize) -> MethodSpec {
        self.request = bounded(head, body);
        self
    }

    /// Bounds the reply's head and body, in bytes (cut to the crate's limits).
    #[must_use]
    pub const fn reply_max(mut self, head: usize, body: usize) -> MethodSpec {
        self.reply = bounded(head, body);
        self
    }

    /// Bounds a call's time.
    #[must_use]
    pub const fn deadline_max(mut self, deadline: Duration) -> MethodSpec {
        self.deadline_max = deadline;
        self
    }

    /// Waits on purpose for something to happen.
    #[must_use]
    pub const fn long_poll(mut self) -> MethodSpec {
        self.long_poll = true;
        self
    }
}

const fn bounded(head: usize, body: usize) -> Sizes {
    Sizes {
        head: if head > limits::RPC_HEAD_BYTES_MAX { limits::RPC_HEAD_BYTES_MAX } else { head },
        body: if body > limits::RPC_BODY_BYTES_MAX { limits::RPC_BODY_BYTES_MAX } else { body },
    }
}

/// Admission of a new node; the one method without a certificate.
pub const JOIN: MethodSpec = MethodSpec::new(0x0101, "join", Callers::Anyone)
    .request_max(128 * 1024, 0)
    .reply_max(64 * 1024, limits::JOIN_BOOTSTRAP_BYTES_MAX);
/// A new certificate for the calling node.
pub const RENEW: MethodSpec =
    MethodSpec::new(0x0102, "renew", Callers::Nodes).request_max(16 * 1024, 0);
/// Opens a session of the shard channel, on the connection it is called on.
pub const SHARD_HELLO: MethodSpec = MethodSpec::new(0x0103, "shard_hello", Callers::Nodes)
    .request_max(64, 0)
    .reply_max(64, 0)
    .deadline_max(Duration::from_secs(10));
/// Answers with what it was sent: reachability and round trip.
pub const PING: MethodSpec = MethodSpec::new(0x0105, "ping", Callers::Nodes)
    .request_max(64, 64 * 1024)
    .reply_max(64, 64 * 1024)
    .deadline_max(Duration::from_secs(10));

/// All methods of this crate.
pub const METHODS: &[MethodSpec] = &[JOIN, RENEW, SHARD_HELLO, PING];
