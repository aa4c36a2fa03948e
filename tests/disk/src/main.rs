//! `faultdisk BACKING MOUNT`: serves one mount until its standard input ends.
//!
//! One [`nexusgrid_faultdisk::Command`] a line; one answer a line, `ok …` or `error …`.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use nexusgrid_faultdisk::mount::mount;
use nexusgrid_faultdisk::volume::Volume;
use parking_lot::Mutex;

fn main() -> anyhow::Result<()> {
    // A mount that nobody serves any more would hang whoever uses it: end, so that they hear of it.
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        print(panic);
        std::process::abort();
    }));
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(backing), Some(at), None) = (arguments.next(), arguments.next(), arguments.next())
    else {
        anyhow::bail!("usage: faultdisk BACKING MOUNT");
    };
    let volume = Arc::new(Mutex::new(Volume::open(&backing).context("backing directory")?));
    let session = mount(volume.clone(), &backing, &at).context("mount")?;
    let mut out = std::io::stdout();
    writeln!(out, "ok")?;
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let result = line.parse().and_then(|command| volume.lock().obey(command));
        match result {
            Ok(answer) => writeln!(out, "ok {answer}"),
            Err(error) => writeln!(out, "error {error:#}"),
        }?;
    }
    // Somebody may still be in it, if a test died: then it goes when they do.
    if session.umount_and_join().is_err() {
        std::process::Command::new("umount").arg("-l").arg(&at).status()?;
    }
    Ok(())
}
