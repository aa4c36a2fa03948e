//! Every operation of the tables, by every way to sign, by every kind of caller: what nobody allows
//! is refused, and what somebody denies is.

use bytes::Bytes;
use http::Request;
use nexusgrid_iam::Action;
use serde_json::{Value, json};

use super::auth::{is_denied, request_for};
use super::client::{Call, Payload, Reply, call, form, send};
use super::encryption::kms_call;
use super::gateway;
use crate::Gateway;
use crate::operations::OPERATIONS;

/// A caller: its key, its secret, and its session's token.
#[derive(Clone)]
struct Caller {
    name: &'static str,
    key: String,
    secret: String,
    token: Option<String>,
}

impl Caller {
    fn of(name: &'static str, reply: &Reply) -> Caller {
        let has_token = reply.text().contains("<SessionToken>");
        Caller {
            name,
            key: reply.element("AccessKeyId"),
            secret: reply.element("SecretAccessKey"),
            token: has_token.then(|| reply.element("SessionToken")),
        }
    }

    fn with(&self, call: Call) -> Call {
        let call = call.with(&self.key, &self.secret);
        match &self.token {
            Some(token) => call.header("x-amz-security-token", token),
            None => call,
        }
    }
}

async fn iam(gateway: &Gateway, fields: &[(&str, &str)]) -> Reply {
    let reply = form("iam", fields).send(gateway).await;
    assert_eq!(reply.status, 200, "{fields:?}: {}", reply.text());
    reply
}

/// A user with a key, which may what the statements say.
async fn user(gateway: &Gateway, name: &'static str, statements: &[String]) -> Caller {
    iam(gateway, &[("Action", "CreateUser"), ("UserName", name)]).await;
    may(gateway, name, statements).await;
    let key = iam(gateway, &[("Action", "CreateAccessKey"), ("UserName", name)]).await;
    Caller::of(name, &key)
}

/// Changes what a user may do.
async fn may(gateway: &Gateway, name: &str, statements: &[String]) {
    let document = format!(r#"{{"Version":"2012-10-17","Statement":[{}]}}"#, statements.join(","));
    let put = [("Action", "PutUserPolicy"), ("UserName", name), ("PolicyName", "p")];
    iam(gateway, &[&put[..], &[("PolicyDocument", &document)]].concat()).await;
}

fn statement(effect: &str, actions: &str) -> String {
    format!(r#"{{"Effect":"{effect}","Action":[{actions}],"Resource":"*"}}"#)
}

/// Ways to sign a request.
const WAYS: &[&str] = &["header", "unsigned body", "chunks", "query"];

/// The request signed in that way; `None`: it cannot be.
fn signed(way: &str, caller: &Caller, call: Call) -> Option<Request<Bytes>> {
    let is_plain = call.headers.is_empty() && caller.token.is_none();
    // Bodies of objects come in chunks; documents do not.
    let of_part = |name: &str| name == "partNumber" || name == "uploadId";
    let is_content = call.query.iter().all(|(name, _)| of_part(name)) && !call.body.is_empty();
    match way {
        "header" => Some(caller.with(call).sign().0),
        "unsigned body" => {
            let mut call = caller.with(call);
            call.payload = Payload::Says("UNSIGNED-PAYLOAD");
            Some(call.sign().0)
        }
        "chunks" if call.method == "PUT" && is_content => {
            let body = call.body.clone();
            Some(caller.with(call).chunked(&[&body], None, |wire| wire))
        }
        // The helper signs no further headers in a query.
        "query" if is_plain => Some(caller.with(call).presign(60)),
        _ => None,
    }
}

#[tokio::test]
async fn every_operation_by_every_caller_and_way_to_sign() {
    let gateway = gateway();
    let other = gateway.directory().create_account("other", "o@example.com").await.unwrap();
    let stranger = Caller {
        name: "other tenant",
        key: other.key.clone(),
        secret: other.secret.expose().to_owned(),
        token: None,
    };
    let idle = user(&gateway, "idle", &[statement("Allow", r#""sns:*""#)]).await;
    let able = user(&gateway, "able", &[statement("Allow", r#""s3:*""#)]).await;
    let session = able.with(form("sts", &[("Action", "GetSessionToken")])).send(&gateway).await;
    let session = Caller::of("session", &session);
    let denied = user(&gateway, "denied", &[statement("Allow", r#""*""#)]).await;
    let stored = call("PUT", "/shared/key").body("x").send(&gateway).await;
    assert_eq!(stored.status, 200);
    let mut asked = 0;
    for operation in OPERATIONS {
        let name = operation.name;
        let mut anonymous = request_for(name).sign().0;
        anonymous.headers_mut().remove("authorization");
        assert!(is_denied(&send(&gateway, anonymous).await), "{name} anonymous");
        // May do everything but this.
        let actions = std::iter::once(operation.action).chain(operation.versioned);
        let actions: Vec<String> = actions.map(|action| format!("\"{}\"", action.name())).collect();
        let all_but = [statement("Allow", r#""*""#), statement("Deny", &actions.join(","))];
        may(&gateway, "denied", &all_but).await;
        for way in WAYS {
            for caller in [&stranger, &idle, &denied, &session, &able] {
                let Some(request) = signed(way, caller, request_for(name)) else { continue };
                let is_able = caller.name == "able" || caller.name == "session";
                // What takes the bucket away is left for others to show.
                if is_able && operation.action == Action::DeleteBucket {
                    continue;
                }
                asked += 1;
                let reply = send(&gateway, request).await;
                let is_own = matches!(operation.action, Action::ListBuckets | Action::CreateBucket);
                if caller.name == "other tenant" && is_own {
                    assert!(!reply.text().contains("<Name>"), "{name}: {}", reply.text());
                    assert!(reply.status == 200 || reply.status == 409, "{name}: {}", reply.text());
                    continue;
                }
                assert_eq!(
                    is_denied(&reply),
                    !is_able,
                    "{name} by {} in {way}: {} {}",
                    caller.name,
                    reply.status,
                    reply.text()
                );
            }
        }
    }
    assert!(asked > OPERATIONS.len() * 10, "{asked}");
}

/// The identity interface's operations, as its own table names them.
fn identity_actions() -> Vec<&'static str> {
    let table = include_str!("../identity/api/mod.rs");
    let names = table.lines().filter_map(|line| line.trim().strip_prefix('"'));
    names.filter_map(|line| line.split_once("\" =>").map(|(name, _)| name)).collect()
}

#[tokio::test]
async fn every_operation_on_identities_by_every_caller() {
    let gateway = gateway();
    let actions = identity_actions();
    assert!(actions.len() > 70, "{actions:?}");
    let arn = |kind: &str, name: &str| format!("arn:aws:iam::000000000001:{kind}/{name}");
    let (policy, provider) = (arn("policy", "pol"), arn("oidc-provider", "login.example.com"));
    let document =
        r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:*","Resource":"*"}}"#;
    let trust = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Principal":"*","Action":"sts:AssumeRole"}}"#;
    for fields in [
        &[("Action", "CreateUser"), ("UserName", "ann")][..],
        &[("Action", "CreateGroup"), ("GroupName", "grp")],
        &[("Action", "CreateRole"), ("RoleName", "rol"), ("AssumeRolePolicyDocument", trust)],
        &[("Action", "CreatePolicy"), ("PolicyName", "pol"), ("PolicyDocument", document)],
        &[("Action", "CreateOpenIDConnectProvider"), ("Url", "https://login.example.com")],
    ] {
        iam(&gateway, fields).await;
    }
    let idle = user(&gateway, "idle", &[statement("Allow", r#""s3:*""#)]).await;
    let denied = user(&gateway, "denied", &[statement("Allow", r#""*""#)]).await;
    for action in actions {
        let is_trust = action == "UpdateAssumeRolePolicy";
        let fields = [
            ("Action", action),
            ("UserName", "ann"),
            ("GroupName", "grp"),
            ("RoleName", "rol"),
            ("PolicyName", "inline"),
            ("PolicyArn", &*policy),
            ("PermissionsBoundary", &*policy),
            ("PolicyDocument", if is_trust { trust } else { document }),
            ("AssumeRolePolicyDocument", trust),
            ("OpenIDConnectProviderArn", &*provider),
            ("Url", "https://login.example.com"),
            ("ClientID", "c"),
            ("VersionId", "v1"),
            ("AccessKeyId", "AKIAQQQQQQQQQQQQQQQQ"),
            ("Status", "Inactive"),
            ("ThumbprintList.member.1", "0000000000000000000000000000000000000000"),
        ];
        let ask = || form("iam", &fields);
        let mut anonymous = ask().sign().0;
        anonymous.headers_mut().remove("authorization");
        let reply = send(&gateway, anonymous).await;
        assert_eq!(reply.element("Code"), "MissingAuthenticationToken", "{action}");
        let deny = statement("Deny", &format!("\"iam:{action}\""));
        may(&gateway, "denied", &[statement("Allow", r#""*""#), deny]).await;
        for caller in [&idle, &denied] {
            // A form that is not signed is nobody's.
            for (way, code) in
                [("header", "AccessDenied"), ("unsigned body", "SignatureDoesNotMatch")]
            {
                let reply = send(&gateway, signed(way, caller, ask()).unwrap()).await;
                assert_eq!(
                    (reply.status, reply.element("Code").as_str()),
                    (403, code),
                    "{action} by {} in {way}: {}",
                    caller.name,
                    reply.text()
                );
            }
        }
    }
    // A tenant of another account sees and changes nothing of this one.
    let other = gateway.directory().create_account("other", "o@example.com").await.unwrap();
    for fields in [
        &[("Action", "GetUser"), ("UserName", "ann")][..],
        &[("Action", "DeleteRole"), ("RoleName", "rol")],
        &[("Action", "GetPolicy"), ("PolicyArn", &*policy)],
        &[("Action", "AttachUserPolicy"), ("UserName", "ann"), ("PolicyArn", &*policy)],
        &[("Action", "DeleteOpenIDConnectProvider"), ("OpenIDConnectProviderArn", &*provider)],
    ] {
        let reply = form("iam", fields).with(&other.key, other.secret.expose());
        let reply = reply.send(&gateway).await;
        assert_eq!(reply.element("Code"), "NoSuchEntity", "{fields:?}: {}", reply.text());
    }
}

/// The key interface's operations, as its own table names them.
fn key_actions() -> Vec<&'static str> {
    let table = include_str!("../kms/api.rs");
    let (_, table) = table.split_once("match call.action {").unwrap();
    let (table, _) = table.split_once("other => Err").unwrap();
    let lines = table.lines().filter_map(|line| line.trim().split_once(" =>"));
    let names = lines.filter(|(names, _)| names.starts_with('"'));
    names.flat_map(|(names, _)| names.split('"').filter(|name| name.len() > 3)).collect()
}

#[tokio::test]
async fn every_operation_on_keys_by_every_caller() {
    let gateway = gateway();
    let other = gateway.directory().create_account("other", "o@example.com").await.unwrap();
    let idle = user(&gateway, "idle", &[statement("Allow", r#""s3:*","iam:*""#)]).await;
    let denied = user(&gateway, "denied", &[statement("Allow", r#""*""#)]).await;
    let able = user(&gateway, "able", &[statement("Allow", r#""kms:*""#)]).await;
    let session = able.with(form("sts", &[("Action", "GetSessionToken")])).send(&gateway).await;
    let session = Caller::of("session", &session);
    let answer = |reply: &Reply| serde_json::from_slice::<Value>(&reply.body).unwrap();
    let made = answer(&kms_call("CreateKey", json!({})).send(&gateway).await);
    let key = made["KeyMetadata"]["Arn"].as_str().unwrap();
    let sealing = kms_call("Encrypt", json!({ "KeyId": key, "Plaintext": "YQ==" }));
    let sealed = answer(&sealing.send(&gateway).await)["CiphertextBlob"].clone();
    let actions = key_actions();
    assert!(actions.len() > 20, "{actions:?}");
    for action in actions {
        let parameters = json!({
            "KeyId": key,
            "TargetKeyId": key,
            "AliasName": "alias/a",
            "Description": "d",
            "NumberOfBytes": 32,
            "Plaintext": "YQ==",
            "CiphertextBlob": sealed,
            "Tags": [{ "TagKey": "a", "TagValue": "b" }],
            "TagKeys": ["a"],
        });
        let ask = || kms_call(action, parameters.clone());
        let refusal = |reply: &Reply| {
            assert_ne!(reply.status, 200, "{action}: {}", reply.text());
            let code = answer(reply)["__type"].as_str().unwrap_or_default().to_owned();
            (reply.status, code)
        };
        let mut anonymous = ask().sign().0;
        anonymous.headers_mut().remove("authorization");
        let nobody = refusal(&send(&gateway, anonymous).await);
        assert_eq!(nobody, (403, "MissingAuthenticationTokenException".into()), "{action}");
        let deny = statement("Deny", &format!("\"kms:{action}\""));
        may(&gateway, "denied", &[statement("Allow", r#""*""#), deny]).await;
        for caller in [&idle, &denied] {
            let signed_ask = caller.with(ask()).send(&gateway).await;
            let expected = (400, "AccessDeniedException".into());
            assert_eq!(refusal(&signed_ask), expected, "{action} by {}", caller.name);
            let mut open = caller.with(ask());
            open.payload = Payload::Says("UNSIGNED-PAYLOAD");
            assert_eq!(open.send(&gateway).await.status, 403, "{action} by {}", caller.name);
        }
        // Another tenant may do all of it, to what is its own.
        let theirs = ask().with(&other.key, other.secret.expose()).send(&gateway).await;
        match action {
            "CreateKey" => assert_eq!(theirs.status, 200, "{}", theirs.text()),
            "ListKeys" | "ListAliases" => {
                assert!(!theirs.text().contains(key), "{action}: {}", theirs.text());
            }
            _ => assert_ne!(theirs.status, 200, "{action}: {}", theirs.text()),
        }
        // Deletion would end the test's key: others show that it is done.
        if action != "ScheduleKeyDeletion" {
            let reply = session.with(ask()).send(&gateway).await;
            assert!(!reply.text().contains("AccessDenied"), "{action}: {}", reply.text());
        }
        kms_call("EnableKey", json!({ "KeyId": key })).send(&gateway).await;
    }
}
