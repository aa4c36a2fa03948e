//! Dependencies point one way: a crate may use only crates of lower floors.

use std::collections::BTreeMap;
use std::process::Command;

/// The house, bottom up. A crate may depend only on crates of a strictly lower floor.
const FLOORS: &[&[&str]] = &[
    &["nexusgrid-env", "nexusgrid-codec", "nexusgrid-iam", "nexusgrid-faultdisk"],
    &["nexusgrid-drive", "nexusgrid-cluster"],
    &["nexusgrid-meta"],
    &["nexusgrid-grid"],
    &["nexusgrid-gateway", "nexusgrid-fuse"],
    &["nexusgrid-agent"],
    &["nexusgrid-tests", "nexusgrid-model"],
    &["nexusgrid-bench"],
];

fn floor(package: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&package))
}

#[test]
fn no_crate_depends_upward_or_sideways() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut edges = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        assert!(
            floor(name).is_some(),
            "{name} has no floor: add it to FLOORS in tests/layering.rs"
        );
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            if used.starts_with("nexusgrid-") {
                edges.insert((name.to_owned(), used.to_owned()), dependency["kind"].clone());
            }
        }
    }
    assert!(edges.len() >= 10, "cargo metadata listed only {} edges", edges.len());
    for (user, used) in edges.keys() {
        assert!(floor(used) < floor(user), "{user} must not depend on {used}");
    }
}
