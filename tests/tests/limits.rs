//! Memory stays bounded, and a crowd is served or told to slow down.

use nexusgrid_tests::{Client, LocalGrid, run};

const MEMORY_MAX_BYTES: u64 = 256 << 20;

fn script(client: &Client, name: &str, arguments: &[&str]) -> String {
    let mut command = client.command("python3");
    command.arg(format!("{}/clients/{name}", env!("CARGO_MANIFEST_DIR"))).args(arguments);
    run(&mut command)
}

#[test]
fn grid_large_objects_many_parts_and_a_crowd_keep_memory_bounded() {
    let grid = LocalGrid::start();
    let client = Client::new(&grid, 1);
    client.run("aws", &["s3", "mb", "s3://big"]);
    println!("{}", script(&client, "large.py", &["big", client.endpoint(), "1024", "2000"]));
    println!("{}", script(&client, "crowd.py", &["big", "500", client.endpoint()]));
    for number in grid.running() {
        let peak = grid.peak_memory_bytes(number);
        println!("node {number}: peak {} MiB", peak >> 20);
        assert!(peak < MEMORY_MAX_BYTES, "node {number} took {} MiB", peak >> 20);
    }
}
