//! `nexusgrid mount` and `umount`, and the two processes behind a mount: the supervisor, which holds it, and
//! the daemon, which serves it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nexusgrid_env::Env;
use nexusgrid_fuse::dirty::Dirty;
use nexusgrid_fuse::owners::Owners;
use nexusgrid_fuse::{Inheritance, Stopper, Supervision, Supervisor};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::line::Line;
use super::log;
use super::options::{DriveOptions, MountArgs, Options};
use super::volume::Drive;
use super::wire::{Hello, VERSION, VERSION_WITHOUT_KEY};
use super::{Credentials, SOCKET_NAME};
use crate::admin::{AdminRequest, client};
use crate::node::files;

/// What the supervisor tells its daemons, as JSON.
const OPTIONS_VARIABLE: &str = "NEXUSGRID_DRIVE";

/// What a mount in the background says when programs can use it.
const MOUNTED: &str = "mounted";

/// Threads of a daemon's runtime: it waits for the agent, mostly.
const DAEMON_THREADS: usize = 2;

/// `nexusgrid mount`: returns when programs can use the mount or, in the foreground, when it has ended.
pub fn mount(args: &MountArgs) -> anyhow::Result<()> {
    let mut options = Options::parse(args)?;
    if args.foreground && !args.fake {
        if !may_write(&options.drive)? {
            options.only_read();
        }
        return supervise(options);
    }
    check(&options.drive)?;
    if !may_write(&options.drive)? && !options.drive.read_only {
        println!("the access key may not write: nothing can be changed in this mount");
    }
    if args.fake {
        return Ok(());
    }
    in_background(args, &options.drive)
}

/// What can be said of an impossible mount before it is made.
fn check(drive: &DriveOptions) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let request = AdminRequest::BucketShow { name: drive.bucket.clone() };
    runtime.block_on(client::ask_value(&drive.node_dir, &request)).map(drop)
}

/// Whether the mount's key, if it has one, may write; fails if it may not even read.
fn may_write(drive: &DriveOptions) -> anyhow::Result<bool> {
    let Some(path) = &drive.credentials else { return Ok(true) };
    let (bucket, key) = (drive.bucket.clone(), Credentials::read(path)?);
    let request = AdminRequest::MountRights { bucket, key };
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let rights = runtime.block_on(client::ask_value(&drive.node_dir, &request))?;
    Ok(rights.get("write").and_then(serde_json::Value::as_bool).unwrap_or(false))
}

/// Starts the supervisor as a process of its own, and waits until it says that the mount is there.
fn in_background(args: &MountArgs, drive: &DriveOptions) -> anyhow::Result<()> {
    let env = Env::real();
    let log = log::path(&drive.node_dir, &drive.at);
    let log_file = log::open(&log)?;
    let begins = usize::try_from(log_file.metadata()?.len()).unwrap_or(usize::MAX);
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("mount")
        .arg(&args.bucket)
        .arg(&drive.at)
        .arg("--dir")
        .arg(&drive.node_dir)
        .arg("--foreground")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log_file))
        // Away from the terminal, so that closing it does not end the mount.
        .process_group(0)
        .current_dir("/");
    let mut options = args.options.clone();
    // It is started elsewhere.
    let credentials = drive.credentials.as_ref();
    options.extend(credentials.map(|path| format!("credentials={}", path.display())));
    if !options.is_empty() {
        command.arg("-o").arg(options.join(","));
    }
    let mut child = command.spawn().context("cannot start the mount's supervisor")?;
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut said)?;
    }
    if said.trim() == MOUNTED {
        println!("{} is mounted on {}", args.bucket, drive.at.display());
        return Ok(());
    }
    let status = child.wait()?;
    let text = files::read_if_there(env.disk.as_ref(), &log)?.unwrap_or_default();
    let text = String::from_utf8_lossy(text.get(begins..).unwrap_or_default());
    // The daemon says why before the supervisor says that it did not get far.
    match text.lines().find_map(|line| line.strip_prefix("nexusgrid: ")) {
        Some(why) => bail!("{why}"),
        None => bail!("the mount's supervisor ended ({status}); see {}", log.display()),
    }
}

/// Holds a mount until it ends.
fn supervise(options: Options) -> anyhow::Result<()> {
    let at = options.drive.at.clone();
    let log = log::path(&options.drive.node_dir, &at);
    let told = serde_json::to_string(&options.drive)?;
    let rng = Env::real().rng;
    let supervision = Supervision {
        dir: at.clone(),
        options: options.mount,
        mount: u128::from(rng.u64()) << 64 | u128::from(rng.u64()),
        daemon: Box::new(move || {
            let mut command = Command::new("/proc/self/exe");
            command.arg("mount-daemon").env(OPTIONS_VARIABLE, &told).current_dir("/");
            command.stdout(Stdio::null());
            command
        }),
    };
    let supervisor = Supervisor::start(supervision)?;
    let mut output = std::io::stdout();
    // Whoever started this may not listen any more.
    let _ = writeln!(output, "{MOUNTED}").and_then(|()| output.flush());
    if let Some(place) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = tell_ready(&place)
    {
        tracing::warn!(%error, "systemd cannot be told that the mount is there");
    }
    let stopper = supervisor.stopper();
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.spawn_blocking(move || {
        let ended = supervisor.wait();
        if let Err(error) = &ended {
            eprintln!("nexusgrid: {error}");
        }
        std::process::exit(i32::from(ended.is_err()));
    });
    runtime.block_on(async {
        tokio::select! {
            biased;
            ended = stop_when_told(stopper) => ended,
            () = log::keep_short(&log) => Ok(()),
        }
    })
}

/// Tells systemd that programs can use the mount, where it waits for that (`Type=notify`).
fn tell_ready(place: &OsStr) -> std::io::Result<()> {
    let address = match place.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(place)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}

/// Unmounts when told to; while programs use the mount, as soon as they do not.
async fn stop_when_told(stopper: Stopper) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if let Err(error) = stopper.stop(false) {
            tracing::warn!(%error, "the mount is in use: it ends when its last user does");
            if let Err(error) = stopper.stop(true) {
                tracing::error!(%error, "the mount stays");
            }
        }
    }
}

/// `nexusgrid mount-daemon`, which only a supervisor starts.
pub fn daemon() -> anyhow::Result<()> {
    let told = std::env::var(OPTIONS_VARIABLE)
        .context("this is what `nexusgrid mount` starts, and nobody else")?;
    let options: DriveOptions = serde_json::from_str(&told)?;
    let inheritance = Inheritance::receive()?;
    let runtime =
        runtime::Builder::new_multi_thread().worker_threads(DAEMON_THREADS).enable_all().build()?;
    let dirty = Arc::new(Dirty::new(inheritance.scratch()?)?);
    let owners = Owners::new(inheritance.scratch()?)?;
    let lease = dirty.noted();
    let hello = Hello {
        version: if options.delegate { VERSION } else { VERSION_WITHOUT_KEY },
        bucket: options.bucket.clone(),
        lease,
        dir: options.at.clone(),
        read_only: options.read_only,
    };
    let path = options.node_dir.join(SOCKET_NAME);
    let _within = runtime.enter();
    // It ends with its mount, not with the terminal or the service that the supervisor belongs to.
    let _deaf = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // A daemon that follows another takes up calls at once; they wait for the agent if it is away.
    let line = match inheritance.generation() {
        0 => runtime.block_on(Line::open(path, hello, options.credentials.clone()))?,
        _ => Line::resume(path, hello, options.credentials.clone()),
    };
    let drive = Drive::new(line, (dirty, owners), options, lease);
    inheritance.serve(drive, runtime.handle().clone())?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(())
}

/// `nexusgrid umount`.
pub fn umount(at: &Path, lazy: bool) -> anyhow::Result<()> {
    let at: std::path::PathBuf = std::path::absolute(at)?.components().collect();
    nexusgrid_fuse::unmount(&at, lazy).with_context(|| {
        let hint = if lazy { "" } else { " (--lazy unmounts what is in use as soon as it is not)" };
        format!("cannot unmount {}{hint}", at.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("nexusgrid-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let sockets = [
            (path.clone().into_os_string(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{name}").into(), UnixDatagram::bind_addr(&address).unwrap()),
        ];
        for (place, socket) in sockets {
            tell_ready(&place).unwrap();
            let mut said = [0; 20];
            let length = socket.recv(&mut said).unwrap();
            assert_eq!(&said[..length], b"READY=1");
        }
        assert!(tell_ready(OsStr::new("/nowhere/at/all")).is_err());
    }
}
