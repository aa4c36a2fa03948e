//! A node's drives: known ones are opened, new ones are registered and formatted.
//!
//! State: a file in the node's directory that names the drive at each path. It is what tells a new,
//! empty directory from an empty mount point: a path that had a drive and lost its marker is refused.
//! A drive that failed before, or that cannot be told any more, is left closed, and the root group is
//! told; others go on. If the file itself is damaged, the drives say who they are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use nexusgrid_codec::{ClusterId, DriveId};
use nexusgrid_drive::{DriveIdentity, DriveOptions, DriveStore, OpenError, SpaceMarks};
use nexusgrid_env::{Env, NodeId};
use nexusgrid_meta::root::types::{NewDrive, RootCommand, RootOk};
use serde::{Deserialize, Serialize};

use super::files;
use super::root::Root;
use crate::config::{Config, DriveConfig};

const FILE_NAME: &str = "drives.json";

/// What is remembered of a path.
#[derive(Clone, Serialize, Deserialize)]
struct Known {
    /// The id that the root group gave; absent while it is being asked.
    drive: Option<u64>,
    /// Names the registration, so that asking again gives the same id.
    registration: [u8; 16],
    /// Whether the path was formatted, so that it must have its marker.
    formatted: bool,
}

/// The drives of one node, by path.
pub struct Drives<'a> {
    env: &'a Env,
    file: PathBuf,
    known: BTreeMap<PathBuf, Known>,
    /// The file could not be read.
    is_damaged: bool,
    /// Drives that failed and stay closed.
    failed: Vec<DriveId>,
}

impl<'a> Drives<'a> {
    /// Reads what is remembered.
    pub fn load(env: &'a Env, node_dir: &Path) -> anyhow::Result<Drives<'a>> {
        let file = node_dir.join(FILE_NAME);
        let read = files::read_if_there(env.disk.as_ref(), &file)?;
        let parsed = read.map(|bytes| serde_json::from_slice(&bytes)).transpose();
        let is_damaged = parsed.is_err();
        if let Err(error) = &parsed {
            tracing::error!(%error, file = %file.display(), "damaged: asking the drives who they are");
        }
        let known = parsed.ok().flatten().unwrap_or_default();
        Ok(Drives { env, file, known, is_damaged, failed: Vec::new() })
    }

    /// Writes a damaged file again, from what the drives say of themselves. A path without a marker may
    /// be new, or an empty mount point: nobody can tell any more.
    async fn recover(&mut self, cluster: ClusterId, config: &Config) -> anyhow::Result<()> {
        for drive in &config.drives {
            let path = drive.path.display();
            match DriveStore::identify(self.env, &drive.path).await {
                Ok(found) if found.identity.cluster == cluster => {
                    let id = found.identity.drive.0;
                    let known = Known { drive: Some(id), registration: [0; 16], formatted: true };
                    self.known.insert(drive.path.clone(), known);
                }
                Ok(_) => bail!("{path} holds a drive of another cluster"),
                Err(error) => bail!(
                    "{} is damaged, and {path} does not say which drive it is ({error}): mount it, or \
                     take it out of nexusgrid.toml (and `drive remove ID --lost` on another node)",
                    self.file.display()
                ),
            }
        }
        self.is_damaged = false;
        self.store()
    }

    fn store(&self) -> anyhow::Result<()> {
        files::replace(self.env.disk.as_ref(), &self.file, &serde_json::to_vec(&self.known)?)?;
        Ok(())
    }

    /// Opens the drives that are there already: needs nobody else.
    pub async fn open_known(
        &mut self,
        cluster: ClusterId,
        config: &Config,
    ) -> anyhow::Result<Vec<(DriveId, DriveStore)>> {
        if self.is_damaged {
            self.recover(cluster, config).await?;
        }
        let mut open = Vec::new();
        for drive in &config.drives {
            let Some(known) = self.known.get(&drive.path).filter(|known| known.formatted) else {
                continue;
            };
            let id = DriveId(known.drive.context("a formatted drive has an id")?);
            match self.open(cluster, id, drive).await {
                Err(error @ (OpenError::Failed { .. } | OpenError::SuperblockCorrupt(_))) => {
                    tracing::error!(drive = id.0, %error, "going on without this drive");
                    self.failed.push(id);
                }
                opened => open.push((id, opened.with_context(|| opening(drive))?)),
            }
        }
        Ok(open)
    }

    async fn open(
        &self,
        cluster: ClusterId,
        id: DriveId,
        drive: &DriveConfig,
    ) -> Result<DriveStore, OpenError> {
        let identity = DriveIdentity { cluster, drive: id };
        let mut options = options(drive);
        options.failure_marks = self.file.parent().map(Path::to_path_buf);
        DriveStore::open(self.env, &drive.path, identity, None, &options).await
    }

    /// Those that failed, and stay closed.
    pub fn failed(&self) -> &[DriveId] {
        &self.failed
    }

    /// Registers and formats the drives that are new.
    pub async fn add_new(
        &mut self,
        cluster: ClusterId,
        node: NodeId,
        root: &Root,
        config: &Config,
    ) -> anyhow::Result<Vec<(DriveId, DriveStore)>> {
        let mut added = Vec::new();
        for drive in &config.drives {
            if self.known.get(&drive.path).is_some_and(|known| known.formatted) {
                continue;
            }
            self.env
                .disk
                .create_dir_all(&drive.path)
                .with_context(|| format!("cannot make {}", drive.path.display()))?;
            let registration = match self.known.get(&drive.path) {
                Some(known) => known.registration,
                None => {
                    let mut registration = [0; 16];
                    self.env.rng.fill(&mut registration);
                    let known = Known { drive: None, registration, formatted: false };
                    self.known.insert(drive.path.clone(), known);
                    self.store()?;
                    registration
                }
            };
            let size_bytes = self.env.disk.space(&drive.path)?.total_bytes;
            let weight = u32::try_from(size_bytes >> 30).unwrap_or(u32::MAX).max(1);
            let new = NewDrive { node, incarnation: registration, size_bytes, weight };
            let RootOk::Drive(id) = root.command(&RootCommand::AddDrive(new)).await? else {
                bail!("the root group's reply does not fit");
            };
            let identity = DriveIdentity { cluster, drive: id };
            // A crash after formatting and before it was written down leaves a marker that is ours.
            let formatted = DriveStore::identify(self.env, &drive.path).await;
            match formatted {
                Ok(found) if found.identity == identity => {}
                Ok(_) => bail!("{} holds a drive of another node or cluster", drive.path.display()),
                Err(_) => {
                    DriveStore::format(self.env, &drive.path, identity, &options(drive))
                        .await
                        .with_context(|| format!("formatting {}", drive.path.display()))?;
                }
            }
            self.known.insert(
                drive.path.clone(),
                Known { drive: Some(id.0), registration, formatted: true },
            );
            self.store()?;
            let opened = self.open(cluster, id, drive).await;
            added.push((id, opened.with_context(|| opening(drive))?));
        }
        Ok(added)
    }
}

/// Takes one more drive into use: registers and formats it, and writes it into the node's
/// configuration, so that it is there after the next start.
pub async fn add(
    env: &Env,
    node_dir: &Path,
    cluster: ClusterId,
    node: NodeId,
    root: &Root,
    path: &Path,
) -> anyhow::Result<(DriveId, DriveStore)> {
    let known = Config::load(env.disk.as_ref(), node_dir)?;
    if known.drives.iter().any(|drive| drive.path == path) {
        bail!("{} is a drive of this node already", path.display());
    }
    let drive = DriveConfig { path: path.to_owned(), ..DriveConfig::default() };
    let one = Config { drives: vec![drive], ..Config::default() };
    let mut drives = Drives::load(env, node_dir)?;
    if drives.is_damaged {
        bail!("{FILE_NAME} is damaged: restart the agent, which writes it again");
    }
    let added = drives.add_new(cluster, node, root, &one).await?;
    let added = added.into_iter().next();
    let (id, store) = added.with_context(|| {
        format!("{} was a drive of this node: remove it from drives.json first", path.display())
    })?;
    // Formatted first: a drive that is configured and cannot be opened keeps an agent from starting.
    Config::append_drive(env.disk.as_ref(), node_dir, path)?;
    Ok((id, store))
}

fn opening(drive: &DriveConfig) -> String {
    format!("opening the drive at {}", drive.path.display())
}

fn options(drive: &DriveConfig) -> DriveOptions {
    let mut options = DriveOptions::default();
    if let Some(bytes) = drive.segment_bytes {
        options.segment_bytes = bytes;
    }
    if let Some(age) = drive.trash_age_ms {
        options.trash_age = Duration::from_millis(age);
    }
    if let Some(every) = drive.maintain_every_ms {
        options.maintain_every = Some(Duration::from_millis(every));
    }
    if let Some(bytes) = drive.reserve_bytes {
        options.marks = SpaceMarks { reserve_bytes: bytes, reserve_percent: 0, ..options.marks };
    }
    options
}
