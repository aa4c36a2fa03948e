//! The pjdfstest suite: what POSIX says of every call on files. The tests of two crates run it.

use std::path::Path;
use std::process::{Command, Output};

const CONFIG: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utimensat = {}
utime_now = {}

[settings]
# As two steps of the kernel's coarse clock may be 10 ms apart.
naptime = 0.02

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// How many cases ran, and which did not pass.
#[derive(Debug, Default)]
pub struct Ran {
    pub cases: usize,
    pub failed: Vec<String>,
}

/// Runs the cases with any of these in their names, or all.
pub fn run(dir: &Path, names: &[&str]) -> Ran {
    let output = start(dir, names);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let cases =
        || said.lines().filter(|line| line.contains("::") && !line.starts_with([' ', '\t']));
    let failed = cases().filter(|line| line.contains("FAILED"));
    let mut failed: Vec<&str> = failed.filter_map(|line| line.split_whitespace().next()).collect();
    if failed.is_empty() && !output.status.success() {
        failed.push(&said);
    }
    // These execute a program that they have just written. The suite's other threads fork meanwhile, and until
    // such a child has become another program it has that file open for writing: executing it fails then, on
    // any file system. Alone, nobody forks.
    let passes_alone =
        |name: &str| name.ends_with("::etxtbsy") && start(dir, &[name]).status.success();
    failed.retain(|name| !passes_alone(name));
    Ran { cases: cases().count(), failed: failed.into_iter().map(str::to_owned).collect() }
}

fn start(dir: &Path, names: &[&str]) -> Output {
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), CONFIG).unwrap();
    Command::new("pjdfstest")
        .arg("-c")
        .arg(config.path())
        .arg("-p")
        .arg(dir)
        .args(names)
        .output()
        .expect("pjdfstest is not installed: `cargo install --locked pjdfstest --version 0.2.2`")
}
