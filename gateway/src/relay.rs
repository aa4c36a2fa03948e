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
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

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
    let slots = Arc::new(Semaphore::new(limits::RELAY_CONNECTIONS_MAX));
    let turn = Arc::new(AtomicUsize::new(0));
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            next = next => next,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(limits::ACCEPT_ERROR_PAUSE).await;
                continue;
            }
        };
        let (gateways, turn, shutdown) =
            (Arc::clone(&gateways), Arc::clone(&turn), shutdown.clone());
        exec.spawn(async move {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = pass(stream, &*gateways, &turn) => {}
            }
            drop(slot);
        });
    }
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
