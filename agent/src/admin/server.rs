//! The agent's end of the administration socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use nexusgrid_env::Env;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

use super::{AdminAnswer, AdminRequest, LINE_LEN_MAX, SOCKET_NAME};

/// Requests answered at once; a further one waits its turn.
const REQUESTS_AT_ONCE: usize = 16;

/// How long a client may take to send its request, or to take the answer.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(10);

/// What answers an administrator.
#[async_trait]
pub trait Administration: Send + Sync + 'static {
    /// Does what is asked; the error is for people and says what to do.
    async fn answer(&self, request: AdminRequest) -> anyhow::Result<Value>;
}

/// Serves the socket in `node_dir` until the agent stops.
pub async fn serve(
    env: &Env,
    node_dir: &Path,
    administration: Arc<dyn Administration>,
) -> anyhow::Result<()> {
    let path = node_dir.join(SOCKET_NAME);
    // Left behind by a killed agent; a running one holds the directory's lock, so this is stale.
    if env.disk.exists(&path)? {
        env.disk.remove_file(&path)?;
    }
    let listener = nexusgrid_env::real::net::unix_listen(&path)
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    let slots = Arc::new(Semaphore::new(REQUESTS_AT_ONCE));
    let exec = env.exec.clone();
    env.exec.spawn(async move {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let administration = Arc::clone(&administration);
                    exec.spawn(async move {
                        if let Err(error) = handle(stream, administration.as_ref()).await {
                            tracing::debug!(
                                error = format!("{error:#}"),
                                "an administration request broke off"
                            );
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the administration socket");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

async fn handle(mut stream: UnixStream, administration: &dyn Administration) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(LINE_LEN_MAX));
    tokio::time::timeout(TRANSFER_TIMEOUT, reader.read_line(&mut line))
        .await
        .context("no request came")??;
    let answer = match serde_json::from_str::<AdminRequest>(&line) {
        Ok(request) => match administration.answer(request).await {
            Ok(value) => AdminAnswer::Ok(value),
            Err(error) => AdminAnswer::Error(format!("{error:#}")),
        },
        Err(error) => AdminAnswer::Error(format!("not a request this agent knows: {error}")),
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    tokio::time::timeout(TRANSFER_TIMEOUT, writer.write_all(&bytes))
        .await
        .context("the answer was not taken")??;
    Ok(())
}
