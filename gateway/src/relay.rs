//! S3 on nodes that hold no keys: their connections are passed through, as TCP, to a gateway.
//!
//! Such a node reads nothing of what passes, and could not: it cannot verify a signature.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nexusgrid_env::Exec;
use nexusgrid_env::real::net::{self, Listener};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::accept::accept_until;
use crate::limits;

/// Where gateways listen for S3 now; the first ones are tried first.
pub trait GatewayAddresses: Send + Sync + 'static {
    /// Their addresses.
    fn gateways(&self) -> Vec<SocketAddr>;
}

/// What a client is told while no gateway can be reached.
const NO_GATEWAY: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>ServiceUnavailable\
                          </Code><Message>No gateway can be reached. Try again.</Message></Error>";

/// Passes connections on until `shutdown`.
pub async fn relay(
    listener: Listener,
    gateways: Arc<dyn GatewayAddresses>,
    exec: Exec,
    shutdown: CancellationToken,
) {
    let turn = Arc::new(AtomicUsize::new(0));
    let serve = move |stream| {
        let (gateways, turn) = (Arc::clone(&gateways), Arc::clone(&turn));
        async move { pass(stream, &*gateways, &turn).await }
    };
    accept_until(listener, limits::RELAY_CONNECTIONS_MAX, exec, shutdown, serve).await;
}

/// Passes one connection on to the next gateway that can be reached.
async fn pass(mut client: TcpStream, gateways: &dyn GatewayAddresses, turn: &AtomicUsize) {
    let addresses = gateways.gateways();
    let first = turn.fetch_add(1, Ordering::Relaxed);
    for offset in 0..addresses.len() {
        let index = first.wrapping_add(offset) % addresses.len().max(1);
        let Some(address) = addresses.get(index) else { continue };
        let connected =
            tokio::time::timeout(limits::RELAY_CONNECT_TIMEOUT, net::connect(*address)).await;
        if let Ok(Ok(mut gateway)) = connected {
            let size = limits::RELAY_BUFFER_BYTES;
            let passed =
                tokio::io::copy_bidirectional_with_sizes(&mut client, &mut gateway, size, size)
                    .await;
            if let Err(error) = passed {
                tracing::debug!(%error, "relayed connection ended");
            }
            return;
        }
        tracing::warn!(%address, "a gateway cannot be reached");
    }
    let reply = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/xml\r\ncontent-length: {}\r\n\
         retry-after: {}\r\nconnection: close\r\n\r\n{NO_GATEWAY}",
        NO_GATEWAY.len(),
        limits::RETRY_AFTER_SECONDS
    );
    // The client may be gone; there is nobody else to tell.
    let _ = client.write_all(reply.as_bytes()).await;
    let _ = client.shutdown().await;
}
