//! Sockets: the seam's, and a connect by name.

use std::io;

use nexusgrid_env::real::net::resolve;
pub(crate) use nexusgrid_env::real::net::{Listener, connect, listen};
use tokio::net::TcpStream;

/// Resolves `host:port` and connects to the first address that answers.
pub(crate) async fn connect_any(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in resolve(address).await? {
        match connect(addr).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
