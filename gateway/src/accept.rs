//! The accept loop of the small listeners (admin, relay): a bounded number of connections, one task
//! each, until shutdown. Who comes beyond the bound waits in the listener's queue.
//!
//! The S3 listener has a loop of its own ([`crate::server`]): it answers those beyond its bound.

use std::sync::Arc;

use nexusgrid_env::Exec;
use nexusgrid_env::real::net::Listener;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::limits;

/// Runs `serve` for each connection, at most `connections_max` at once; `shutdown` ends them all.
pub(crate) async fn accept_until<S, F>(
    listener: Listener,
    connections_max: usize,
    exec: Exec,
    shutdown: CancellationToken,
    serve: S,
) where
    S: Fn(TcpStream) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(connections_max));
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
                // Out of file descriptors, or the client is gone already: neither ends the service.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(limits::ACCEPT_ERROR_PAUSE).await;
                continue;
            }
        };
        let (serving, shutdown) = (serve(stream), shutdown.clone());
        exec.spawn(async move {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = serving => {}
            }
            drop(slot);
        });
    }
}
