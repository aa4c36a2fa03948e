//! Identities by the command line, and people who log in at a provider of their own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nexusgrid_tests::{Client, GridOptions, LocalGrid, Mounted, free_address, run};
use rustix::io::Errno;
use serde_json::Value;

const READ: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":["s3:GetObject","s3:ListBucket"],"Resource":["arn:aws:s3:::team","arn:aws:s3:::team/*"]}}"#;

/// How long a change may take to be heeded by another node.
const PATIENCE: Duration = Duration::from_secs(20);

fn words<'a>(grid: &'a LocalGrid, node: usize, words: &[&'a str]) -> Vec<&'a str> {
    let dir = grid.dir(node).to_str().unwrap();
    [words, &["--dir", dir]].concat()
}

fn ask(grid: &LocalGrid, node: usize, asked: &[&str]) -> Value {
    let asked = [&["--json"], &words(grid, node, asked)[..]].concat();
    let answer = grid.command(&asked).unwrap();
    serde_json::from_str(&answer).unwrap_or(Value::Null)
}

fn refused(grid: &LocalGrid, asked: &[&str]) -> String {
    grid.command(&words(grid, 1, asked)).unwrap_err().to_string()
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

/// Somebody with a key, and perhaps a session's token.
struct Holder {
    key: String,
    secret: String,
    token: String,
}

impl Holder {
    /// What the AWS CLI does for them.
    fn aws(&self, client: &Client, arguments: &[&str]) -> Result<String, String> {
        let mut command = client.command("aws");
        command.env("AWS_ACCESS_KEY_ID", &self.key).env("AWS_SECRET_ACCESS_KEY", &self.secret);
        if !self.token.is_empty() {
            command.env("AWS_SESSION_TOKEN", &self.token);
        }
        let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
    }

    fn may_read(&self, client: &Client) -> bool {
        let head = ["s3api", "head-object", "--bucket", "team", "--key", "notes"];
        self.aws(client, &head).is_ok()
    }

    fn may_write(&self, client: &Client) -> bool {
        self.aws(client, &["s3api", "put-object", "--bucket", "team", "--key", "other"]).is_ok()
    }
}

/// Until it is so at another node than the one that was told.
fn soon(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "{what}");
    }
}

fn file(place: &Path, name: &str, text: &str) -> String {
    let path = place.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// A provider that ends with the test.
struct Provider {
    child: Child,
    url: String,
    port: String,
}

impl Provider {
    fn command() -> Command {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache
            .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
        let mut command = Command::new("node");
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/oidc.mjs"))
            .env("NODE_MODULES", cache.join("nexusgrid/clients/node_modules"))
            .stdin(Stdio::null());
        command
    }

    fn serve(groups: &str) -> Provider {
        let free = free_address().port();
        let port = free.to_string();
        let mut child = Provider::command()
            .args(["serve", &port, groups])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        Provider { child, url: format!("http://127.0.0.1:{port}"), port }
    }

    /// The token that somebody gets by logging in.
    fn login(&self, user: &str) -> String {
        run(Provider::command().args(["login", &self.port, user])).trim().to_owned()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Exchanges a token, as those do who have no key at all.
fn exchange(client: &Client, token: &str, role: Option<&str>) -> Result<Holder, String> {
    let mut command = client.command("curl");
    command.args(["-sS", client.endpoint()]);
    let role = role.map(|role| format!("RoleArn={role}"));
    let token = format!("WebIdentityToken={token}");
    let fields = ["Action=AssumeRoleWithWebIdentity", "RoleSessionName=test", &token];
    for field in fields.into_iter().chain(role.as_deref()) {
        command.args(["--data-urlencode", field]);
    }
    let answer = run(&mut command);
    let element = |name: &str| {
        let (_, rest) = answer.split_once(&format!("<{name}>"))?;
        rest.split_once("</").map(|(text, _)| text.to_owned())
    };
    let parts = (element("AccessKeyId"), element("SecretAccessKey"), element("SessionToken"));
    match parts {
        (Some(key), Some(secret), Some(token)) => Ok(Holder { key, secret, token }),
        _ => Err(answer),
    }
}

#[test]
fn grid_identities_are_managed_and_people_log_in_at_their_own_provider() {
    let place = tempfile::tempdir().unwrap();
    let groups = file(place.path(), "groups.json", r#"{"ann":["readers","strangers"]}"#);
    let provider = Provider::serve(&groups);
    let config = "[identity]\noidc_private = [\"127.0.0.1\"]\n".to_owned();
    let grid = LocalGrid::start_with(&GridOptions { nodes: 3, config, ..GridOptions::default() });
    let (here, there) = (Client::new(&grid, 1), Client::new(&grid, 3));
    here.run("aws", &["s3api", "create-bucket", "--bucket", "team"]);
    here.run("aws", &["s3api", "put-object", "--bucket", "team", "--key", "notes"]);
    let read = file(place.path(), "read.json", READ);

    // As Terraform's provider does it, by its SDK.
    let output = there.pytest("test_iam_api.py");
    assert!(output.contains("4 passed"), "{output}");

    // Users, groups, policies: said to one node, heeded by another, shown by a third.
    let made = ask(&grid, 1, &["user", "create", "ann", "--key"]);
    let ann = Holder {
        key: text(&made, "/AccessKeyId").to_owned(),
        secret: text(&made, "/SecretAccessKey").to_owned(),
        token: String::new(),
    };
    assert!(!ann.may_read(&here));
    ask(&grid, 2, &["group", "create", "readers"]);
    ask(&grid, 2, &["group", "put-policy", "readers", "look", &read]);
    ask(&grid, 1, &["group", "add", "readers", "ann"]);
    soon("ann reads", || ann.may_read(&there));
    assert!(!ann.may_write(&there));
    let shown = ask(&grid, 3, &["user", "show", "ann"]);
    assert_eq!(text(&shown, "/Groups/0/GroupName"), "readers", "{shown:#}");
    assert_eq!(text(&shown, "/AccessKeys/0/AccessKeyId"), ann.key);
    let look = grid.command(&words(&grid, 2, &["group", "get-policy", "readers", "look"])).unwrap();
    assert_eq!(look.trim(), READ);
    let shown = grid.command(&words(&grid, 3, &["group", "show", "readers"])).unwrap();
    assert!(shown.contains("Users:\n  -\n") && shown.contains("UserName: ann"), "{shown}");
    ask(&grid, 1, &["user", "key", "disable", "ann", &ann.key]);
    soon("ann's key is off", || !ann.may_read(&there));
    ask(&grid, 2, &["user", "key", "enable", "ann", &ann.key]);
    ask(&grid, 2, &["group", "remove", "readers", "ann"]);
    soon("ann left", || !ann.may_read(&there));

    ask(&grid, 1, &["policy", "create", "team-look", &read, "--description", "for guests"]);
    ask(&grid, 1, &["user", "attach", "ann", "team-look"]);
    soon("ann reads by a managed policy", || ann.may_read(&there));
    let none = READ.replace("Allow", "Deny");
    let none = file(place.path(), "none.json", &none);
    for _ in 0..6 {
        ask(&grid, 2, &["policy", "update", "team-look", &none]);
    }
    soon("the policy has changed", || !ann.may_read(&there));
    let shown = ask(&grid, 3, &["policy", "show", "team-look"]);
    assert_eq!(text(&shown, "/PolicyUsers/0/UserName"), "ann", "{shown:#}");
    assert!(text(&shown, "/PolicyDocument").contains("Deny"), "{shown:#}");
    assert!(refused(&grid, &["policy", "delete", "team-look"]).contains("attached"));
    ask(&grid, 1, &["user", "detach", "ann", "team-look"]);
    ask(&grid, 1, &["policy", "delete", "team-look"]);
    assert!(refused(&grid, &["user", "show", "nobody"]).contains("nobody"));
    assert!(refused(&grid, &["user", "put-policy", "ann", "p", &groups]).contains("polic"));

    // Another account has users of its own, by the same names.
    let other = ask(&grid, 1, &["account", "create", "lab", "--email", "lab@example.com"]);
    let account = text(&other, "/id");
    ask(&grid, 2, &["user", "create", "ann", "--account", account]);
    let listed = ask(&grid, 3, &["user", "ls", "--account", account]);
    assert_eq!(text(&listed, "/0/Arn"), format!("arn:aws:iam::{account}:user/ann"));
    assert!(refused(&grid, &["account", "delete", account]).contains("user/ann"));
    ask(&grid, 1, &["user", "delete", "ann", "--account", account]);
    ask(&grid, 1, &["account", "delete", account]);

    // Somebody logs in, and may what a group of their provider may here.
    let url = provider.url.as_str();
    let made =
        ask(&grid, 1, &["provider", "create", url, "--client", "grid", "--group-claim", "groups"]);
    let arn = text(&made, "/OpenIDConnectProviderArn").to_owned();
    let token = provider.login("ann");
    let session = exchange(&here, &token, None).unwrap();
    soon("the session reads", || session.may_read(&there));
    assert!(!session.may_write(&there));
    let who = session.aws(&there, &["sts", "get-caller-identity", "--query", "Arn"]).unwrap();
    assert!(who.contains(":federated-user/"), "{who}");
    // Who is in no group that anybody here knows gets nothing, with a token as good.
    assert!(exchange(&here, &provider.login("bob"), None).err().unwrap().contains("AccessDenied"));
    // The group changes: sessions heed what it may, new tokens who is in it.
    std::fs::write(&groups, r#"{"ann":["strangers"],"bob":["readers"]}"#).unwrap();
    assert!(exchange(&here, &provider.login("ann"), None).err().unwrap().contains("AccessDenied"));
    let bob = exchange(&here, &provider.login("bob"), None).unwrap();
    soon("bob reads", || bob.may_read(&there));
    ask(&grid, 2, &["group", "delete-policy", "readers", "look"]);
    soon("no session of the group reads", || !bob.may_read(&there) && !session.may_read(&there));

    // A role that trusts one person of that provider.
    let name = url.trim_start_matches("http://");
    let trust = serde_json::json!({"Version": "2012-10-17", "Statement": {
        "Effect": "Allow", "Principal": {"Federated": arn},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {"StringEquals": {format!("{name}:sub"): "ann", format!("{name}:aud"): "grid"}},
    }});
    let trust = file(place.path(), "trust.json", &trust.to_string());
    let made = ask(&grid, 1, &["role", "create", "guest", "--trust", &trust]);
    ask(&grid, 1, &["role", "put-policy", "guest", "look", &read]);
    let role = text(&made, "/Arn");
    let token = file(place.path(), "token", &provider.login("ann"));
    // As the SDKs do it by themselves, from a file with the token.
    let mut command = there.command("aws");
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    command.env("AWS_WEB_IDENTITY_TOKEN_FILE", &token).env("AWS_ROLE_ARN", role);
    let listed = run(command.args(["s3api", "list-objects-v2", "--bucket", "team"]));
    assert!(listed.contains("notes"), "{listed}");
    let bob = exchange(&here, &provider.login("bob"), Some(role));
    assert!(bob.err().unwrap().contains("AccessDenied"));
    let changed = format!("{}x", provider.login("ann"));
    assert!(exchange(&here, &changed, Some(role)).err().unwrap().contains("InvalidIdentityToken"));
    ask(&grid, 1, &["provider", "delete", &arn]);
    let gone = exchange(&here, &provider.login("ann"), Some(role));
    assert!(gone.err().unwrap().contains("InvalidIdentityToken"));
}

/// P3 of `docs/semantics.md`.
#[test]
fn grid_mounts_with_a_key_do_what_it_may() {
    const NOT_ALL: &str = r#"{"Version":"2012-10-17","Statement":[
        {"Effect":"Allow","Action":"s3:*","Resource":"*"},
        {"Effect":"Deny","Action":"s3:GetObject","Resource":"arn:aws:s3:::team/secret/*"}]}"#;
    const LOOK: &str = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow",
        "Action":["s3:ListBucket","s3:GetObject"],"Resource":["arn:aws:s3:::team","arn:aws:s3:::team/*"]}}"#;
    let place = tempfile::tempdir().unwrap();
    let grid = LocalGrid::start_with(&GridOptions { nodes: 3, ..GridOptions::default() });
    let client = Client::new(&grid, 1);
    client.run("aws", &["s3api", "create-bucket", "--bucket", "team"]);
    client.run("aws", &["s3api", "put-object", "--bucket", "team", "--key", "notes"]);
    let made = ask(&grid, 1, &["user", "create", "ann", "--key"]);
    let (key, secret) = (text(&made, "/AccessKeyId"), text(&made, "/SecretAccessKey"));
    let credentials = place.path().join("key");
    let bring_key = |key: &str, secret: &str| {
        let lines = format!("[default]\naws_access_key_id={key}\naws_secret_access_key={secret}\n");
        fs::write(&credentials, lines).unwrap();
        fs::set_permissions(&credentials, PermissionsExt::from_mode(0o600)).unwrap();
    };
    let bring = |secret: &str| bring_key(key, secret);
    bring(secret);
    let option = format!("credentials={}", credentials.display());
    // What would come of a mount by another node's agent.
    let at = place.path().to_str().unwrap();
    let try_it = || {
        let asked = ["mount", "team", at, "--fake", "-o", &option];
        grid.command(&words(&grid, 2, &asked)).unwrap_or_else(|error| error.to_string())
    };
    soon("the key is known there", || try_it().contains("s3:ListBucket"));
    let put_policy = |text: &str| {
        let file = file(place.path(), "policy.json", text);
        ask(&grid, 1, &["user", "put-policy", "ann", "own", &file]);
    };
    put_policy(NOT_ALL);
    soon("a part is not all", || try_it().contains("s3:GetObject") && try_it().contains("denies"));
    put_policy(LOOK);
    soon("ann may look", || try_it().contains("may not write"));
    bring("of another");
    assert!(try_it().contains("secret"), "{}", try_it());
    bring(secret);
    fs::set_permissions(&credentials, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(try_it().contains("chmod 600"), "{}", try_it());
    bring(secret);

    let error_of = |done: std::io::Result<()>| done.err().and_then(|error| error.raw_os_error());
    let no_more = Some(Errno::ACCESS.raw_os_error());
    let read_only = Some(Errno::ROFS.raw_os_error());
    let mounted = Mounted::new(&grid, 2, "team", &option);
    assert_eq!(fs::read(mounted.join("notes")).unwrap(), b"");
    assert_eq!(error_of(fs::write(mounted.join("made"), b"x")), read_only);
    let listed = ask(&grid, 2, &["mounts"]);
    assert_eq!(text(&listed, "/0/key"), key, "{listed:#}");
    assert_eq!(listed[0]["read_only"], true, "{listed:#}");
    mounted.unmount();

    ask(&grid, 1, &["user", "attach", "ann", "AmazonS3FullAccess"]);
    soon("ann may write", || try_it().is_empty());
    let mounted = Mounted::new(&grid, 2, "team", &option);
    fs::write(mounted.join("made"), b"by ann").unwrap();
    assert_eq!(client.run("aws", &["s3", "cp", "s3://team/made", "-"]), "by ann");
    let change = || error_of(fs::write(mounted.join("made"), b"again"));
    let look = || error_of(fs::metadata(mounted.join("notes")).map(drop));
    let read = || error_of(fs::read(mounted.join("made")).map(drop));
    // What is taken away is heeded by the mount that is there, and by the daemon after this one; so is what is given.
    ask(&grid, 3, &["user", "detach", "ann", "AmazonS3FullAccess"]);
    soon("ann may not write any more", || change() == read_only);
    mounted.kill_daemon();
    assert_eq!((change(), look(), read()), (read_only, None, None));
    ask(&grid, 3, &["user", "key", "disable", "ann", key]);
    soon("ann may nothing any more", || look() == no_more && read() == no_more);
    mounted.kill_daemon();
    assert_eq!((change(), look(), read()), (no_more, no_more, no_more));
    ask(&grid, 3, &["user", "attach", "ann", "AmazonS3FullAccess"]);
    ask(&grid, 3, &["user", "key", "enable", "ann", key]);
    soon("ann may write again", || change().is_none());
    // Another key for one that is no more.
    ask(&grid, 3, &["user", "key", "disable", "ann", key]);
    soon("the old key is none", || change() == no_more);
    let made = ask(&grid, 3, &["user", "key", "create", "ann"]);
    let (key, secret) = (text(&made, "/AccessKeyId"), text(&made, "/SecretAccessKey"));
    bring_key(key, secret);
    soon("ann may write with the new key", || change().is_none());
    // The mount of before is shown for a while.
    let listed = ask(&grid, 2, &["mounts"]);
    let mut mounts = listed.as_array().unwrap().iter();
    assert_eq!(mounts.find(|mount| mount["connected"] == true).unwrap()["key"], key, "{listed:#}");
    mounted.unmount();
    assert_eq!(client.run("aws", &["s3", "cp", "s3://team/made", "-"]), "again");
}
