//! Nodes and names: each call is one command or one query.

use nexusgrid_codec::SessionId;
use nexusgrid_meta::namespace::types::{NamespaceAnswer, PosixDone, PosixOp, PosixQuery};

use serde::{Deserialize, Serialize};

use super::{
    AttrsChange, Ino, Loan, Maker, NewNode, Node, PosixError, RenameMode, SNAPSHOTS_NAME, Volume,
    VolumeError, XattrWhen, is_past,
};
use crate::core::internal;
use crate::limits;
use crate::meta_port::CommandId;

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creation {
    /// What.
    pub what: NewNode,
    /// Whose, and with which permissions.
    pub maker: Maker,
    /// Whether it is held from the beginning (see [`Volume::hold`]).
    pub hold: bool,
}

impl Volume {
    /// What a name leads to; it has a number then.
    pub async fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Node, VolumeError> {
        self.lookup_loan(parent, name).await.0
    }

    /// As [`Volume::lookup`]; gives what may be lent of the answer.
    pub async fn lookup_loan(
        &self,
        parent: Ino,
        name: &[u8],
    ) -> (Result<Node, VolumeError>, Option<Loan>) {
        if name == SNAPSHOTS_NAME && !is_past(parent) {
            return (self.lookup_all(parent).await, None);
        }
        let query = PosixQuery::Lookup { parent, name: name.to_vec() };
        match self.recall_loan(query).await {
            (Ok(NamespaceAnswer::Node(node)), loan) if node.ino.is_some() => (Ok(*node), loan),
            (Ok(NamespaceAnswer::Node(_)), _) => (self.adopt(parent, name).await, None),
            (Ok(_), _) => (Err(internal("answer to a lookup").into()), None),
            (Err(error), loan) => (Err(error), loan),
        }
    }

    /// Gives what a name leads to a number.
    pub(super) async fn adopt(&self, parent: Ino, name: &[u8]) -> Result<Node, VolumeError> {
        let mut nodes = self.adopted(parent, vec![name.to_vec()]).await?;
        Ok(nodes.pop().flatten().ok_or(PosixError::NotFound)?)
    }

    /// Gives what names lead to numbers; `None`: nowhere.
    pub(super) async fn adopted(
        &self,
        parent: Ino,
        names: Vec<Vec<u8>>,
    ) -> Result<Vec<Option<Node>>, VolumeError> {
        if let Some(nodes) = self.adopt_past(parent, &names).await {
            return nodes;
        }
        match self.one(PosixOp::Adopt { parent, names }, None).await? {
            PosixDone::Nodes(nodes) => Ok(nodes),
            _ => Err(internal("reply to an adoption").into()),
        }
    }

    /// A node by its number.
    pub async fn node(&self, ino: Ino) -> Result<Node, VolumeError> {
        self.node_loan(ino).await.0
    }

    /// As [`Volume::node`]; gives what may be lent of the answer.
    pub async fn node_loan(&self, ino: Ino) -> (Result<Node, VolumeError>, Option<Loan>) {
        match self.recall_loan(PosixQuery::Node { ino }).await {
            (Ok(NamespaceAnswer::Node(node)), loan) => (Ok(*node), loan),
            (Ok(_), _) => (Err(internal("answer to a query for a node").into()), None),
            (Err(error), loan) => (Err(error), loan),
        }
    }

    /// Makes a node.
    pub async fn make(
        &self,
        parent: Ino,
        name: &[u8],
        creation: Creation,
        request: Option<CommandId>,
    ) -> Result<Node, VolumeError> {
        let Creation { what, maker, hold } = creation;
        let mut round = 0;
        loop {
            let (ino, name, what) = (self.lease.number().await?, name.to_vec(), what.clone());
            let op = PosixOp::Make { parent, name, ino, what, maker, hold };
            let made = self.node_of(op, request.map(|id| id.again(round))).await;
            if let Ok(Node { ino: Some(ino), .. }) = &made
                && hold
            {
                self.lease.holds().made(*ino);
            }
            match made {
                // The number was of a mount before, or of this one before it was gone on with.
                Err(VolumeError::Posix(PosixError::NotReserved))
                    if round < limits::MOUNT_LIVES_MAX =>
                {
                    round += 1;
                }
                other => return other,
            }
        }
    }

    /// Removes a name of what is no directory.
    pub async fn unlink(
        &self,
        parent: Ino,
        name: &[u8],
        request: Option<CommandId>,
    ) -> Result<(), VolumeError> {
        let unlink = PosixOp::Unlink { parent, name: name.to_vec() };
        // A file that lingers goes with its name, if it is known which one that is.
        let known = self.recalled(PosixQuery::Lookup { parent, name: name.to_vec() });
        let ino = match known {
            Some(NamespaceAnswer::Node(node)) => node.ino,
            _ => None,
        };
        let Some(leaving) = ino.and_then(|ino| self.lease.holds().leave(ino)) else {
            return self.one(unlink, request).await.map(drop);
        };
        let ops: Vec<_> = std::iter::once(unlink).chain(leaving.ops()).collect();
        let count = ops.len();
        let done = self.lease.run((SessionId(0), Vec::new()), ops, request).await?;
        // A repeated request hears what it came to when it was the removal alone: then it lingers on.
        if done.len() == count {
            leaving.done();
        }
        match done.into_iter().next() {
            Some(unlinked) => Ok(unlinked.map(drop)?),
            None => Err(internal("reply to a removal").into()),
        }
    }

    /// Removes an empty directory.
    pub async fn rmdir(
        &self,
        parent: Ino,
        name: &[u8],
        request: Option<CommandId>,
    ) -> Result<(), VolumeError> {
        self.one(PosixOp::Rmdir { parent, name: name.to_vec() }, request).await.map(drop)
    }

    /// Gives a node another name.
    pub async fn rename(
        &self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
        request: Option<CommandId>,
    ) -> Result<(), VolumeError> {
        let (from, to) = ((from.0, from.1.to_vec()), (to.0, to.1.to_vec()));
        self.one(PosixOp::Rename { from, to, mode }, request).await.map(drop)
    }

    /// Gives a node that is no directory one more name.
    pub async fn link(
        &self,
        ino: Ino,
        parent: Ino,
        name: &[u8],
        request: Option<CommandId>,
    ) -> Result<Node, VolumeError> {
        self.node_of(PosixOp::Link { ino, parent, name: name.to_vec() }, request).await
    }

    /// Changes what a node has, and a file's size: all of it or nothing.
    pub async fn set_attrs(
        &self,
        ino: Ino,
        change: AttrsChange,
        size: Option<u64>,
        request: Option<CommandId>,
    ) -> Result<Node, VolumeError> {
        match size {
            Some(size) => self.resize_and(ino, size, change, request).await,
            None => self.node_of(PosixOp::SetAttrs { ino, change }, request).await,
        }
    }

    /// An extended attribute.
    pub async fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, VolumeError> {
        self.xattr_loan(ino, name).await.0
    }

    /// As [`Volume::xattr`]; gives what may be lent of the answer.
    pub async fn xattr_loan(
        &self,
        ino: Ino,
        name: &[u8],
    ) -> (Result<Vec<u8>, VolumeError>, Option<Loan>) {
        match self.recall_loan(PosixQuery::Xattr { ino, name: name.to_vec() }).await {
            (Ok(NamespaceAnswer::Xattr(value)), loan) => (Ok(value), loan),
            (Ok(_), _) => {
                (Err(internal("answer to a query for an extended attribute").into()), None)
            }
            (Err(error), loan) => (Err(error), loan),
        }
    }

    /// Names of the extended attributes.
    pub async fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>, VolumeError> {
        match self.ask(PosixQuery::Xattrs { ino }).await? {
            NamespaceAnswer::Xattrs(names) => Ok(names),
            _ => Err(internal("answer to a query for extended attributes").into()),
        }
    }

    /// Sets or (`None`) removes an extended attribute.
    pub async fn set_xattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: Option<Vec<u8>>,
        when: XattrWhen,
        request: Option<CommandId>,
    ) -> Result<(), VolumeError> {
        let op = PosixOp::SetXattr { ino, name: name.to_vec(), value, when };
        self.one(op, request).await.map(drop)
    }

    /// Keeps a node that is no directory while the mount lasts, even if its last name goes.
    pub async fn hold(&self, ino: Ino) -> Result<Node, VolumeError> {
        // The snapshot holds it.
        if is_past(ino) {
            return self.node(ino).await;
        }
        if self.lease.holds().open(ino).await {
            let node = self.node(ino).await;
            if node.is_err() {
                self.release(ino);
            }
            return node;
        }
        let held = self.node_of(PosixOp::Hold { ino }, None).await;
        if held.is_err() {
            self.lease.holds().not_held(ino);
        }
        held
    }

    /// Ends that, within some seconds.
    pub fn release(&self, ino: Ino) {
        if is_past(ino) {
            return;
        }
        self.lease.holds().close(ino, self.core.env.clock.now());
    }

    /// Another serves the mount's programs from now on, who will say which nodes are open.
    pub fn begin_anew(&self) {
        self.lease.holds().begin_anew();
    }

    /// Whoever goes on with a mount says which nodes are open: what else it holds is given back.
    pub async fn opens(&self, open: &[Ino]) -> Result<(), VolumeError> {
        let open: Vec<Ino> = open.iter().copied().filter(|ino| !is_past(*ino)).collect();
        let mut held = Vec::new();
        let life = self.lease.holds().life();
        loop {
            let query = PosixQuery::Holds {
                mount: self.mount(),
                after: held.last().copied(),
                limit: limits::HOLDS_PAGE,
            };
            let NamespaceAnswer::Holds { inos, more } = self.ask(query).await? else {
                return Err(internal("answer to a query for what is held").into());
            };
            held.extend(inos);
            if !more {
                break;
            }
        }
        self.lease.holds().sort(life, &open, held, self.core.env.clock.now());
        Ok(())
    }
}
