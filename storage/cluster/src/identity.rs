//! Who this node is: certificate, key, CA, cluster and node id, in one file of its own.
//!
//! One file, not several: a certificate without its key is worth nothing, and one rename replaces
//! all of it atomically. The file is written beside, synced, renamed, and the directory synced; the
//! disk seam makes every file readable by the agent's user only.
//!
//! Layout (all after the version byte): postcard of [`Stored`], then crc32c.

#![deny(clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use nexusgrid_codec::ClusterId;
use nexusgrid_env::{Disk, Env, NodeId, OpenMode};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::ca::{self, NodeCertificate};
use crate::error::ClusterError;
use crate::limits;

const FILE: &str = "identity";
const FILE_NEW: &str = "identity.new";
const PENDING: &str = "renewal";
const PENDING_NEW: &str = "renewal.new";
const STARTS: &str = "starts";
const STARTS_NEW: &str = "starts.new";
const VERSION: u8 = 1;

/// Everything that makes a process a certain node of a certain cluster. Holds secrets: no `Debug`
/// of them, erased on drop.
#[derive(Clone, PartialEq, Eq, ZeroizeOnDrop)]
pub struct NodeIdentity {
    /// The cluster.
    #[zeroize(skip)]
    pub cluster: ClusterId,
    /// The node.
    #[zeroize(skip)]
    pub node: NodeId,
    /// Its certificate (DER).
    #[zeroize(skip)]
    pub certificate: Vec<u8>,
    /// Its private key (PKCS#8).
    key: Vec<u8>,
    /// The CA's certificate (DER).
    #[zeroize(skip)]
    pub ca_certificate: Vec<u8>,
    /// Seals the cluster's gossip.
    gossip_key: [u8; 32],
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct Stored {
    cluster: [u8; 16],
    node: u64,
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca_certificate: Vec<u8>,
    gossip_key: [u8; 32],
}

impl NodeIdentity {
    /// Puts an identity together and checks that its parts belong together.
    ///
    /// # Errors
    /// [`ClusterError::Certificate`] if the certificate is not this node's of this cluster.
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        certificate: Vec<u8>,
        key: Zeroizing<Vec<u8>>,
        ca_certificate: Vec<u8>,
        gossip_key: [u8; 32],
    ) -> Result<NodeIdentity, ClusterError> {
        let parsed = NodeCertificate::parse(&certificate)?;
        if parsed.cluster != cluster || parsed.node != node {
            return Err(ClusterError::Certificate(format!(
                "it is of {} in {}, not of {node} in {cluster}",
                parsed.node, parsed.cluster
            )));
        }
        Ok(NodeIdentity {
            cluster,
            node,
            certificate,
            key: key.to_vec(),
            ca_certificate,
            gossip_key,
        })
    }

    /// What the certificate says.
    ///
    /// # Errors
    /// [`ClusterError::Certificate`]: cannot happen for an identity made by [`NodeIdentity::new`].
    pub fn parsed(&self) -> Result<NodeCertificate, ClusterError> {
        NodeCertificate::parse(&self.certificate)
    }

    /// SHA-256 of the CA's certificate.
    pub fn ca_fingerprint(&self) -> [u8; 32] {
        ca::fingerprint(&self.ca_certificate)
    }

    /// The key that seals the cluster's gossip. Secret.
    pub fn gossip_key(&self) -> &[u8; 32] {
        &self.gossip_key
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// This node, with a new certificate and key.
    ///
    /// # Errors
    /// [`ClusterError::Certificate`] if the certificate is another node's.
    pub fn renewed(
        &self,
        certificate: Vec<u8>,
        key: Zeroizing<Vec<u8>>,
    ) -> Result<NodeIdentity, ClusterError> {
        NodeIdentity::new(
            self.cluster,
            self.node,
            certificate,
            key,
            self.ca_certificate.clone(),
            self.gossip_key,
        )
    }

    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let stored = Stored {
            cluster: self.cluster.0,
            node: self.node.0,
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            ca_certificate: self.ca_certificate.clone(),
            gossip_key: self.gossip_key,
        };
        seal_body(&Zeroizing::new(postcard::to_stdvec(&stored).unwrap_or_default()))
    }

    fn from_bytes(bytes: &[u8]) -> Result<NodeIdentity, String> {
        let body = open_body(bytes)?;
        let stored: Stored = postcard::from_bytes(body).map_err(|error| error.to_string())?;
        NodeIdentity::new(
            ClusterId(stored.cluster),
            NodeId(stored.node),
            stored.certificate.clone(),
            Zeroizing::new(stored.key.clone()),
            stored.ca_certificate.clone(),
            stored.gossip_key,
        )
        .map_err(|error| error.to_string())
    }

    /// Writes the identity below `dir`, durably and atomically.
    ///
    /// # Errors
    /// [`ClusterError::Io`].
    pub async fn store(&self, env: &Env, dir: &Path) -> Result<(), ClusterError> {
        let bytes = self.to_bytes();
        let dir = dir.to_owned();
        let disk = env.disk.clone();
        env.exec.blocking(move || replace(&*disk, &dir, FILE, FILE_NEW, &bytes)).await
    }

    /// Reads the identity below `dir`.
    ///
    /// # Errors
    /// [`ClusterError::NoIdentity`], [`ClusterError::DamagedIdentity`] or [`ClusterError::Io`].
    pub async fn load(env: &Env, dir: &Path) -> Result<NodeIdentity, ClusterError> {
        let dir = dir.to_owned();
        let disk = env.disk.clone();
        env.exec
            .blocking(move || {
                let path = dir.join(FILE);
                let bytes = read(&*disk, &path)?
                    .ok_or_else(|| ClusterError::NoIdentity(dir.display().to_string()))?;
                NodeIdentity::from_bytes(&bytes)
                    .map_err(|why| ClusterError::DamagedIdentity(path.display().to_string(), why))
            })
            .await
    }

    /// Whether `dir` holds an identity.
    ///
    /// # Errors
    /// [`ClusterError::Io`].
    pub async fn exists(env: &Env, dir: &Path) -> Result<bool, ClusterError> {
        let path = dir.join(FILE);
        let disk = env.disk.clone();
        env.exec.blocking(move || disk.exists(&path).map_err(io(&path))).await
    }
}

impl std::fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeIdentity")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Counts this node's starts, durably: each call returns a number greater than all before. Gossip
/// uses it as incarnation, so that no packet key is used twice and a restart outranks rumours of
/// the life before.
///
/// # Errors
/// [`ClusterError::Io`]; [`ClusterError::DamagedIdentity`] if the counter cannot be read.
pub async fn count_start(env: &Env, dir: &Path) -> Result<u64, ClusterError> {
    let dir = dir.to_owned();
    let disk = env.disk.clone();
    env.exec
        .blocking(move || {
            let path = dir.join(STARTS);
            let damaged = || {
                ClusterError::DamagedIdentity(
                    path.display().to_string(),
                    "it must hold a number and its checksum".into(),
                )
            };
            let starts = match read(&*disk, &path)? {
                None => 0,
                Some(bytes) => {
                    let body = open_body(&bytes).map_err(|_| damaged())?;
                    u64::from_le_bytes(body.try_into().map_err(|_| damaged())?)
                }
            };
            let starts = starts.saturating_add(1);
            let bytes = seal_body(&starts.to_le_bytes());
            replace(&*disk, &dir, STARTS, STARTS_NEW, &bytes)?;
            Ok(starts)
        })
        .await
}

/// The key of a renewal that was asked for and not yet answered.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(crate) struct PendingKey {
    /// Generation of the certificate that was asked with.
    pub(crate) generation: u32,
    /// The new private key (PKCS#8).
    pub(crate) key: Vec<u8>,
    /// The signing request for it.
    pub(crate) csr: Vec<u8>,
}

pub(crate) async fn store_pending(
    env: &Env,
    dir: &Path,
    pending: &PendingKey,
) -> Result<(), ClusterError> {
    let bytes = seal_body(&postcard::to_stdvec(pending).unwrap_or_default());
    let dir = dir.to_owned();
    let disk = env.disk.clone();
    env.exec.blocking(move || replace(&*disk, &dir, PENDING, PENDING_NEW, &bytes)).await
}

/// The pending key; `None` if there is none, or it is damaged (then a new one is drawn).
pub(crate) async fn load_pending(
    env: &Env,
    dir: &Path,
) -> Result<Option<PendingKey>, ClusterError> {
    let path = dir.join(PENDING);
    let disk = env.disk.clone();
    let bytes = env.exec.blocking(move || read(&*disk, &path)).await?;
    Ok(bytes
        .and_then(|bytes| open_body(&bytes).ok().and_then(|body| postcard::from_bytes(body).ok())))
}

pub(crate) async fn drop_pending(env: &Env, dir: &Path) -> Result<(), ClusterError> {
    let dir = dir.to_owned();
    let disk = env.disk.clone();
    env.exec
        .blocking(move || {
            let path = dir.join(PENDING);
            match disk.remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(&path)(error)),
                _ => disk.sync_dir(&dir).map_err(io(&dir)),
            }
        })
        .await
}

/// Version byte, body, crc32c.
fn seal_body(body: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(body.len() + 5));
    bytes.push(VERSION);
    bytes.extend_from_slice(body);
    let check = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&check.to_le_bytes());
    bytes
}

fn open_body(bytes: &[u8]) -> Result<&[u8], String> {
    let (checked, check) = bytes.split_last_chunk::<4>().ok_or("it is too short")?;
    if crc32c::crc32c(checked) != u32::from_le_bytes(*check) {
        return Err("its checksum does not match".into());
    }
    let (version, body) = checked.split_first().ok_or("it is too short")?;
    if *version != VERSION {
        return Err(format!("its version is {version}; this program knows {VERSION}"));
    }
    Ok(body)
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, ClusterError> {
    let file = match disk.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(path)(error)),
    };
    let len = usize::try_from(file.len().map_err(io(path))?).unwrap_or(usize::MAX);
    if len > limits::IDENTITY_BYTES_MAX {
        return Err(ClusterError::DamagedIdentity(
            path.display().to_string(),
            format!("it is {len} bytes long"),
        ));
    }
    let mut bytes = Zeroizing::new(vec![0; len]);
    let read = file.read_at(&mut bytes, 0).map_err(io(path))?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

fn replace(
    disk: &dyn Disk,
    dir: &Path,
    name: &str,
    name_new: &str,
    bytes: &[u8],
) -> Result<(), ClusterError> {
    disk.create_dir_all(dir).map_err(io(dir))?;
    let new = dir.join(name_new);
    let file = disk.open(&new, OpenMode::OpenOrCreate).map_err(io(&new))?;
    file.set_len(0).map_err(io(&new))?;
    file.write_at(bytes, 0).map_err(io(&new))?;
    file.sync().map_err(io(&new))?;
    drop(file);
    let path = dir.join(name);
    disk.rename(&new, &path).map_err(io(&path))?;
    disk.sync_dir(dir).map_err(io(dir))
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> ClusterError + use<> {
    let path: PathBuf = path.to_owned();
    move |error| ClusterError::Io(path.display().to_string(), error)
}
