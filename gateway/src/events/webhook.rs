//! Events by HTTP: a POST that the receiver can verify, by the rules of Standard Webhooks
//! (<https://www.standardwebhooks.com>): `webhook-id`, `webhook-timestamp` and `webhook-signature`,
//! an HMAC-SHA256 of id, time and body under the target's secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, Mac as _};
use http::{HeaderMap, HeaderValue};
use nexusgrid_iam::Secret;
use sha2::Sha256;

use super::deliver::NotTaken;
use crate::outbound::Outbound;

/// `v1,` and the signature.
fn signature(secret: &Secret, id: &str, now_s: u64, body: &[u8]) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).ok()?;
    mac.update(format!("{id}.{now_s}.").as_bytes());
    mac.update(body);
    Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

/// Posts a message; fine if the receiver answers with a 2xx.
pub(super) async fn send(
    outbound: &Outbound,
    url: &str,
    secret: Option<&Secret>,
    (id, now_s): (&str, u64),
    message: Bytes,
) -> Result<(), NotTaken> {
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set("content-type", "application/json");
    set("webhook-id", id);
    set("webhook-timestamp", &now_s.to_string());
    if let Some(signature) = secret.and_then(|secret| signature(secret, id, now_s, &message)) {
        set("webhook-signature", &signature);
    }
    let answered = outbound.post(url, headers, message).await;
    let status = answered.map_err(|error| NotTaken(error.to_string()))?;
    if status.is_success() { Ok(()) } else { Err(NotTaken(format!("{url} answered {status}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_standard() {
        // By Python: hmac.new(b"key", b"id.5.body", "sha256").
        let signature = signature(&Secret::new("key".to_owned()), "id", 5, b"body").unwrap();
        assert_eq!(signature, "v1,QwtGQBySSL1Jh5/J1qxINlEbNuh5Jn+SDxZGdrcex3E=");
    }
}
