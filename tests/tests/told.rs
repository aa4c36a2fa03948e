//! What a grid tells others of what happens in it: events to webhooks and NATS, access logs.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nexusgrid_tests::{Client, GridOptions, LocalGrid, free_address};
use serde_json::{Value, json};

/// How long what must be told may take: another gateway may have to see first that one is dead.
const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "a secret for signatures";

fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Headers by their names in lower case, and a body.
type Posted = (BTreeMap<String, String>, Vec<u8>);

/// A receiver of events that takes them or not.
struct Hook {
    url: String,
    open: Arc<AtomicBool>,
    posted: Arc<Mutex<Vec<Posted>>>,
}

fn read_post(stream: &TcpStream) -> Option<Posted> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some((headers, body))
}

impl Hook {
    fn start() -> Hook {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/events", listener.local_addr().unwrap());
        let open = Arc::new(AtomicBool::new(true));
        let posted = Arc::new(Mutex::new(Vec::new()));
        let hook = Hook { url, open: Arc::clone(&open), posted: Arc::clone(&posted) };
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Some(post) = read_post(&stream) else { continue };
                let is_open = open.load(Ordering::SeqCst);
                if is_open {
                    posted.lock().unwrap().push(post);
                }
                let status = if is_open { "204 No Content" } else { "503 Service Unavailable" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                let _ = (&stream).write_all(answer.as_bytes());
            }
        });
        hook
    }

    /// Names and keys of the events that were taken.
    fn events(&self) -> Vec<(String, String)> {
        let posted = self.posted.lock().unwrap();
        let messages = posted.iter().map(|(_, body)| serde_json::from_slice(body).unwrap());
        let records = messages
            .flat_map(|message: Value| message["Records"].as_array().cloned().unwrap_or_default());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let event =
            |record: Value| (text(&record["eventName"]), text(&record["s3"]["object"]["key"]));
        records.map(event).collect()
    }

    fn has(&self, event: &str, key: &str) -> Option<()> {
        self.events().contains(&(event.to_owned(), key.to_owned())).then_some(())
    }
}

/// A NATS server, killed at the end.
struct Nats {
    child: Child,
    address: String,
}

impl Nats {
    fn start() -> Nats {
        let port = free_address().port();
        let child = Command::new("nats-server")
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "--auth", "token"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Nats { child, address: format!("127.0.0.1:{port}") }
    }

    /// Lines of what is published to a subject.
    fn subscribe(&self, subject: &str) -> BufReader<TcpStream> {
        let stream = until("NATS", || TcpStream::connect(&self.address).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let hello = json!({ "verbose": false, "auth_token": "token" });
        let words = format!("CONNECT {hello}\r\nSUB {subject} 1\r\nPING\r\n");
        (&stream).write_all(words.as_bytes()).unwrap();
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        while !line.starts_with("PONG") {
            line.clear();
            lines.read_line(&mut line).unwrap();
        }
        lines
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn put(client: &Client, bucket: &str, key: &str) {
    let body = "/etc/hostname";
    let words = ["s3api", "put-object", "--bucket", bucket, "--key", key, "--body", body];
    client.run("aws", &words);
}

fn command(grid: &LocalGrid, node: usize, words: &[&str]) -> Value {
    let dir = grid.dir(node).display().to_string();
    let answer = grid.command(&[words, &["--json", "--dir", &dir]].concat()).unwrap();
    serde_json::from_str(&answer).unwrap_or(Value::Null)
}

fn signature(id: &str, time: &str, body: &[u8]) -> String {
    let script = "import sys,hmac,base64; print(base64.b64encode(hmac.new(sys.argv[1].encode(), \
                  sys.stdin.buffer.read(), 'sha256').digest()).decode())";
    let mut child = Command::new("python3")
        .args(["-c", script, SECRET])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(format!("{id}.{time}.").as_bytes()).unwrap();
    stdin.write_all(body).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    format!("v1,{}", String::from_utf8(output.stdout).unwrap().trim())
}

#[test]
fn grid_events_reach_their_targets_though_these_and_gateways_fail() {
    let options = GridOptions {
        nodes: 5,
        config: "[s3]\nevents_private = [\"127.0.0.1\"]\n[timers]\nlifecycle_day_ms = 1000\n"
            .to_owned(),
        ..GridOptions::default()
    };
    let mut grid = LocalGrid::start_with(&options);
    let (first, second) = (Client::new(&grid, 1), Client::new(&grid, 2));
    let files = tempfile::tempdir().unwrap();
    let secret = files.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();

    let hook = Hook::start();
    let secret = secret.display().to_string();
    let words = ["event", "webhook", "hook", &hook.url, "--secret", &secret];
    let hook_arn = command(&grid, 1, &words)["arn"].as_str().unwrap().to_owned();
    let nats = Nats::start();
    let token = files.path().join("token");
    std::fs::write(&token, "token").unwrap();
    let (server, token) = (format!("nats://{}", nats.address), token.display().to_string());
    let words = ["event", "nats", "subject", &server, "s3.events", "--token", &token];
    let nats_arn = command(&grid, 2, &words)["arn"].as_str().unwrap().to_owned();
    let mut subject = nats.subscribe("s3.events");

    first.run("aws", &["s3", "mb", "s3://told"]);
    let keys = json!({ "Key": { "FilterRules": [{ "Name": "prefix", "Value": "in/" }] } });
    let configuration = json!({ "QueueConfigurations": [
        { "Id": "hook", "QueueArn": hook_arn, "Filter": keys,
          "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*"] },
        { "Id": "nats", "QueueArn": nats_arn, "Events": ["s3:ObjectCreated:Copy"] },
    ] });
    let text = configuration.to_string();
    let words = ["s3api", "put-bucket-notification-configuration", "--bucket", "told"];
    first.run("aws", &[&words[..], &["--notification-configuration", &text]].concat());
    let shown =
        second.run("aws", &["s3api", "get-bucket-notification-configuration", "--bucket", "told"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["QueueConfigurations"][0]["QueueArn"], hook_arn.as_str());

    // The test message is the first, and is signed.
    until("the test message", || (!hook.posted.lock().unwrap().is_empty()).then_some(()));
    let (headers, body) = hook.posted.lock().unwrap()[0].clone();
    assert!(String::from_utf8_lossy(&body).contains("s3:TestEvent"));
    let right = signature(&headers["webhook-id"], &headers["webhook-timestamp"], &body);
    assert_eq!(headers["webhook-signature"], right);

    // What another gateway does is told, too; what the filter leaves out is not.
    put(&second, "told", "in/a b");
    put(&first, "told", "out/b");
    until("an event", || hook.has("ObjectCreated:Put", "in%2Fa+b"));
    second.run("aws", &["s3api", "delete-object", "--bucket", "told", "--key", "in/a b"]);
    until("a deletion", || hook.has("ObjectRemoved:Delete", "in%2Fa+b"));

    // What is to end by a rule ends, and is told, whichever gateway sees to it.
    let rules = json!({ "Rules": [{
        "ID": "end", "Status": "Enabled", "Filter": { "Prefix": "in/old" }, "Expiration": { "Days": 1 },
    }] });
    let (words, rules) =
        (["put-bucket-lifecycle-configuration", "--bucket", "told"], rules.to_string());
    let words = [&["s3api"], &words[..], &["--lifecycle-configuration", &rules]].concat();
    first.run("aws", &words);
    put(&first, "told", "in/old");

    // A receiver that is away hears of it later; so it does when the gateway that took it is dead.
    hook.open.store(false, Ordering::SeqCst);
    for number in 0..5 {
        put(&first, "told", &format!("in/{number}"));
    }
    grid.kill(1);
    hook.open.store(true, Ordering::SeqCst);
    for number in 0..5 {
        until("what a dead gateway took", || {
            hook.has("ObjectCreated:Put", &format!("in%2F{number}"))
        });
    }
    until("an end", || hook.has("LifecycleExpiration:Delete", "in%2Fold"));
    assert!(hook.events().iter().all(|(_, key)| key.starts_with("in%2F")));

    // By NATS.
    let words = ["s3api", "copy-object", "--bucket", "told", "--copy-source", "told/out/b"];
    second.run("aws", &[&words[..], &["--key", "copy"]].concat());
    let mut line = String::new();
    while !line.contains("ObjectCreated:Copy") {
        line.clear();
        assert_ne!(subject.read_line(&mut line).unwrap(), 0, "NATS hung up");
    }
    let message: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(message["Records"][0]["s3"]["object"]["key"], "copy");
    assert!(message["Records"][0]["s3"]["object"]["size"].as_u64().unwrap() > 0);

    // A target that is removed is none any more.
    command(&grid, 2, &["event", "rm", "subject"]);
    let left = command(&grid, 3, &["event", "ls"]);
    assert_eq!(left.as_array().unwrap().len(), 1, "{left}");
}

#[test]
fn grid_requests_are_recorded_web_sites_are_visited_and_quotas_hold() {
    let options = GridOptions {
        nodes: 3,
        config: "[s3]\naccess_log_seconds = 1\nwebsite_domain = \"web.test\"\n".to_owned(),
        ..GridOptions::default()
    };
    let grid = LocalGrid::start_with(&options);
    let client = Client::new(&grid, 1);
    client.run("aws", &["s3", "mb", "s3://source"]);
    client.run("aws", &["s3", "mb", "s3://logs"]);
    let enabled = json!({ "LoggingEnabled": { "TargetBucket": "logs", "TargetPrefix": "p/" } });
    let enabled = enabled.to_string();
    let words = ["s3api", "put-bucket-logging", "--bucket", "source"];
    let put_logging = [&words[..], &["--bucket-logging-status", &enabled]].concat();
    // The target's owner has not said yes.
    let mut refused = client.command("aws");
    let refused = refused.args(&put_logging).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("AccessDenied"), "{refused:?}");
    let policy = json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": { "Service": "logging.s3.amazonaws.com" },
        "Action": "s3:PutObject",
        "Resource": "arn:aws:s3:::logs/p/*",
        "Condition": { "ArnLike": { "aws:SourceArn": "arn:aws:s3:::source" } },
    }] });
    let policy = policy.to_string();
    let words = ["s3api", "put-bucket-policy", "--bucket", "logs", "--policy", &policy];
    client.run("aws", &words);
    client.run("aws", &put_logging);
    put(&client, "source", "recorded key");
    let mut missing = client.command("aws");
    let words = ["s3api", "get-object", "--bucket", "source", "--key", "none", "/dev/null"];
    assert!(!missing.args(words).output().unwrap().status.success());
    let files = tempfile::tempdir().unwrap();
    let place = files.path().display().to_string();
    let lines = until("records", || {
        let all = ["s3", "sync", "--only-show-errors", "s3://logs/p/", &place];
        client.run("aws", &all);
        let mut lines = String::new();
        for entry in std::fs::read_dir(files.path()).unwrap() {
            lines += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
        }
        lines.contains("NoSuchKey").then_some(lines)
    });
    let line = |word: &str| lines.lines().find(|line| line.contains(word)).unwrap().to_owned();
    let stored = line("REST.PUT.OBJECT");
    assert!(stored.contains(" recorded%20key \"PUT /source/recorded%20key"), "{stored}");
    assert!(stored.contains(" SigV4 - AuthHeader "), "{stored}");
    assert!(line("NoSuchKey").contains("REST.GET.OBJECT none "), "{lines}");

    // A quota holds at every gateway.
    let dir = grid.dir(2).display().to_string();
    grid.command(&["bucket", "quota", "source", "1k", "--dir", &dir]).unwrap();
    let big = files.path().join("big");
    std::fs::write(&big, vec![1; 2_000]).unwrap();
    let big = big.display().to_string();
    let words = ["s3api", "put-object", "--bucket", "source", "--key", "big", "--body", &big];
    let mut refused = Client::new(&grid, 3).command("aws");
    let refused = refused.args(words).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("QuotaExceeded"), "{refused:?}");
    let shown = command(&grid, 1, &["bucket", "show", "source"]);
    assert_eq!(shown["quota_bytes"], 1_000, "{shown}");
    assert_eq!(shown["objects"], 1, "{shown}");
    grid.command(&["bucket", "quota", "source", "none", "--dir", &dir]).unwrap();
    client.run("aws", &words);

    // So does an account's, over all its buckets, whichever is written to.
    let held = command(&grid, 1, &["account", "show", FOUNDERS])["bytes"].as_u64().unwrap();
    let most = (held + 1_000).to_string();
    grid.command(&["account", "quota", FOUNDERS, "--bytes", &most, "--dir", &dir]).unwrap();
    for bucket in ["source", "fresh"] {
        if bucket == "fresh" {
            client.run("aws", &["s3", "mb", "s3://fresh"]);
        }
        let words = ["s3api", "put-object", "--bucket", bucket, "--key", "more", "--body", &big];
        let mut refused = Client::new(&grid, 3).command("aws");
        let refused = refused.args(words).output().unwrap();
        let told = String::from_utf8_lossy(&refused.stderr);
        assert!(told.contains("QuotaExceeded"), "{bucket}: {refused:?}");
    }
    grid.command(&["account", "quota", FOUNDERS, "--dir", &dir]).unwrap();

    // A bucket's web site is visited by its host's name, and only what is public is served.
    let site = json!({ "IndexDocument": { "Suffix": "index.html" },
        "ErrorDocument": { "Key": "none.html" } });
    let site = site.to_string();
    let words = ["s3api", "put-bucket-website", "--bucket", "fresh"];
    client.run("aws", &[&words[..], &["--website-configuration", &site]].concat());
    put(&client, "fresh", "docs/index.html");
    let read = json!({ "Version": "2012-10-17", "Statement": [{ "Effect": "Allow", "Principal": "*",
        "Action": "s3:GetObject", "Resource": "arn:aws:s3:::fresh/*" }] });
    let (read, words) = (read.to_string(), ["s3api", "put-bucket-policy", "--bucket", "fresh"]);
    assert!(visit(&grid, "fresh.web.test", "/docs/").starts_with("HTTP/1.1 403"));
    client.run("aws", &[&words[..], &["--policy", &read]].concat());
    let page = visit(&grid, "fresh.web.test", "/docs/");
    let hostname = std::fs::read_to_string("/etc/hostname").unwrap();
    assert!(page.starts_with("HTTP/1.1 200") && page.ends_with(&hostname), "{page}");
    assert!(visit(&grid, "fresh.web.test", "/docs").starts_with("HTTP/1.1 302"));
    assert!(visit(&grid, "logs.web.test", "/p/").starts_with("HTTP/1.1 404"));
}

const FOUNDERS: &str = "000000000001";

/// What a visitor of a bucket's web site is answered.
fn visit(grid: &LocalGrid, host: &str, path: &str) -> String {
    let address = grid.s3(2);
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
