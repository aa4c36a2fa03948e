//! Events by NATS: published to a subject, and taken when the server has read them.
//!
//! A server does what one connection asks in order, and says nothing to a message that it took. So
//! behind each goes a word to ourselves: when that comes back, the server has had both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::{Client, ConnectOptions, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt as _;
use nexusgrid_iam::Secret;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

use super::deliver::NotTaken;
use super::targets::TargetId;
use crate::limits;
use crate::outbound::Outbound;

/// A connection with its way back.
struct Connection {
    client: Client,
    inbox: String,
    echo: Mutex<Subscriber>,
    sent: AtomicU64,
}

/// Whose connection it is, to which server, and by which token (its SHA-256).
type Place = (TargetId, String, [u8; 32]);

/// Connections to servers; one that failed is made anew.
#[derive(Default)]
pub(super) struct Connections {
    open: parking_lot::Mutex<BTreeMap<Place, Arc<Connection>>>,
}

impl Connections {
    /// Publishes a message and waits until the server has it.
    pub async fn send(
        &self,
        outbound: &Outbound,
        (target, url, subject): (&TargetId, &str, &str),
        token: Option<&Secret>,
        message: Bytes,
    ) -> Result<(), NotTaken> {
        // Nobody publishes by the leave of another, nor by one that was taken back.
        let leave = Sha256::digest(token.map_or("", |token| token.expose()));
        let place = (target.clone(), url.to_owned(), leave.into());
        let attempt = async {
            let known = self.open.lock().get(&place).cloned();
            let connection = match known {
                Some(connection) => connection,
                None => {
                    let connection = Arc::new(Connection::open(outbound, url, token).await?);
                    let mut open = self.open.lock();
                    if open.len() >= limits::NATS_CONNECTIONS_MAX {
                        open.clear();
                    }
                    open.insert(place.clone(), Arc::clone(&connection));
                    connection
                }
            };
            connection.publish(subject, message).await
        };
        let outcome = match tokio::time::timeout(limits::OUTBOUND_TIMEOUT, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {:?}", limits::OUTBOUND_TIMEOUT)),
        };
        outcome.map_err(|error| {
            self.open.lock().remove(&place);
            NotTaken(format!("{url}: {error}"))
        })
    }
}

impl Connection {
    async fn open(
        outbound: &Outbound,
        url: &str,
        token: Option<&Secret>,
    ) -> Result<Connection, String> {
        let secure = url.starts_with("tls://");
        let address = url.split_once("://").map_or(url, |(_, address)| address);
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| "no port".to_owned())?),
            None => (address, limits::NATS_PORT),
        };
        let allowed = outbound.allowed(url, host, port, secure).await;
        let address = allowed.map_err(|error| error.to_string())?;
        let options = ConnectOptions::new()
            .connection_timeout(limits::OUTBOUND_TIMEOUT)
            .max_reconnects(1)
            .require_tls(secure)
            // The server may name others, which nobody has looked at.
            .ignore_discovered_servers();
        let options = match token {
            Some(token) => options.token(token.expose().to_owned()),
            None => options,
        };
        // It is connected to the address that was looked at; the name would be resolved again. Who is there
        // must prove to have the name all the same.
        let options = match secure {
            true => {
                let tls = outbound.tls_to(host).await.map_err(|error| error.to_string())?;
                options.tls_client_config(tls)
            }
            false => options,
        };
        let place = format!("nats://{address}");
        let client = options.connect(place).await.map_err(|error| error.to_string())?;
        let inbox = client.new_inbox();
        let echo = client.subscribe(inbox.clone()).await.map_err(|error| error.to_string())?;
        Ok(Connection { client, inbox, echo: Mutex::new(echo), sent: AtomicU64::new(0) })
    }

    async fn publish(&self, subject: &str, message: Bytes) -> Result<(), String> {
        let mut echo = self.echo.lock().await;
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        let word = Bytes::copy_from_slice(&number.to_be_bytes());
        let subject = Subject::from(subject);
        let publish = |subject: Subject, message| self.client.publish(subject, message);
        publish(subject, message).await.map_err(|error| error.to_string())?;
        let back = Subject::from(self.inbox.as_str());
        publish(back, word.clone()).await.map_err(|error| error.to_string())?;
        self.client.flush().await.map_err(|error| error.to_string())?;
        // Words of attempts that were given up may come first.
        loop {
            match echo.next().await {
                Some(message) if message.payload == word => return Ok(()),
                Some(_) => {}
                None => return Err("the connection has ended".to_owned()),
            }
        }
    }
}
