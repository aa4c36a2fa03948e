//! Sockets. Nothing else in the product opens one.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::net::{
    TcpListener, TcpSocket, TcpStream, UdpSocket, UnixListener, UnixSocket, UnixStream,
};

use crate::Datagram;
use crate::limits::{CONNECT_TIMEOUT, DATAGRAM_BYTES_MAX, LISTEN_BACKLOG};

/// A listening TCP socket whose connections send at once: without that, an answer of two packets
/// waits for the other side's delayed acknowledgement, some 40 ms.
pub struct Listener {
    inner: TcpListener,
}

impl Listener {
    /// Waits for the next connection.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = self.inner.accept().await?;
        stream.set_nodelay(true)?;
        Ok((stream, peer))
    }

    /// The address listened on; tells the port if port zero was asked for.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// Listens on `address`. A port of a process that just ended can be taken again.
pub async fn listen(address: SocketAddr) -> io::Result<Listener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(Listener { inner: socket.listen(LISTEN_BACKLOG)? })
}

/// Connects to `address` within [`CONNECT_TIMEOUT`].
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
        Ok(stream) => {
            let stream = stream?;
            stream.set_nodelay(true)?;
            Ok(stream)
        }
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no connection to {address} within {CONNECT_TIMEOUT:?}"),
        )),
    }
}

/// Resolves a name and port (`host:port`) to addresses.
pub async fn resolve(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host(name).await?.collect())
}

/// Listens on a socket in the file system that only this user can connect to. The path must be
/// absent. Call it inside a runtime.
pub fn unix_listen(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    // Before it listens, so that nobody else gets in between.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    socket.listen(LISTEN_BACKLOG)
}

/// Connects to a socket in the file system.
pub async fn unix_connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

/// A UDP socket.
pub struct Udp {
    socket: UdpSocket,
    local: SocketAddr,
}

/// Opens a UDP socket on `address`.
pub async fn datagram(address: SocketAddr) -> io::Result<Udp> {
    let socket = UdpSocket::bind(address).await?;
    let local = socket.local_addr()?;
    Ok(Udp { socket, local })
}

#[async_trait]
impl Datagram for Udp {
    async fn send(&self, to: SocketAddr, packet: &[u8]) -> io::Result<()> {
        self.socket.send_to(packet, to).await.map(|_| ())
    }

    async fn receive(&self) -> io::Result<(SocketAddr, Bytes)> {
        let mut buffer = [0; DATAGRAM_BYTES_MAX];
        loop {
            match self.socket.recv_from(&mut buffer).await {
                Ok((len, from)) => {
                    return Ok((
                        from,
                        Bytes::copy_from_slice(buffer.get(..len).unwrap_or_default()),
                    ));
                }
                // Linux reports on a later call that an earlier packet found no one: not our end's
                // failure.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn local(&self) -> SocketAddr {
        self.local
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LOCAL: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    #[tokio::test]
    async fn both_ends_of_a_connection_send_at_once() {
        let listener = listen(LOCAL).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(connect(address), listener.accept());
        let (mut client, (mut server, _)) = (client.unwrap(), server.unwrap());
        assert!(client.nodelay().unwrap() && server.nodelay().unwrap());
        client.write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
    }

    #[tokio::test]
    async fn a_socket_in_the_file_system_is_for_its_user() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        assert!(unix_connect(&path).await.is_err());
        let listener = unix_listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (client, server) = tokio::join!(unix_connect(&path), listener.accept());
        client.unwrap().write_all(b"ping").await.unwrap();
        let mut got = [0; 4];
        server.unwrap().0.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
        assert!(unix_listen(&path).is_err(), "the path is taken");
    }

    #[tokio::test]
    async fn datagrams_travel_and_a_dead_target_breaks_nothing() {
        let (one, other) = (datagram(LOCAL).await.unwrap(), datagram(LOCAL).await.unwrap());
        let gone = datagram(LOCAL).await.unwrap().local();
        one.send(gone, b"nobody").await.unwrap();
        other.send(one.local(), b"hello").await.unwrap();
        let (from, packet) = one.receive().await.unwrap();
        assert_eq!((from, &packet[..]), (other.local(), &b"hello"[..]));
    }
}
