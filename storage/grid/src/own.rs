//! Objects of the grid's own, such as the queues of its gateways, in the bucket that no client can
//! name.
//!
//! They are objects like all others: encrypted, spread and repaired. Their keys begin with what
//! they are for. Invariant: no name that a client sends leads here; only a [`Grid`] that was made by
//! [`Grid::own`] resolves the bucket's name.

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use nexusgrid_env::NodeId;
use nexusgrid_meta::namespace::types::NamespaceCommand;
use nexusgrid_meta::root::SYSTEM_BUCKET;
use nexusgrid_meta::root::topology::Bucket;
use nexusgrid_meta::root::types::RootCommand;

use crate::api::{ListRequest, ObjectMeta, ObjectSeal, PutRequest, Reject, RejectKind, Tenant};
use crate::core::{Core, internal};
use crate::error::GridError;
use crate::facade::Grid;
use crate::limits;
use crate::liveness::NodeHint;
use crate::version::VersionDelete;

/// Whose share of the byte budget they use.
const TENANT: &str = "the grid's own objects";

/// The bucket of the grid's own objects; makes it.
pub(crate) async fn system_bucket(core: &Core) -> Result<Bucket, GridError> {
    let mut map = core.map.current();
    if map.system_bucket().is_none() {
        let command = RootCommand::CreateSystemBucket {
            sealed_key: core.keys.new_bucket_key(SYSTEM_BUCKET)?,
            now_ms: core.meta.now_ms(),
        };
        core.meta.root_command(&command).await?;
        map = core.map.refresh().await?;
    }
    let bucket = map.system_bucket().ok_or_else(|| internal("the system bucket"))?.clone();
    // Fine if the group knows it: whoever made it may have died in between.
    let init = NamespaceCommand::InitBucket { bucket: bucket.id, quota_bytes: None };
    core.meta.command(bucket.group, &init).await?;
    Ok(bucket)
}

impl Grid {
    /// A door to the grid's own bucket.
    fn own(&self) -> Grid {
        Grid { own: true, ..self.clone() }
    }

    /// The bucket of this name, if it is this door's to open.
    pub(crate) async fn named(&self, name: &str) -> Result<Bucket, GridError> {
        if self.own && name == SYSTEM_BUCKET {
            let bucket = self.core.map.current().system_bucket().cloned();
            return bucket.ok_or(GridError::NoSuchBucket);
        }
        self.core.map.bucket(name).await
    }

    /// Stores an object of the grid's own, whole.
    pub async fn own_put(&self, key: &str, bytes: Bytes) -> Result<(), GridError> {
        match self.own_put_once(key, bytes.clone()).await {
            Err(GridError::NoSuchBucket) => {
                system_bucket(&self.core).await?;
                self.own_put_once(key, bytes).await
            }
            outcome => outcome,
        }
    }

    async fn own_put_once(&self, key: &str, bytes: Bytes) -> Result<(), GridError> {
        let request = PutRequest {
            bucket: SYSTEM_BUCKET.to_owned(),
            key: key.to_owned(),
            meta: ObjectMeta::default(),
            precondition: Default::default(),
            length: Some(bytes.len() as u64),
            tenant: Tenant(TENANT.to_owned()),
        };
        let body = futures_util::stream::once(async move { Ok::<Bytes, Reject>(bytes) });
        let finish =
            Box::new(|| Ok(ObjectSeal { etag: "own".to_owned(), ..ObjectSeal::default() }));
        self.own().put(request, Box::pin(body), finish).await.map(|_| ())
    }

    /// Keys of objects of the grid's own that begin so, in order, after `after`.
    pub async fn own_list(
        &self,
        prefix: &str,
        after: Option<String>,
        max: u32,
    ) -> Result<Vec<String>, GridError> {
        let request = ListRequest {
            bucket: SYSTEM_BUCKET.to_owned(),
            prefix: prefix.to_owned(),
            delimiter: None,
            after,
            max,
        };
        match self.own().list(request).await {
            Ok(page) => Ok(page.objects.into_iter().map(|object| object.key).collect()),
            // Nobody has stored anything yet.
            Err(GridError::NoSuchBucket) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The bytes of an object of the grid's own, of which there are at most
    /// [`OWN_BYTES_MAX`](limits::OWN_BYTES_MAX).
    pub async fn own_get(&self, key: &str) -> Result<Bytes, GridError> {
        let reader = self.own().open(SYSTEM_BUCKET, key).await?;
        if reader.info().size > limits::OWN_BYTES_MAX {
            return Err(GridError::Rejected(Reject {
                kind: RejectKind::TooLarge,
                message: format!("{key} is too large"),
            }));
        }
        let (_, mut stream) = reader.read(None)?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        Ok(bytes.freeze())
    }

    /// Deletes objects of the grid's own; fine if they are gone.
    pub async fn own_delete(&self, keys: Vec<String>) -> Result<(), GridError> {
        let delete = |key| VersionDelete {
            key,
            version: None,
            precondition: Default::default(),
            expected: None,
            bypass: false,
        };
        let deletes: Vec<VersionDelete> = keys.into_iter().map(delete).collect();
        for outcome in self.own().delete_versions(SYSTEM_BUCKET, deletes).await? {
            match outcome {
                Ok(_) | Err(GridError::NoSuchKey) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// This node's number.
    pub fn own_node(&self) -> u64 {
        self.core.node.0
    }

    /// Whether what `node` left behind as a gateway is this node's to do: it is this node, or it
    /// does not answer and this one is the first gateway that does. Two nodes may think so at once.
    pub fn acts_for(&self, node: u64) -> bool {
        if node == self.own_node() {
            return true;
        }
        let map = self.core.map.current();
        let answers = |id: NodeId| {
            id == self.core.node || self.core.map.node_hint(&map, id) == NodeHint::Alive
        };
        let mut gateways = map.nodes.values().filter(|node| node.roles.gateway);
        let is_away = !gateways.clone().any(|other| other.id.0 == node && answers(other.id));
        is_away
            && gateways.find(|other| answers(other.id)).is_some_and(|it| it.id == self.core.node)
    }
}
