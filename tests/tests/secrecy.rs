//! What stands on the disks.

use std::path::Path;
use std::process::Command;

use nexusgrid_tests::{Client, GridOptions, LocalGrid, SECRET_KEY};

/// Whether any file below `dir` contains `marker`.
fn found_in(dir: &Path, marker: &str) -> bool {
    let output = Command::new("grep").args(["-rlaF", "--", marker]).arg(dir).output().unwrap();
    assert!(output.status.code() != Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

#[test]
fn grid_bytes_on_disk_are_ciphertext_and_storage_nodes_hold_no_key() {
    let grid = LocalGrid::start_with(&GridOptions {
        storage_only: vec![7],
        config: "[s3]\nsse_c_without_tls = true\n".to_owned(),
        ..GridOptions::default()
    });
    let client = Client::new(&grid, 1);
    client.run("aws", &["s3", "mb", "s3://secret"]);
    let dir = tempfile::tempdir().unwrap();
    let marker = "the-marker-3f9a1c77";
    for (name, repeat) in [("inline", 40), ("packed", 2_000), ("coded", 100_000)] {
        let file = dir.path().join(name);
        std::fs::write(&file, format!("{marker}-{name} ").repeat(repeat)).unwrap();
        client.run(
            "aws",
            &["s3", "cp", "--no-progress", file.to_str().unwrap(), &format!("s3://secret/{name}")],
        );
    }
    // A client's key is used and forgotten.
    let (customer, packed) = (dir.path().join("customer.key"), dir.path().join("packed"));
    let customer_key = "a-key-of-32-bytes-that-I-keep-me";
    std::fs::write(&customer, customer_key).unwrap();
    let key = format!("fileb://{}", customer.display());
    let sealed = ["--no-progress", "--sse-c", "AES256", "--sse-c-key", &key];
    let place = [packed.to_str().unwrap(), "s3://secret/customer"];
    client.run("aws", &[&["s3", "cp"], &sealed[..], &place[..]].concat());
    // A storage-only node passes S3 connections on: the object comes back through it.
    let back = dir.path().join("back");
    Client::new(&grid, 7)
        .run("aws", &["s3", "cp", "--no-progress", "s3://secret/coded", back.to_str().unwrap()]);
    assert_eq!(std::fs::read(&back).unwrap(), std::fs::read(dir.path().join("coded")).unwrap());
    for number in 1..=7 {
        assert!(!found_in(grid.dir(number), marker), "node {number} holds plaintext");
        assert!(
            !found_in(grid.dir(number), SECRET_KEY),
            "node {number} holds the secret key in clear"
        );
        // As it is, and as it was sent: base64.
        for form in [customer_key, "YS1rZXktb2YtMzItYnl0ZXMtdGhhdC1JLWtlZXAtbWU"] {
            assert!(!found_in(grid.dir(number), form), "node {number} holds a client's key");
            assert!(!grid.log(number).contains(form), "node {number} prints a client's key");
        }
    }
    // I16: no key material in what the agents print, in any usual form.
    let master = std::fs::read(grid.dir(1).join("master.key")).unwrap();
    let hex: String = master.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = String::from_utf8_lossy(&master).trim().to_owned();
    let debug = format!("{master:?}");
    for number in 1..=7 {
        let log = grid.log(number);
        for form in [&hex, &text, &debug] {
            assert!(!log.contains(form.as_str()), "node {number} prints the master key");
        }
    }
    assert!(found_in(dir.path(), marker), "the search itself must find the marker where it is");
    assert!(grid.dir(1).join("master.key").exists(), "a gateway holds the master key");
    assert!(!grid.dir(7).join("master.key").exists(), "a storage-only node must not hold it");
}
