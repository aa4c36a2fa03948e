//! The access key that a mount is made with, in a file as AWS's tools have it.
#![allow(clippy::disallowed_methods, reason = "a file of the administrator's, not of the grid's")]

use std::fmt;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use nexusgrid_gateway::mounts::MountKey;
use nexusgrid_iam::Secret;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::limits::CREDENTIALS_BYTES_MAX;

/// An access key on its way to the agent.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Its id.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// What says whose a temporary one is.
    pub token: Option<String>,
}

// A secret is not printed (I16).
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What of a file differs when it is another: its number, its length, and when it was changed.
type Stamp = (u64, u64, i64, i64);

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// A file with an access key: keys are changed while mounts last.
pub struct KeyFile {
    path: PathBuf,
    last: Mutex<Option<(Stamp, Credentials)>>,
}

impl KeyFile {
    /// Of a path.
    pub fn new(path: PathBuf) -> KeyFile {
        KeyFile { path, last: Mutex::default() }
    }

    /// The key that is in it, or was when it could be read last.
    pub fn key(&self) -> anyhow::Result<Credentials> {
        let mut last = self.last.lock();
        match (Credentials::read_stamped(&self.path), &*last) {
            (Ok(read), _) => Ok(last.insert(read).1.clone()),
            (Err(error), Some((_, key))) => {
                tracing::warn!(error = format!("{error:#}"), "the key of before is used");
                Ok(key.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Whether it is another than the one that was read last.
    pub fn has_changed(&self) -> bool {
        let now = std::fs::metadata(&self.path).map(|metadata| stamp(&metadata));
        let last = self.last.lock().as_ref().map(|(stamp, _)| *stamp);
        now.is_ok_and(|now| last.is_some_and(|last| now != last))
    }
}

impl Credentials {
    /// Reads the first profile of a file, which only its owner may read: root, or who asks.
    pub fn read(path: &Path) -> anyhow::Result<Credentials> {
        Ok(Credentials::read_stamped(path)?.1)
    }

    fn read_stamped(path: &Path) -> anyhow::Result<(Stamp, Credentials)> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
        let metadata = file.metadata()?;
        let (mode, owner) = (metadata.mode(), metadata.uid());
        let is_own = owner == 0 || owner == rustix::process::getuid().as_raw();
        ensure!(is_own, "{shown} has a secret and belongs to user {owner}: chown 0 {shown}");
        ensure!(
            mode & 0o077 == 0,
            "{shown} has a secret and others may read it: chmod 600 {shown}"
        );
        let mut text = String::new();
        file.take(CREDENTIALS_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .with_context(|| format!("cannot read {shown}"))?;
        ensure!(text.len() as u64 <= CREDENTIALS_BYTES_MAX, "{shown} is too long");
        let read = Credentials::parse(&text).with_context(|| format!("{shown}"))?;
        Ok((stamp(&metadata), read))
    }

    fn parse(text: &str) -> anyhow::Result<Credentials> {
        let (mut id, mut secret, mut token) = (None, None, None);
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if line.starts_with('[') {
                // Of several profiles the first.
                if id.is_some() || secret.is_some() || token.is_some() {
                    break;
                }
                continue;
            }
            // The line itself is not repeated: it may be the secret.
            let (name, value) = line
                .split_once('=')
                .with_context(|| format!("line {} is no NAME=VALUE", number + 1))?;
            let place = match name.trim() {
                "aws_access_key_id" => &mut id,
                "aws_secret_access_key" => &mut secret,
                "aws_session_token" => &mut token,
                _ => continue,
            };
            if place.replace(value.trim().to_owned()).is_some() {
                bail!("line {} says {} again", number + 1, name.trim());
            }
        }
        Ok(Credentials {
            id: id.context("there is no aws_access_key_id")?,
            secret: secret.context("there is no aws_secret_access_key")?,
            token: token.filter(|token: &String| !token.is_empty()),
        })
    }
}

impl From<Credentials> for MountKey {
    fn from(credentials: Credentials) -> MountKey {
        let Credentials { id, secret, token } = credentials;
        MountKey { id, secret: Secret::new(secret), token }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_read_as_other_tools_do() {
        let text = "# mine\n[default]\naws_access_key_id = AK\nregion=x\naws_secret_access_key=s=/+\n\n[b]\naws_access_key_id=B\n";
        let read = Credentials::parse(text).unwrap();
        assert_eq!(
            (read.id.as_str(), read.secret.as_str(), read.token.as_deref()),
            ("AK", "s=/+", None)
        );
        assert!(!format!("{read:?}").contains("s=/+"));
        let token = "aws_access_key_id=A\naws_secret_access_key=B\naws_session_token=C";
        assert_eq!(Credentials::parse(token).unwrap().token.as_deref(), Some("C"));
        for (text, why) in [
            ("", "aws_access_key_id"),
            ("aws_access_key_id=A", "aws_secret_access_key"),
            ("secret-alone", "line 1"),
            ("aws_access_key_id=A\naws_access_key_id=B", "again"),
        ] {
            let error = format!("{:#}", Credentials::parse(text).unwrap_err());
            assert!(error.contains(why) && !error.contains("secret-alone"), "{text}: {error}");
        }
    }

    #[test]
    fn what_others_may_read_is_no_secret() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "aws_access_key_id=A\naws_secret_access_key=B").unwrap();
        for (mode, is_read) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(Credentials::read(file.path()).is_ok(), is_read, "{mode:o}");
        }
        assert!(Credentials::read(Path::new("/nowhere/at/all")).is_err());
    }

    #[test]
    fn keys_are_changed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let file = KeyFile::new(path.clone());
        assert!(file.key().is_err() && !file.has_changed());
        let bring = |id: &str| {
            let new = dir.path().join("new");
            std::fs::write(
                &new,
                format!("aws_access_key_id={id}\naws_secret_access_key=B\naws_session_token="),
            )
            .unwrap();
            std::fs::set_permissions(&new, PermissionsExt::from_mode(0o600)).unwrap();
            std::fs::rename(new, &path).unwrap();
        };
        bring("A");
        assert_eq!(
            file.key().unwrap(),
            Credentials { id: "A".into(), secret: "B".into(), token: None }
        );
        assert!(!file.has_changed());
        bring("C");
        assert!(file.has_changed());
        assert_eq!(file.key().unwrap().id, "C");
        // One that is gone, or cannot be read, is as it was.
        std::fs::remove_file(&path).unwrap();
        assert!(!file.has_changed());
        assert_eq!(file.key().unwrap().id, "C");
    }
}
