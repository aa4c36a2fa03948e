//! What is refused to who tries to get around the rules, by the name of the attempt.

use std::net::IpAddr;

use super::client::{Reply, call, form, send};
use super::gateway;
use crate::Gateway;
use crate::context::PeerAddress;

async fn iam(gateway: &Gateway, fields: &[(&str, &str)]) -> Reply {
    let reply = form("iam", fields).send(gateway).await;
    assert_eq!(reply.status, 200, "{fields:?}: {}", reply.text());
    reply
}

/// A key of a user with this policy.
async fn user(gateway: &Gateway, name: &str, policy: &str) -> (String, String) {
    iam(gateway, &[("Action", "CreateUser"), ("UserName", name)]).await;
    let put = [("Action", "PutUserPolicy"), ("UserName", name), ("PolicyName", "p")];
    iam(gateway, &[&put[..], &[("PolicyDocument", policy)]].concat()).await;
    let key = iam(gateway, &[("Action", "CreateAccessKey"), ("UserName", name)]).await;
    (key.element("AccessKeyId"), key.element("SecretAccessKey"))
}

#[tokio::test]
async fn an_address_is_the_connections_whatever_headers_say() {
    let gateway = gateway();
    call("PUT", "/bucket/k").body("x").send(&gateway).await;
    let policy = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/*","Condition":{"IpAddress":{"aws:SourceIp":"192.0.2.0/24"}}}}"#;
    assert_eq!(call("PUT", "/bucket?policy=").body(policy).send(&gateway).await.status, 204);
    let ask = |peer: &str, header: Option<&str>| {
        let mut request = call("GET", "/bucket/k").sign().0;
        request.headers_mut().remove("authorization");
        request.extensions_mut().insert(PeerAddress(peer.parse::<IpAddr>().unwrap()));
        if let Some(name) = header {
            let value = if name == "forwarded" { "for=192.0.2.1" } else { "192.0.2.1" };
            let name: http::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        request
    };
    assert_eq!(send(&gateway, ask("192.0.2.7", None)).await.status, 200);
    assert_eq!(send(&gateway, ask("::ffff:192.0.2.7", None)).await.status, 200);
    for header in [
        "x-forwarded-for",
        "forwarded",
        "x-real-ip",
        "x-client-ip",
        "true-client-ip",
        "aws:sourceip",
    ] {
        let Ok(_) = header.parse::<http::HeaderName>() else { continue };
        assert_eq!(send(&gateway, ask("198.51.100.1", Some(header))).await.status, 403, "{header}");
    }
}

#[tokio::test]
async fn a_denied_bypass_of_a_lock_does_not_bypass() {
    let gateway = gateway();
    let made = call("PUT", "/locked").header("x-amz-bucket-object-lock-enabled", "true");
    assert_eq!(made.send(&gateway).await.status, 200);
    let put = call("PUT", "/locked/k")
        .header("x-amz-object-lock-mode", "GOVERNANCE")
        .header("x-amz-object-lock-retain-until-date", "2090-01-01T00:00:00Z")
        .body("x");
    let put = put.send(&gateway).await;
    assert_eq!(put.status, 200, "{}", put.text());
    let version = put.header("x-amz-version-id").to_owned();
    let all = r#"{"Effect":"Allow","Action":"s3:*","Resource":"*"}"#;
    let none = r#"{"Effect":"Deny","Action":"s3:BypassGovernanceRetention","Resource":"*"}"#;
    let document = |more: &str| format!(r#"{{"Version":"2012-10-17","Statement":[{all}{more}]}}"#);
    let denied = user(&gateway, "denied", &document(&format!(",{none}"))).await;
    let able = user(&gateway, "able", &document("")).await;
    let remove = |key: &(String, String)| {
        call("DELETE", &format!("/locked/k?versionId={version}"))
            .header("x-amz-bypass-governance-retention", "true")
            .with(&key.0, &key.1)
    };
    assert_eq!(remove(&denied).send(&gateway).await.outcome(), (403, "AccessDenied".into()));
    // Nor by many at once.
    let many =
        format!("<Delete><Object><Key>k</Key><VersionId>{version}</VersionId></Object></Delete>");
    let many = call("POST", "/locked?delete=")
        .header("x-amz-bypass-governance-retention", "true")
        .body(many)
        .with(&denied.0, &denied.1);
    let reply = many.send(&gateway).await;
    assert!(reply.text().contains("<Code>AccessDenied</Code>"), "{}", reply.text());
    assert_eq!(remove(&able).send(&gateway).await.status, 204);
}

#[tokio::test]
async fn no_reply_lets_a_browser_guess_its_type() {
    let gateway = gateway();
    let page = call("PUT", "/bucket/page").header("content-type", "text/plain").body("<script>");
    assert_eq!(page.send(&gateway).await.status, 200);
    for reply in [
        call("GET", "/bucket/page").send(&gateway).await,
        call("GET", "/bucket/%3Cscript%3E").send(&gateway).await,
        call("GET", "/").send(&gateway).await,
        form("iam", &[("Action", "<script>")]).send(&gateway).await,
    ] {
        assert_eq!(reply.header("x-content-type-options"), "nosniff", "{}", reply.text());
        assert_eq!(reply.header("access-control-allow-origin"), "");
    }
    let asked = call("GET", "/bucket/page").header("origin", "https://evil.example");
    let reply = asked.send(&gateway).await;
    assert_eq!(reply.header("access-control-allow-origin"), "");
    let echoed = form("iam", &[("Action", "<script>")]).send(&gateway).await;
    assert!(!echoed.text().contains("<script>"), "{}", echoed.text());
}

#[tokio::test]
async fn a_secret_is_shown_once() {
    let gateway = gateway();
    let (key, secret) = user(
        &gateway,
        "ann",
        r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#,
    )
    .await;
    for fields in [
        &[("Action", "ListAccessKeys"), ("UserName", "ann")][..],
        &[("Action", "GetUser"), ("UserName", "ann")],
        &[
            ("Action", "UpdateAccessKey"),
            ("UserName", "ann"),
            ("AccessKeyId", &key),
            ("Status", "Active"),
        ],
        &[("Action", "GetAccountSummary")],
        &[("Action", "Nonsense"), ("SecretAccessKey", &secret)],
    ] {
        let reply = form("iam", fields).with(&key, &secret).send(&gateway).await;
        assert!(!reply.text().contains(&secret), "{fields:?}: {}", reply.text());
    }
    let wrong = call("GET", "/bucket").with(&key, &format!("{secret}x")).send(&gateway).await;
    assert_eq!(wrong.outcome(), (403, "SignatureDoesNotMatch".into()));
    assert!(!wrong.text().contains(&secret), "{}", wrong.text());
}
