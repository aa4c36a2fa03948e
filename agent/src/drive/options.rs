//! How a bucket is mounted, as the command line and `/etc/fstab` say it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use nexusgrid_fuse::{IdRange, Identity, MountOptions};
use serde::{Deserialize, Serialize};

use crate::cli::NodeDir;

/// `nexusgrid mount`.
#[derive(Clone, Debug, Args)]
pub struct MountArgs {
    /// The bucket.
    pub bucket: String,
    /// Where: an empty directory.
    #[arg(value_name = "DIR")]
    pub at: PathBuf,
    /// The agent of this machine.
    #[command(flatten)]
    pub node: NodeDir,
    /// Options as `mount -o` takes them; see `docs/guide-drive.md`.
    #[arg(short = 'o', value_name = "OPTION,…", value_delimiter = ',')]
    pub options: Vec<String>,
    /// Stay in the foreground, as systemd wants it; ends when the mount does.
    #[arg(long)]
    pub foreground: bool,
    /// Only look whether it could be mounted: what `mount -f` asks for.
    #[arg(long, hide = true)]
    pub fake: bool,
}

/// What a daemon needs to know beside what the supervisor hands over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveOptions {
    /// The bucket.
    pub bucket: String,
    /// Where it is mounted.
    pub at: PathBuf,
    /// The node's directory.
    pub node_dir: PathBuf,
    /// Whose nodes are that nobody has given an owner: user and group.
    pub owner: (u32, u32),
    /// Permissions of files that nobody has given any.
    pub file_mode: u16,
    /// Permissions of directories that nobody has given any.
    pub directory_mode: u16,
    /// How long written bytes wait at most to be stored.
    pub write_delay: Duration,
    /// Nothing is written.
    pub read_only: bool,
    /// Where the access key is that it is made with; `None`: the machine's own right.
    #[serde(default)]
    pub credentials: Option<PathBuf>,
    /// It may have its bucket to itself: what is changed is durable soon after, or when it is synced.
    #[serde(default)]
    pub delegate: bool,
}

/// Both halves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The kernel's and the adapter's.
    pub mount: MountOptions,
    /// The daemon's.
    pub drive: DriveOptions,
}

impl Options {
    /// Reads them. Options that mean nothing to a mount of this kind (`_netdev`, `noauto`, `x-…`) are
    /// passed over, as `mount(8)` hands all of a line in `fstab` on.
    pub fn parse(args: &MountArgs) -> anyhow::Result<Options> {
        // Without a slash at its end, as the table of mounts has it.
        let at = std::path::absolute(&args.at)?.components().collect();
        let mut mount = MountOptions {
            source: format!("nexusgrid#{}", args.bucket),
            ..MountOptions::default()
        };
        let mut drive = DriveOptions {
            bucket: args.bucket.clone(),
            at,
            node_dir: std::path::absolute(&args.node.dir)?,
            owner: (nix_uid(), nix_gid()),
            file_mode: 0o644,
            directory_mode: 0o755,
            write_delay: Duration::from_secs(5),
            read_only: false,
            credentials: None,
            delegate: false,
        };
        for option in &args.options {
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim())),
                None => (option.trim(), None),
            };
            apply(&mut mount, &mut drive, name, value)
                .with_context(|| format!("mount option `{option}`"))?;
        }
        ensure!(!drive.write_delay.is_zero(), "mount option `delay`: at least 1");
        mount.read_only = drive.read_only;
        mount.check()?;
        Ok(Options { mount, drive })
    }
}

impl Options {
    /// Nothing is written.
    pub fn only_read(&mut self) {
        self.drive.read_only = true;
        self.mount.read_only = true;
    }
}

/// Whose process this is: the default owner of what nobody owns.
fn nix_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

fn nix_gid() -> u32 {
    rustix::process::getgid().as_raw()
}

fn apply(
    mount: &mut MountOptions,
    drive: &mut DriveOptions,
    name: &str,
    value: Option<&str>,
) -> anyhow::Result<()> {
    let wanted = || value.context("needs a value");
    match name {
        "" | "defaults" | "rw" | "auto" | "noauto" | "user" | "nouser" | "users" | "_netdev"
        | "nofail" | "relatime" | "noatime" | "async" | "nosuid" | "nodev" | "exec" => {}
        "ro" => drive.read_only = true,
        "delegate" => drive.delegate = true,
        "nodelegate" => drive.delegate = false,
        "suid" => mount.suid = true,
        "dev" => mount.dev = true,
        "noexec" => mount.exec = false,
        "allow_other" => mount.allow_other = true,
        "private" => mount.allow_other = false,
        "uid" => drive.owner.0 = wanted()?.parse()?,
        "gid" => drive.owner.1 = wanted()?.parse()?,
        "fmode" => drive.file_mode = mode(wanted()?)?,
        "dmode" => drive.directory_mode = mode(wanted()?)?,
        "squash" => {
            let (uid, gid) = wanted()?.split_once(':').context("is UID:GID")?;
            mount.identity.squash_root = Some((uid.parse()?, gid.parse()?));
        }
        "uidmap" => push(&mut mount.identity, wanted()?, true)?,
        "gidmap" => push(&mut mount.identity, wanted()?, false)?,
        "timeout" => mount.call_timeout = Duration::from_secs(wanted()?.parse()?),
        "delay" => drive.write_delay = Duration::from_secs(wanted()?.parse()?),
        "threads" => mount.threads = wanted()?.parse()?,
        "readahead" => mount.read_ahead_kib = wanted()?.parse()?,
        "credentials" => drive.credentials = Some(std::path::absolute(wanted()?)?),
        "dir" => drive.node_dir = std::path::absolute(wanted()?)?,
        name if name.starts_with("x-") || name.starts_with("comment") => {}
        _ => bail!("is not known; see docs/guide-drive.md for those that are"),
    }
    Ok(())
}

fn mode(text: &str) -> anyhow::Result<u16> {
    let mode = u16::from_str_radix(text, 8).context("is an octal number such as 0644")?;
    ensure!(mode <= 0o7777, "has more than twelve bits");
    Ok(mode)
}

/// `HERE:THERE:COUNT`.
fn push(identity: &mut Identity, text: &str, users: bool) -> anyhow::Result<()> {
    let mut numbers = text.splitn(3, ':');
    let mut number =
        || -> anyhow::Result<u32> { Ok(numbers.next().context("is HERE:THERE:COUNT")?.parse()?) };
    let range = IdRange { here: number()?, there: number()?, count: number()? };
    match users {
        true => identity.users.push(range),
        false => identity.groups.push(range),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &str) -> anyhow::Result<Options> {
        Options::parse(&MountArgs {
            bucket: "b".to_owned(),
            at: "/mnt".into(),
            node: NodeDir { dir: "/var/lib/nexusgrid".into() },
            options: options.split(',').map(str::to_owned).collect(),
            foreground: false,
            fake: false,
        })
    }

    #[test]
    fn a_line_of_fstab_is_understood() {
        let options = parse(
            "ro,_netdev,nofail,x-systemd.automount,uid=1000,gid=100,fmode=0640,dmode=0750,squash=1:2,\
             uidmap=1000:5000:10,timeout=30,delay=1,noexec,credentials=/etc/key",
        )
        .unwrap();
        assert!(options.mount.read_only && options.drive.read_only && !options.mount.exec);
        assert_eq!(options.drive.owner, (1000, 100));
        assert_eq!(options.drive.credentials, Some("/etc/key".into()));
        assert_eq!((options.drive.file_mode, options.drive.directory_mode), (0o640, 0o750));
        assert_eq!(options.mount.identity.squash_root, Some((1, 2)));
        let range = IdRange { here: 1000, there: 5000, count: 10 };
        assert_eq!(options.mount.identity.users, [range]);
        assert_eq!(options.mount.call_timeout, Duration::from_secs(30));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (options, why) in [
            ("fmode=9", "fmode=9"),
            ("uid", "needs a value"),
            ("uidmap=1:2", "HERE:THERE:COUNT"),
            ("timeout=0", "must not be zero"),
            ("cache=yes", "is not known"),
        ] {
            let error = format!("{:#}", parse(options).unwrap_err());
            assert!(error.contains(why), "{options}: {error}");
        }
    }
}
