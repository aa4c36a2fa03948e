//! The tour: real files in, two nodes killed, the same files out.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use nexusgrid_env::Env;

use super::process::NodeProcess;
use super::{SharedEnv, say, start, wait_until_ready};
use crate::s3_client::S3Client;

const BUCKET: &str = "tour";

/// How many files and bytes the tour takes at most: it should last about a minute.
const FILES_MAX: usize = 1_500;
const BYTES_MAX: u64 = 192 << 20;
const FILE_LEN_MAX: u64 = 16 << 20;

/// Requests under way at once.
const REQUESTS_AT_ONCE: usize = 16;

/// A file of the machine and its key.
struct SourceFile {
    path: PathBuf,
    key: String,
}

/// Runs the tour.
pub async fn run(
    env: &Env,
    program: &Path,
    nodes: &mut [NodeProcess],
    client: &S3Client,
    source: &Path,
) -> anyhow::Result<()> {
    let env: SharedEnv = Arc::new(env.clone());
    client.create_bucket(env.clock.as_ref(), BUCKET).await.context("creating the bucket")?;
    let (files, bytes) = find_files(source)?;
    if files.is_empty() {
        bail!("{} has no files to store", source.display());
    }
    say(&format!(
        "storing {} files, {:.1} MiB, of {}",
        files.len(),
        mebibytes(bytes),
        source.display()
    ));
    let began = env.clock.now();
    store_all(&env, client, &files, "").await?;
    say(&format!("stored in {:.1} s", env.clock.now().since(began).as_secs_f64()));

    // The first node keeps the endpoint; with fewer than five nodes two deaths would be one too many.
    let victims = match nodes.len() {
        0..=2 => 0,
        3..=6 => 1,
        _ => 2,
    };
    let first_victim = nodes.len() - victims;
    for node in nodes.iter_mut().skip(first_victim) {
        say(&format!("killing node {} (SIGKILL)", node.number));
        node.kill()?;
    }
    let began = env.clock.now();
    compare_all(&env, client, &files, "").await?;
    say(&format!(
        "read everything back with {victims} node(s) dead: all equal, in {:.1} s",
        env.clock.now().since(began).as_secs_f64()
    ));
    let some = files.get(..files.len().min(100)).unwrap_or(&files);
    store_all(&env, client, some, "while-degraded/").await?;
    say(&format!("went on writing: {} more files", some.len()));
    for node in nodes.iter_mut().skip(first_victim) {
        say(&format!("reviving node {}", node.number));
        start(&env, program, node).await?;
    }
    wait_until_ready(env.clock.as_ref(), nodes).await?;
    compare_all(&env, client, some, "while-degraded/").await?;
    say("all nodes are back, and what was written meanwhile is equal too");
    Ok(())
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Regular files below `source`, breadth first, up to the tour's limits.
#[allow(clippy::disallowed_methods, reason = "the tour reads the user's own files, not the grid's")]
fn find_files(source: &Path) -> anyhow::Result<(Vec<SourceFile>, u64)> {
    let mut files = Vec::new();
    let mut bytes = 0;
    let mut directories = VecDeque::from([source.to_owned()]);
    while let Some(directory) = directories.pop_front() {
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        let mut paths: Vec<PathBuf> =
            entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
            if metadata.is_dir() {
                directories.push_back(path);
            } else if metadata.is_file()
                && metadata.len() <= FILE_LEN_MAX
                && bytes + metadata.len() <= BYTES_MAX
                && std::fs::File::open(&path).is_ok()
                && let Some(key) =
                    path.strip_prefix(source).ok().and_then(Path::to_str).map(str::to_owned)
            {
                bytes += metadata.len();
                files.push(SourceFile { path, key });
            }
            if files.len() >= FILES_MAX {
                return Ok((files, bytes));
            }
        }
    }
    Ok((files, bytes))
}

#[allow(clippy::disallowed_methods, reason = "the tour reads the user's own files, not the grid's")]
async fn read_source(env: &SharedEnv, path: &Path) -> anyhow::Result<Bytes> {
    let owned = path.to_owned();
    let bytes = env.exec.blocking(move || std::fs::read(&owned)).await;
    Ok(Bytes::from(bytes.with_context(|| format!("reading {}", path.display()))?))
}

async fn store_all(
    env: &SharedEnv,
    client: &S3Client,
    files: &[SourceFile],
    prefix: &str,
) -> anyhow::Result<()> {
    stream::iter(files.iter().map(Ok))
        .try_for_each_concurrent(REQUESTS_AT_ONCE, |file| async move {
            let body = read_source(env, &file.path).await?;
            let key = format!("{prefix}{}", file.key);
            client
                .put(env.clock.as_ref(), BUCKET, &key, body)
                .await
                .with_context(|| format!("storing {key}"))
        })
        .await
}

async fn compare_all(
    env: &SharedEnv,
    client: &S3Client,
    files: &[SourceFile],
    prefix: &str,
) -> anyhow::Result<()> {
    let differing: Vec<String> = stream::iter(files)
        .map(|file| async move {
            let expected = read_source(env, &file.path).await?;
            let key = format!("{prefix}{}", file.key);
            let stored = client
                .get(env.clock.as_ref(), BUCKET, &key)
                .await
                .with_context(|| format!("reading {key}"))?;
            anyhow::Ok((stored != expected).then_some(key))
        })
        .buffer_unordered(REQUESTS_AT_ONCE)
        .try_filter_map(|differs| async move { Ok(differs) })
        .try_collect()
        .await?;
    match differing.first() {
        None => Ok(()),
        Some(first) => {
            bail!("{} objects differ from their files, the first is {first}", differing.len())
        }
    }
}
