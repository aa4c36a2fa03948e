//! Sessions by tokens of an identity provider, which runs here, on a port of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use nexusgrid_env::{BootInstant, Clock, Env, UnixMillis};
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use super::client::{Call, Reply, call, form};
use super::gateway_in;
use crate::Gateway;
use crate::service::{GatewayOptions, OidcOptions};

const READ: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/*"}}"#;

/// Real time, and so many seconds more.
struct Shifted(Arc<dyn Clock>, Arc<AtomicU64>);

impl Shifted {
    fn by(&self) -> Duration {
        Duration::from_secs(self.1.load(Ordering::SeqCst))
    }
}

#[async_trait]
impl Clock for Shifted {
    fn now(&self) -> BootInstant {
        self.0.now().plus(self.by())
    }

    fn wall(&self) -> UnixMillis {
        UnixMillis(self.0.wall().0 + self.by().as_millis() as u64)
    }

    async fn sleep(&self, duration: Duration) {
        self.0.sleep(duration).await;
    }

    fn suspend_jumps(&self) -> watch::Receiver<u64> {
        self.0.suspend_jumps()
    }
}

struct Key {
    id: &'static str,
    pair: EcdsaKeyPair,
}

impl Key {
    fn new(id: &'static str) -> Key {
        let random = SystemRandom::new();
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random);
        Key { id, pair: pair.unwrap() }
    }

    fn published(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": self.id, "x": x, "y": y})
    }

    fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": self.id, "typ": "JWT"});
        let signed = signed_part(&header, claims);
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64.encode(signature))
    }
}

fn signed_part(header: &Value, claims: &Value) -> String {
    format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()))
}

/// What the provider answers, and how often it was asked for keys.
#[derive(Default)]
struct Answers {
    discovery: Mutex<String>,
    keys: Mutex<String>,
    asked: AtomicUsize,
}

struct World {
    gateway: Gateway,
    later: Arc<AtomicU64>,
    url: String,
    answers: Arc<Answers>,
    env: Env,
}

async fn serve(answers: Arc<Answers>) -> u16 {
    let listener = nexusgrid_env::real::net::listen(([127, 0, 0, 1], 0).into()).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                let mut some = [0; 1024];
                match stream.read(&mut some).await {
                    Ok(got @ 1..) => head.extend_from_slice(&some[..got]),
                    _ => break,
                }
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let body = if head.starts_with("GET /realm/keys ") {
                answers.asked.fetch_add(1, Ordering::SeqCst);
                answers.keys.lock().clone()
            } else {
                answers.discovery.lock().clone()
            };
            let reply = match body.strip_prefix("->") {
                Some(to) => {
                    format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
                }
                None => format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
            };
            let _ = stream.write_all(reply.as_bytes()).await;
        }
    });
    port
}

/// A gateway that may ask a provider here, and a provider with these keys.
async fn world(keys: &[&Key]) -> World {
    world_for(keys, &[]).await
}

/// The same, where tokens of providers without audiences are for these.
async fn world_for(keys: &[&Key], audiences: &[&str]) -> World {
    let answers = Arc::new(Answers::default());
    let url = format!("http://127.0.0.1:{}/realm", serve(Arc::clone(&answers)).await);
    let keys_url = format!("{url}/keys");
    *answers.discovery.lock() = json!({"issuer": url, "jwks_uri": keys_url}).to_string();
    let later = Arc::new(AtomicU64::new(0));
    let mut env = Env::real();
    env.clock = Arc::new(Shifted(Arc::clone(&env.clock), Arc::clone(&later)));
    let oidc = OidcOptions {
        private: vec!["127.0.0.0/8".parse().unwrap()],
        audiences: audiences.iter().map(|one| (*one).to_owned()).collect(),
        ..OidcOptions::default()
    };
    let options = GatewayOptions { oidc, ..GatewayOptions::default() };
    let (gateway, _) = gateway_in(env.clone(), options);
    let world = World { gateway, later, url, answers, env };
    world.publish(keys);
    call("PUT", "/bucket/k").body("x").send(&world.gateway).await;
    world
}

impl World {
    fn publish(&self, keys: &[&Key]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.published()).collect();
        *self.answers.keys.lock() = json!({ "keys": keys }).to_string();
    }

    fn name(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// What a token of ann says.
    fn claims(&self, more: Value) -> Value {
        let now = self.env.clock.wall().0 / 1000;
        let mut claims =
            json!({"iss": self.url, "sub": "ann", "aud": "grid", "exp": now + 300, "iat": now});
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    }

    async fn iam(&self, fields: &[(&str, &str)]) -> Reply {
        let reply = form("iam", fields).send(&self.gateway).await;
        assert_eq!(reply.status, 200, "{fields:?}: {}", reply.text());
        reply
    }

    async fn provider(&self, tags: &[(&str, &str)]) -> String {
        let mut fields = vec![
            ("Action".to_owned(), "CreateOpenIDConnectProvider".to_owned()),
            ("Url".to_owned(), self.url.clone()),
            ("ClientIDList.member.1".to_owned(), "grid".to_owned()),
        ];
        for (at, (key, value)) in tags.iter().enumerate() {
            fields.push((format!("Tags.member.{}.Key", at + 1), (*key).to_owned()));
            fields.push((format!("Tags.member.{}.Value", at + 1), (*value).to_owned()));
        }
        let fields: Vec<(&str, &str)> = fields.iter().map(|(k, v)| (&**k, &**v)).collect();
        self.iam(&fields).await.element("OpenIDConnectProviderArn")
    }

    /// A role that may read, and trusts by this statement.
    async fn role(&self, name: &str, trust: &Value, may: &str) -> String {
        let trust = json!({"Version": "2012-10-17", "Statement": trust}).to_string();
        let made = self
            .iam(&[
                ("Action", "CreateRole"),
                ("RoleName", name),
                ("AssumeRolePolicyDocument", &trust),
            ])
            .await;
        let put = [("Action", "PutRolePolicy"), ("RoleName", name), ("PolicyName", "p")];
        self.iam(&[&put[..], &[("PolicyDocument", may)]].concat()).await;
        made.element("Arn")
    }

    /// Exchanges a token, without any key.
    async fn exchange(&self, token: &str, more: &[(&str, &str)]) -> Reply {
        let fields =
            [&[("Action", "AssumeRoleWithWebIdentity"), ("WebIdentityToken", token)], more];
        let mut request = form("sts", &fields.concat()).sign().0;
        request.headers_mut().remove("authorization");
        super::client::send(&self.gateway, request).await
    }

    async fn in_role(&self, token: &str, role: &str) -> Reply {
        self.exchange(token, &[("RoleArn", role), ("RoleSessionName", "s")]).await
    }

    async fn refused(&self, token: &str, role: &str) -> String {
        let reply = self.in_role(token, role).await;
        assert!(reply.status >= 400, "{}", reply.text());
        reply.element("Code")
    }

    async fn status(&self, call: Call, session: &Reply) -> u16 {
        let call = call.with(&session.element("AccessKeyId"), &session.element("SecretAccessKey"));
        let call = call.header("x-amz-security-token", &session.element("SessionToken"));
        call.send(&self.gateway).await.status
    }
}

#[tokio::test]
async fn a_token_opens_a_session_of_a_role_that_trusts_its_provider() {
    let key = Key::new("k1");
    let world = world(&[&key]).await;
    let provider = world.provider(&[]).await;
    let name = world.name();
    let trust = json!({
        "Effect": "Allow", "Principal": {"Federated": provider},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {"StringEquals": {format!("{name}:aud"): "grid", format!("{name}:sub"): ["ann", "amy"]}},
    });
    let role = world.role("reader", &trust, READ).await;

    let session = world.in_role(&key.token(&world.claims(json!({}))), &role).await;
    assert_eq!(session.status, 200, "{}", session.text());
    assert_eq!(session.element("SubjectFromWebIdentityToken"), "ann");
    assert_eq!(session.element("Arn"), "arn:aws:sts::000000000001:assumed-role/reader/s");
    assert_eq!(world.status(call("GET", "/bucket/k"), &session).await, 200);
    assert_eq!(world.status(call("PUT", "/bucket/k").body("y"), &session).await, 403);

    // Another subject; another audience; the party that it was issued to is another.
    let with = |more| key.token(&world.claims(more));
    assert_eq!(world.refused(&with(json!({"sub": "bob"})), &role).await, "AccessDenied");
    for claims in [
        json!({"aud": "other"}),
        json!({"aud": ["other", "more"]}),
        json!({"azp": "other"}),
        json!({"sub": ""}),
        json!({"sub": 7}),
        json!({"exp": "soon"}),
        json!({"exp": null}),
        json!({"nbf": world.env.clock.wall().0 / 1000 + 3600}),
        json!({"iss": "http://127.0.0.1:1/realm"}),
        json!({"iss": format!("https://{name}")}),
        json!({"https://aws.amazon.com/tags": {"principal_tags": {"a": ["b", "c"]}}}),
    ] {
        assert_eq!(
            world.refused(&with(claims.clone()), &role).await,
            "InvalidIdentityToken",
            "{claims}"
        );
    }
    assert_eq!(world.refused(&with(json!({"exp": 1})), &role).await, "ExpiredTokenException");
    let several = with(json!({"aud": ["other", "grid"]}));
    assert_eq!(world.in_role(&several, &role).await.status, 200);

    // Signed by another, changed, not signed, signed by what everybody knows.
    let claims = world.claims(json!({}));
    let stranger = Key::new("k1").token(&claims);
    let (head, signature) =
        key.token(&claims).rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let changed =
        signed_part(&json!({"alg": "ES256", "kid": "k1"}), &world.claims(json!({"sub": "amy"})));
    let none = signed_part(&json!({"alg": "none"}), &claims);
    let public = key.published()["x"].as_str().unwrap().to_owned();
    let shared = signed_part(&json!({"alg": "HS256", "kid": "k1"}), &claims);
    let mac = BASE64.encode(super::client::hmac(public.as_bytes(), &shared));
    let critical = signed_part(&json!({"alg": "ES256", "kid": "k1", "crit": ["x"]}), &claims);
    for token in [
        stranger,
        format!("{changed}.{signature}"),
        format!("{none}."),
        format!("{shared}.{mac}"),
        format!("{critical}.{signature}"),
        format!("{head}.{signature}x"),
        format!("{head}."),
        head.clone(),
        "a.b.c".to_owned(),
        "x".repeat(30_000),
    ] {
        assert_eq!(world.refused(&token, &role).await, "InvalidIdentityToken", "{token:.80}");
    }
    assert_eq!(world.answers.asked.load(Ordering::SeqCst), 1);

    // It ends with its role.
    world.iam(&[("Action", "DeleteRolePolicy"), ("RoleName", "reader"), ("PolicyName", "p")]).await;
    assert_eq!(world.status(call("GET", "/bucket/k"), &session).await, 403);
}

#[tokio::test]
async fn only_who_is_named_by_the_trust_is_trusted() {
    let key = Key::new("k1");
    let world = world(&[&key]).await;
    let provider = world.provider(&[]).await;
    let action = "sts:AssumeRoleWithWebIdentity";
    let everybody = json!({"Effect": "Allow", "Principal": "*", "Action": "sts:*"});
    let everybody = world.role("everybody", &everybody, READ).await;
    let other = json!({"Effect": "Allow", "Principal": {"Federated": format!("{provider}x")}, "Action": action});
    let other = world.role("other", &other, READ).await;
    let otherwise = json!({"Effect": "Allow", "Principal": {"Federated": provider}, "Action": "sts:AssumeRole"});
    let otherwise = world.role("otherwise", &otherwise, READ).await;
    let denied = json!([
        {"Effect": "Allow", "Principal": {"Federated": provider}, "Action": action},
        {"Effect": "Deny", "Principal": "*", "Action": action},
    ]);
    let denied = world.role("denied", &denied, READ).await;
    let token = key.token(&world.claims(json!({})));
    for role in [&everybody, &other, &otherwise, &denied, &format!("{denied}x")] {
        assert_eq!(world.refused(&token, role).await, "AccessDenied", "{role}");
    }
    assert_eq!(world.exchange(&token, &[]).await.element("Code"), "ValidationError");
    assert_eq!(world.answers.asked.load(Ordering::SeqCst), 1);

    // Tags of a token are the session's, if the role lets it have them.
    let trust = |actions: Value| json!({"Effect": "Allow", "Principal": {"Federated": provider}, "Action": actions});
    let by_tag = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"s3:GetObject","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalTag/team":"red"}}}}"#;
    let bare = world.role("bare", &trust(json!(action)), by_tag).await;
    let tagged = world.role("tagged", &trust(json!([action, "sts:TagSession"])), by_tag).await;
    let of_team = |team: &str| {
        let tags = json!({"principal_tags": {"team": [team]}});
        key.token(&world.claims(json!({"https://aws.amazon.com/tags": tags})))
    };
    assert_eq!(world.refused(&of_team("red"), &bare).await, "AccessDenied");
    let red = world.in_role(&of_team("red"), &tagged).await;
    assert_eq!(world.status(call("GET", "/bucket/k"), &red).await, 200);
    let blue = world.in_role(&of_team("blue"), &tagged).await;
    assert_eq!(world.status(call("GET", "/bucket/k"), &blue).await, 403);
    // What a policy of the session asks of the token.
    let by_subject = READ.replace("bucket/*", &format!("bucket/${{{}:sub}}", world.name()));
    let own = world.role("own", &trust(json!(action)), &by_subject).await;
    let ann = world.in_role(&key.token(&world.claims(json!({}))), &own).await;
    call("PUT", "/bucket/ann").body("x").send(&world.gateway).await;
    assert_eq!(world.status(call("GET", "/bucket/ann"), &ann).await, 200);
    assert_eq!(world.status(call("GET", "/bucket/k"), &ann).await, 403);
}

#[tokio::test]
async fn a_token_itself_may_name_policies_and_groups() {
    let key = Key::new("k1");
    let world = world(&[&key]).await;
    let tags = [("nexusgrid:policy-claim", "policy"), ("nexusgrid:group-claim", "realm.groups")];
    let provider = world.provider(&tags).await;
    world
        .iam(&[("Action", "CreatePolicy"), ("PolicyName", "look"), ("PolicyDocument", READ)])
        .await;
    world.iam(&[("Action", "CreateGroup"), ("GroupName", "writers")]).await;
    let attach = [
        ("Action", "AttachGroupPolicy"),
        ("GroupName", "writers"),
        ("PolicyArn", "arn:aws:iam::aws:policy/AmazonS3FullAccess"),
    ];
    world.iam(&attach).await;
    let get = || call("GET", "/bucket/k");
    let put = || call("PUT", "/bucket/k").body("y");
    let token = |claims| key.token(&world.claims(claims));

    let reader = world.exchange(&token(json!({"policy": "look"})), &[]).await;
    assert_eq!(reader.status, 200, "{}", reader.text());
    assert_eq!(world.status(get(), &reader).await, 200);
    assert_eq!(world.status(put(), &reader).await, 403);
    let who = form("sts", &[("Action", "GetCallerIdentity")]);
    assert_eq!(world.status(who, &reader).await, 200);
    // Keycloak's way to write a group, and a group that nobody here knows.
    let groups = json!({"realm": {"groups": ["/writers", "strangers", "/a/b"]}});
    let writer = world.exchange(&token(groups), &[]).await;
    assert_eq!(world.status(put(), &writer).await, 200);
    // A policy that is passed bounds it.
    let bounded = world
        .exchange(&token(json!({"policy": "AmazonS3FullAccess, look"})), &[("Policy", READ)])
        .await;
    assert_eq!(world.status(get(), &bounded).await, 200);
    assert_eq!(world.status(put(), &bounded).await, 403);
    for claims in [
        json!({}),
        json!({"policy": ""}),
        json!({"policy": "look,nothing"}),
        json!({"policy": "arn:aws:iam::100000000002:policy/look"}),
        json!({"realm": {"groups": ["strangers"]}}),
        json!({"realm": {"groups": "../user/ann"}}),
    ] {
        let reply = world.exchange(&token(claims.clone()), &[]).await;
        assert_eq!((reply.status, reply.element("Code")), (403, "AccessDenied".into()), "{claims}");
    }

    // What the group may no more, its sessions may no more; who left it gets no other.
    let detach = [("Action", "DetachGroupPolicy"), attach[1], attach[2]];
    world.iam(&detach).await;
    assert_eq!(world.status(put(), &writer).await, 403);
    // A session ends with its provider, also if another of that name comes.
    world
        .iam(&[("Action", "DeleteOpenIDConnectProvider"), ("OpenIDConnectProviderArn", &provider)])
        .await;
    assert_eq!(world.status(get(), &reader).await, 400);
    world.later.fetch_add(1, Ordering::SeqCst);
    world.provider(&tags).await;
    assert_eq!(world.status(get(), &reader).await, 400);
}

#[tokio::test]
async fn a_providers_keys_change_and_are_asked_for_no_more_than_needed() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let world = world(&[&old]).await;
    let provider = world.provider(&[]).await;
    let trust = json!({"Effect": "Allow", "Principal": {"Federated": provider}, "Action": "sts:AssumeRoleWithWebIdentity"});
    let role = world.role("reader", &trust, READ).await;
    let asked = || world.answers.asked.load(Ordering::SeqCst);
    let by = |key: &Key| key.token(&world.claims(json!({})));
    for _ in 0..3 {
        assert_eq!(world.in_role(&by(&old), &role).await.status, 200);
    }
    assert_eq!(asked(), 1);
    // Tokens by unknown keys do not make it ask more than so often.
    world.publish(&[&new]);
    for _ in 0..3 {
        assert_eq!(world.refused(&by(&new), &role).await, "InvalidIdentityToken");
    }
    assert_eq!(asked(), 1);
    world.later.fetch_add(31, Ordering::SeqCst);
    assert_eq!(world.in_role(&by(&new), &role).await.status, 200);
    assert_eq!(asked(), 2);
    assert_eq!(world.refused(&by(&old), &role).await, "InvalidIdentityToken");
    // A session ends with its time.
    let session = world.in_role(&by(&new), &role).await;
    assert_eq!(world.status(call("GET", "/bucket/k"), &session).await, 200);
    world.later.fetch_add(3601, Ordering::SeqCst);
    assert_eq!(world.status(call("GET", "/bucket/k"), &session).await, 400);
    assert_eq!(world.in_role(&by(&new), &role).await.status, 200);
    // While it does not answer, what was known is good for a while, and no longer.
    *world.answers.keys.lock() = "{".to_owned();
    world.later.fetch_add(700, Ordering::SeqCst);
    assert_eq!(world.in_role(&by(&new), &role).await.status, 200);
    world.later.fetch_add(3600, Ordering::SeqCst);
    assert_eq!(world.refused(&by(&new), &role).await, "IDPCommunicationError");
    // A provider that leads elsewhere, or calls itself otherwise, is not believed.
    for discovery in [
        format!("->{}/other", world.url),
        json!({"issuer": "https://other", "jwks_uri": format!("{}/keys", world.url)}).to_string(),
        json!({"issuer": world.url, "jwks_uri": "http://169.254.169.254/keys"}).to_string(),
        json!({"issuer": world.url, "jwks_uri": "file:///keys"}).to_string(),
        "x".repeat(300_000),
    ] {
        *world.answers.discovery.lock() = discovery;
        world.later.fetch_add(31, Ordering::SeqCst);
        assert_eq!(world.refused(&by(&new), &role).await, "IDPCommunicationError");
    }
}

#[tokio::test]
async fn a_provider_without_audiences_has_the_grids_or_none() {
    let key = Key::new("k1");
    for (audiences, expected) in [(&[][..], 400), (&["other"], 400), (&["grid"], 200)] {
        let world = world_for(&[&key], audiences).await;
        let create = [("Action", "CreateOpenIDConnectProvider"), ("Url", &*world.url)];
        let provider = world.iam(&create).await.element("OpenIDConnectProviderArn");
        let trust = json!({
            "Effect": "Allow", "Principal": {"Federated": provider},
            "Action": "sts:AssumeRoleWithWebIdentity",
        });
        let role = world.role("reader", &trust, READ).await;
        let token = key.token(&world.claims(json!({})));
        assert_eq!(world.in_role(&token, &role).await.status, expected, "{audiences:?}");
        // One that names some has those alone.
        let add = [
            ("Action", "AddClientIDToOpenIDConnectProvider"),
            ("OpenIDConnectProviderArn", &*provider),
            ("ClientID", "another"),
        ];
        world.iam(&add).await;
        assert_eq!(world.refused(&token, &role).await, "InvalidIdentityToken");
    }
}
