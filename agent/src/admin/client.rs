//! The command line's end of the administration socket.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::{AdminAnswer, AdminRequest, LINE_LEN_MAX, SOCKET_NAME};

/// How long an agent may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a check of the whole grid, or of all metadata, may take.
const FSCK_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Asks the agent that serves `node_dir`.
pub async fn ask<T: DeserializeOwned>(
    node_dir: &Path,
    request: &AdminRequest,
) -> anyhow::Result<T> {
    let value = ask_value(node_dir, request).await?;
    serde_json::from_value(value).context("the agent's answer is not what this version expects")
}

/// Asks the agent that serves `node_dir`, for `--json`.
pub async fn ask_value(
    node_dir: &Path,
    request: &AdminRequest,
) -> anyhow::Result<serde_json::Value> {
    let exchange = async {
        let path = node_dir.join(SOCKET_NAME);
        let mut stream =
            nexusgrid_env::real::net::unix_connect(&path).await.with_context(|| {
                format!(
                    "no agent serves {}: start it with `nexusgrid serve --dir {0}`",
                    node_dir.display()
                )
            })?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(stream.take(LINE_LEN_MAX)).read_line(&mut answer).await?;
        match serde_json::from_str(&answer).context("the agent broke off")? {
            AdminAnswer::Ok(value) => Ok(value),
            AdminAnswer::Error(message) => bail!(message),
        }
    };
    let patience = match request {
        AdminRequest::Fsck { .. }
        | AdminRequest::MetadataCheckpoint
        | AdminRequest::MetadataRestore { .. }
        | AdminRequest::MetadataThaw { .. } => FSCK_TIMEOUT,
        _ => ANSWER_TIMEOUT,
    };
    tokio::time::timeout(patience, exchange)
        .await
        .with_context(|| format!("the agent did not answer within {} s", patience.as_secs()))?
}
