//! The access key that a mount is made with, in a file as AWS's tools have it.
#![allow(clippy::disallowed_methods, reason = "a file of the administrator's, not of the grid's")]

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use nexusgrid_gateway::mounts::MountKey;
use nexusgrid_iam::Secret;
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

impl Credentials {
    /// Reads the first profile of a file, which only its owner may read.
    pub fn read(path: &Path) -> anyhow::Result<Credentials> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
        let mode = file.metadata()?.mode();
        ensure!(
            mode & 0o077 == 0,
            "{shown} has a secret and others may read it: chmod 600 {shown}"
        );
        let mut text = String::new();
        file.take(CREDENTIALS_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .with_context(|| format!("cannot read {shown}"))?;
        ensure!(text.len() as u64 <= CREDENTIALS_BYTES_MAX, "{shown} is too long");
        Credentials::parse(&text).with_context(|| format!("{shown}"))
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
                if id.is_some() || secret.is_some() {
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
            token,
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
}
