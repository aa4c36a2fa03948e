//! Wrong configurations, tokens, disks and bytes get a clear error and leave nothing broken.
//! (FAULTS 27 with real processes; requests and RPC bytes.)

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nexusgrid_tests::{Client, GridOptions, LocalGrid, program};

/// Runs the program and expects it to fail with a message that contains `part`.
fn fails_with(arguments: &[&str], part: &str) {
    let output = Command::new(program()).args(arguments).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?} must fail");
    assert!(message.contains(part), "{arguments:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
}

fn write_config(dir: &Path, extra: &str) {
    std::fs::create_dir_all(dir).unwrap();
    let text = format!(
        "rpc_listen = \"127.0.0.1:7699\"\ns3_listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n{extra}\n[[drives]]\npath = \"{}/drive\"\nreserve_bytes = 0\n",
        dir.display()
    );
    std::fs::write(dir.join("nexusgrid.toml"), text).unwrap();
}

/// Sends bytes and reads whatever comes back until the peer closes or is silent for long.
fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
    // The peer may close while we still send: that is a fine answer to garbage.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn grid_refuses_wrong_tokens_configurations_and_disks() {
    let options = GridOptions { nodes: 1, ..GridOptions::default() };
    let mut grid = LocalGrid::start_with(&options);
    let other = LocalGrid::start_with(&options);
    let token = |grid: &LocalGrid| {
        let answer = grid
            .command(&["token", "create", "--json", "--dir", grid.dir(1).to_str().unwrap()])
            .unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        answer["token"].as_str().unwrap().to_owned()
    };
    let dir = tempfile::tempdir().unwrap();
    let joiner = dir.path().join("joiner");
    write_config(&joiner, "");
    let joiner_dir = joiner.to_str().unwrap();
    let rpc = grid.rpc(1).to_string();

    // No token, a mistyped one, another cluster's, a used one.
    fails_with(&["join", &rpc, "--token", "nonsense", "--dir", joiner_dir], "not a join token");
    let good = token(&grid);
    let mistyped: String =
        good.chars().rev().collect::<String>().replacen('0', "1", 1).chars().rev().collect();
    if mistyped != good {
        fails_with(&["join", &rpc, "--token", &mistyped, "--dir", joiner_dir], "mistyped");
    }
    fails_with(&["join", &rpc, "--token", &token(&other), "--dir", joiner_dir], "");
    grid.command(&["join", &rpc, "--token", &good, "--dir", joiner_dir]).unwrap();
    let second = dir.path().join("second");
    write_config(&second, "");
    fails_with(&["join", &rpc, "--token", &good, "--dir", second.to_str().unwrap()], "used");
    // A node that is one already, and a cluster that is there already.
    fails_with(&["join", &rpc, "--token", &token(&grid), "--dir", joiner_dir], "already");
    fails_with(&["init", "--dir", grid.dir(1).to_str().unwrap()], "already");

    // Configuration.
    let broken = dir.path().join("broken");
    write_config(&broken, "body_buget_bytes = 1");
    fails_with(&["init", "--dir", broken.to_str().unwrap()], "body_budget_bytes");
    fails_with(&["serve", "--dir", dir.path().join("nowhere").to_str().unwrap()], "nexusgrid init");
    fails_with(&["status", "--dir", dir.path().to_str().unwrap()], "no agent serves");

    // A second agent on the same directory.
    fails_with(&["serve", "--dir", grid.dir(1).to_str().unwrap()], "");

    // An unmounted drive: the marker is missing.
    grid.kill(1);
    std::fs::rename(grid.dir(1).join("drive"), grid.dir(1).join("drive.away")).unwrap();
    std::fs::create_dir(grid.dir(1).join("drive")).unwrap();
    fails_with(&["serve", "--dir", grid.dir(1).to_str().unwrap()], "is the disk mounted");
    // Another cluster's drive.
    std::fs::remove_dir(grid.dir(1).join("drive")).unwrap();
    let foreign = other.dir(1).join("drive");
    assert!(
        Command::new("cp")
            .arg("-a")
            .arg(&foreign)
            .arg(grid.dir(1).join("drive"))
            .status()
            .unwrap()
            .success()
    );
    fails_with(&["serve", "--dir", grid.dir(1).to_str().unwrap()], "drive");
    std::fs::remove_dir_all(grid.dir(1).join("drive")).unwrap();
    std::fs::rename(grid.dir(1).join("drive.away"), grid.dir(1).join("drive")).unwrap();
    grid.serve(1).unwrap();
    let client = Client::new(&grid, 1);
    client.run("aws", &["s3", "mb", "s3://still-works"]);
}

#[test]
fn grid_answers_malformed_requests_and_goes_on() {
    let grid = LocalGrid::start_with(&GridOptions { nodes: 1, ..GridOptions::default() });
    let client = Client::new(&grid, 1);
    client.run("aws", &["s3", "mb", "s3://bad"]);
    let s3: SocketAddr = grid.s3(1).trim_start_matches("http://").parse().unwrap();
    let requests: &[&[u8]] = &[
        b"\r\n\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PUT /bad/k HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"PUT /bad/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /bad?delete HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n<Delete><Obj",
        b"GET /bad/%zz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /bad/k HTTP/1.1\r\nHost: x\r\nAuthorization: AWS4-HMAC-SHA256 Credential=\xff\xfe\r\n\r\n",
    ];
    for request in requests {
        let answer = exchange(s3, request);
        let text = String::from_utf8_lossy(&answer);
        let status = text.split(' ').nth(1).unwrap_or("closed").to_owned();
        assert!(
            answer.is_empty() || status.starts_with('4') || status == "501" || status == "505",
            "{:?} was answered {text}",
            String::from_utf8_lossy(request)
        );
    }
    // The agents' port: garbage, half a TLS hello, an unauthenticated plain request.
    for bytes in [
        &[0xa5_u8; 4096][..],
        b"\x16\x03\x01\x40\x00",
        b"POST /v1/769 HTTP/1.1\r\nHost: n\r\nContent-Length: 0\r\n\r\n",
    ] {
        let answer = exchange(grid.rpc(1), bytes);
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(!text.starts_with("HTTP/1.1 2"), "the agents' port served a stranger: {text}");
    }
    client.run("aws", &["s3", "cp", "/etc/hostname", "s3://bad/k"]);
    client.run("aws", &["s3", "cp", "s3://bad/k", "-"]);
}
