//! A mounted bucket beside what bounds it: the local disk, and a file system through FUSE that only answers
//! ([`null`]); and any other mounted directory in the same table.
//!
//! Small operations are done by processes of their own, one and several. CPU is that of the whole machine while
//! they run: kernel, programs, daemons and all nodes. So nothing else may run.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use nexusgrid_tests::{GridOptions, LocalGrid, Mounted};
use serde_json::json;

use crate::{cpu, load, null};

/// Processes that work at once.
const PROCESSES: [usize; 2] = [1, 4];
/// Files that one process makes at most in one measurement.
const FILES_MAX: u64 = 200_000;
/// Files that are opened and read, and their size.
const READ_FILES: u64 = 200;
const READ_BYTES: usize = 4 << 10;
const LARGE_BYTES: u64 = 256 << 20;
const BLOCK: usize = 1 << 20;
const PAGE: usize = 4 << 10;
/// A tree to be unpacked: directories, files in each, and the sizes that they have in turn.
const TREE_DIRECTORIES: u64 = 40;
const TREE_FILES: u64 = 25;
const TREE_BYTES: [usize; 5] = [300, 1_500, 4_000, 9_000, 30_000];
const GIB: f64 = (1u64 << 30) as f64;

/// What one process does again and again.
#[derive(Clone, Copy, ValueEnum)]
pub enum Operation {
    /// Makes an empty file and closes it.
    Create,
    /// Asks for the attributes of one of them, whose name the kernel has seen.
    Stat,
    /// Opens a file of 4 KiB, reads and closes it.
    OpenRead,
    /// Gives one another name in its directory.
    Rename,
    /// Removes one.
    Unlink,
}

impl Operation {
    const ALL: [Operation; 5] = [
        Operation::Create,
        Operation::Stat,
        Operation::OpenRead,
        Operation::Rename,
        Operation::Unlink,
    ];

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// One figure: how many a second, and CPU of the machine for each.
struct Figure {
    what: String,
    rate: f64,
    /// Milliseconds for an operation, or seconds for a GiB.
    cpu: f64,
}

/// What is measured, and what was found.
struct Target {
    name: String,
    figures: Vec<Figure>,
}

/// Measures all of them, or the one of that name: what is mounted elsewhere as NAME=DIRECTORY.
pub fn measure(
    nodes: usize,
    seconds: u64,
    also: &[String],
    only: Option<&str>,
    as_json: bool,
) -> anyhow::Result<()> {
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    let mut targets = Vec::new();
    let here = tempfile::tempdir()?;
    let tree = Tree::new(here.path())?;
    let local = here.path().join("local");
    fs::create_dir(&local)?;
    if wanted("local disk") {
        targets.push(of("local disk", &local, &tree, seconds)?);
    }
    if wanted("null FUSE") {
        let dir = tempfile::tempdir()?;
        let _mounted = null::mount(dir.path())?;
        targets.push(of("null FUSE", dir.path(), &tree, seconds)?);
    }
    for also in also {
        let (name, dir) = also.split_once('=').context("--also-mounted NAME=DIRECTORY")?;
        if !wanted(name) {
            continue;
        }
        let dir = tempfile::tempdir_in(dir)?;
        targets.push(of(name, dir.path(), &tree, seconds)?);
    }
    // The node's own cache holds all of the large file.
    let cache = format!("[cache]\nbytes = {}\n", 4 * LARGE_BYTES);
    let runs = [
        ("nexusgrid, cache", cache, ""),
        ("nexusgrid", String::new(), ""),
        ("nexusgrid, delegate", String::new(), "delegate"),
    ];
    for (name, config, with) in runs.into_iter().filter(|(name, ..)| wanted(name)) {
        let options = GridOptions { nodes, config, ..GridOptions::default() };
        let grid = LocalGrid::start_with(&options);
        let dir = grid.dir(1).display().to_string();
        grid.command(&["bucket", "create", "mounted", "--dir", &dir])?;
        let mounted = Mounted::new(&grid, 1, "mounted", with);
        targets.push(of(name, mounted.path(), &tree, seconds)?);
        mounted.unmount();
    }
    print(&targets, as_json);
    Ok(())
}

fn of(name: &str, dir: &Path, tree: &Tree, seconds: u64) -> anyhow::Result<Target> {
    let mut target = Target { name: name.to_owned(), figures: Vec::new() };
    for processes in PROCESSES {
        for process in 0..processes {
            prepare(&dir.join(format!("by-{processes}-{process}")))?;
        }
        for operation in Operation::ALL {
            target.figures.push(small(dir, operation, processes, seconds)?);
            progress(&target);
        }
    }
    large(dir, seconds, &mut target)?;
    let begin = Begin::now();
    tree.unpack(&dir.join("tree"))?;
    target.figures.push(begin.each("files unpacked", (TREE_DIRECTORIES * TREE_FILES) as f64));
    progress(&target);
    Ok(target)
}

fn progress(target: &Target) {
    if let Some(Figure { what, rate, .. }) = target.figures.last() {
        eprintln!("{}: {what}: {rate:.0}/s", target.name);
    }
}

/// A measurement that goes on.
struct Begin {
    at: Instant,
    busy: Duration,
}

impl Begin {
    fn now() -> Begin {
        Begin { at: Instant::now(), busy: cpu::machine() }
    }

    fn each(&self, what: &str, count: f64) -> Figure {
        let (took, busy) = (self.at.elapsed(), cpu::machine().saturating_sub(self.busy));
        let what = what.to_owned();
        Figure { what, rate: count / took.as_secs_f64(), cpu: busy.as_secs_f64() * 1e3 / count }
    }

    /// MiB a second, and seconds of CPU for a GiB.
    fn bytes(&self, what: &str, bytes: u64) -> Figure {
        let (took, busy) = (self.at.elapsed(), cpu::machine().saturating_sub(self.busy));
        let gib = bytes as f64 / GIB;
        let what = format!("{what}, MiB");
        Figure { what, rate: gib * 1024.0 / took.as_secs_f64(), cpu: busy.as_secs_f64() / gib }
    }
}

/// What a process finds when it begins.
fn prepare(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir(dir)?;
    fs::create_dir(dir.join("read"))?;
    let noise = load::noise(READ_BYTES);
    for number in 0..READ_FILES {
        fs::write(dir.join(format!("read/{number}")), &noise)?;
    }
    Ok(())
}

fn small(
    dir: &Path,
    operation: Operation,
    processes: usize,
    seconds: u64,
) -> anyhow::Result<Figure> {
    let begin = Begin::now();
    let mut children = Vec::new();
    for process in 0..processes {
        let child = Command::new(std::env::current_exe()?)
            .args(["--seconds", &seconds.to_string(), "--do", &operation.name(), "--in"])
            .arg(dir.join(format!("by-{processes}-{process}")))
            .stdout(Stdio::piped())
            .spawn()?;
        children.push(child);
    }
    let mut rate = 0.0;
    let mut count = 0.0;
    for child in children {
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "a process that should {}", operation.name());
        let said = String::from_utf8(output.stdout)?;
        let (done, took) = said.trim().split_once(' ').context("what a process said")?;
        let (done, took): (f64, f64) = (done.parse()?, took.parse()?);
        rate += done / took;
        count += done;
    }
    let all = if processes == 1 { "process" } else { "processes" };
    let figure = begin.each(&format!("{}, {processes} {all}", operation.name()), count.max(1.0));
    Ok(Figure { rate, ..figure })
}

/// What a child does: prints how many, and in how many seconds.
pub fn work(operation: Operation, dir: &Path, seconds: u64) -> anyhow::Result<()> {
    let limit = Duration::from_secs(seconds);
    let mut names: Vec<PathBuf> = Vec::new();
    if !matches!(operation, Operation::Create) {
        let from = if matches!(operation, Operation::OpenRead) { "read" } else { "" };
        for found in fs::read_dir(dir.join(from))? {
            let found = found?;
            if found.file_type()?.is_file() {
                names.push(found.path());
            }
        }
        ensure!(!names.is_empty(), "nothing in {}", dir.display());
    }
    if matches!(operation, Operation::Stat) {
        names.iter().try_for_each(|name| fs::symlink_metadata(name).map(drop))?;
    }
    let mut bytes = vec![0; READ_BYTES];
    let (begin, mut count) = (Instant::now(), 0u64);
    while begin.elapsed() < limit {
        let place = count as usize % names.len().max(1);
        match operation {
            Operation::Create if count == FILES_MAX => break,
            Operation::Create => {
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .open(dir.join(format!("file-{count:06}")))?;
            }
            Operation::Stat => {
                fs::symlink_metadata(&names[place])?;
            }
            Operation::OpenRead => File::open(&names[place])?.read_exact(&mut bytes)?,
            Operation::Rename => {
                let mut name = names[place].clone().into_os_string();
                name.push("~");
                fs::rename(&names[place], &name)?;
                names[place] = name.into();
            }
            Operation::Unlink => match names.pop() {
                Some(name) => fs::remove_file(name)?,
                None => break,
            },
        }
        count += 1;
    }
    println!("{count} {}", begin.elapsed().as_secs_f64());
    Ok(())
}

fn large(dir: &Path, seconds: u64, target: &mut Target) -> anyhow::Result<()> {
    let path = dir.join("large");
    let noise = load::noise(BLOCK);
    let begin = Begin::now();
    let mut file = File::create(&path)?;
    for _ in 0..LARGE_BYTES / BLOCK as u64 {
        file.write_all(&noise)?;
    }
    file.sync_all()?;
    drop(file);
    target.figures.push(begin.bytes("written in order and synced", LARGE_BYTES));
    progress(target);
    let cold = ["read in order, cold", "read in order, cold once more"];
    for what in [cold[0], "read in order, again", cold[1]] {
        if cold.contains(&what) {
            forget()?;
        }
        let begin = Begin::now();
        let mut file = File::open(&path)?;
        let mut block = vec![0; BLOCK];
        let mut bytes = 0;
        loop {
            match file.read(&mut block)? {
                0 => break,
                count => bytes += count as u64,
            }
        }
        ensure!(bytes == LARGE_BYTES, "read {bytes} bytes");
        target.figures.push(begin.bytes(what, bytes));
        progress(target);
    }
    forget()?;
    let (limit, mut places) = (Duration::from_secs(seconds), Places(1));
    let (begin, mut count) = (Begin::now(), 0u64);
    let file = File::open(&path)?;
    let mut page = vec![0; PAGE];
    while begin.at.elapsed() < limit {
        file.read_exact_at(&mut page, places.next())?;
        count += 1;
    }
    target.figures.push(begin.each("pages read anywhere, cold", count as f64));
    progress(target);
    let (begin, mut count) = (Begin::now(), 0u64);
    let file = OpenOptions::new().write(true).open(&path)?;
    while begin.at.elapsed() < limit {
        file.write_all_at(&noise[..PAGE], places.next())?;
        count += 1;
    }
    file.sync_all()?;
    target.figures.push(begin.each("pages written anywhere, synced once", count as f64));
    progress(target);
    Ok(())
}

/// Pages of the large file, as if by chance, the same in each run (a linear congruence modulo 2^64; Knuth's
/// constants for MMIX).
struct Places(u64);

impl Places {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % (LARGE_BYTES / PAGE as u64) * PAGE as u64
    }
}

/// The kernel forgets what it can: pages, names and attributes.
fn forget() -> anyhow::Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3")
        .context("as root only: the kernel's caches are emptied")
}

/// A tree of small files in one archive.
struct Tree {
    archive: PathBuf,
}

impl Tree {
    fn new(dir: &Path) -> anyhow::Result<Tree> {
        let root = dir.join("source");
        let mut sizes = TREE_BYTES.iter().cycle();
        for directory in 0..TREE_DIRECTORIES {
            let directory = root.join(format!("directory-{directory}"));
            fs::create_dir_all(&directory)?;
            for file in 0..TREE_FILES {
                let size = *sizes.next().unwrap_or(&0);
                fs::write(directory.join(format!("file-{file}")), load::noise(size))?;
            }
        }
        let archive = dir.join("tree.tar");
        tar(&["-cf"], &archive, &root)?;
        Ok(Tree { archive })
    }

    /// And waits until all of it is durable.
    fn unpack(&self, to: &Path) -> anyhow::Result<()> {
        fs::create_dir(to)?;
        tar(&["-xf"], &self.archive, to)?;
        rustix::fs::syncfs(File::open(to)?)?;
        Ok(())
    }
}

fn tar(how: &[&str], archive: &Path, dir: &Path) -> anyhow::Result<()> {
    let mut tar = Command::new("tar");
    tar.args(how).arg(archive).arg("-C").arg(dir);
    if how == ["-cf"] {
        tar.arg(".");
    }
    ensure!(tar.status()?.success(), "tar");
    Ok(())
}

/// One row for each figure; what bounds ours comes first.
fn print(targets: &[Target], as_json: bool) {
    if as_json {
        for target in targets {
            for Figure { what, rate, cpu } in &target.figures {
                let name = &target.name;
                println!(
                    "{}",
                    json!({"target": name, "what": what, "per_second": rate, "cpu": cpu})
                );
            }
        }
        return;
    }
    println!("each: per second (CPU of the machine: ms for one, or s/GiB)\n");
    let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
    println!("| | {} | of null FUSE | of the disk |", names.join(" | "));
    println!("|---|{}---|---|", "---|".repeat(names.len()));
    let Some(ours) = targets.last() else { return };
    for (place, figure) in ours.figures.iter().enumerate() {
        let row: Vec<&Figure> = targets.iter().filter_map(|t| t.figures.get(place)).collect();
        let cells: Vec<String> =
            row.iter().map(|f| format!("{} ({:.3})", short(f.rate), f.cpu)).collect();
        let of = |bound: usize| {
            let bound = row.get(bound).map_or(f64::NAN, |bound| bound.rate);
            format!("{:.1} %", figure.rate / bound * 100.0)
        };
        println!("| {} | {} | {} | {} |", figure.what, cells.join(" | "), of(1), of(0));
    }
}

fn short(rate: f64) -> String {
    if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}
