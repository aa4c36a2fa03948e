//! Measures a whole grid of seven real processes on this machine through S3: throughput, latency,
//! CPU per operation and per GB, beside the machine's own limits; and any other S3 endpoint in the
//! same table.
//!
//! ```text
//! nexusgrid-bench                                     a grid of its own
//! nexusgrid-bench --only bucket --objects 1000000     one large bucket, and nothing else
//! nexusgrid-bench --only mount                         a mounted bucket beside the disk and null FUSE
//! nexusgrid-bench --also NAME=HOST:PORT --pids 1,2    and another endpoint beside it
//! ```
//!
//! Ratios within one run say something; figures of two runs on a shared machine say little.
#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "measures real processes, files and sockets from outside"
)]

mod bucket;
mod cpu;
mod load;
mod machine;
mod mount;
mod null;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use nexusgrid_tests::{ACCESS_KEY, GridOptions, LocalGrid, SECRET_KEY};

use crate::cpu::Cpu;
use crate::load::{Action, Outcome};
use nexusgrid_tests::s3::Endpoint;

/// Measures a grid beside the machine's limits.
#[derive(Parser)]
#[command(name = "nexusgrid-bench")]
struct Args {
    /// Nodes of the grid.
    #[arg(long, default_value_t = 7)]
    nodes: usize,
    /// Seconds per workload.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Only workloads whose name begins with one of these.
    #[arg(long, value_delimiter = ',', default_value = "")]
    only: Vec<String>,
    /// Objects of the workload `bucket`, one large bucket; 0: without it.
    #[arg(long, default_value_t = 200_000)]
    objects: u64,
    /// Another S3 endpoint to measure as well: NAME=HOST:PORT (plain HTTP).
    #[arg(long)]
    also: Option<String>,
    /// Its access key; the secret comes from BENCH_SECRET_KEY.
    #[arg(long, default_value = "")]
    access_key: String,
    /// Its processes, whose CPU is counted.
    #[arg(long, value_delimiter = ',')]
    pids: Vec<u32>,
    /// Another directory to measure beside the mount: NAME=DIRECTORY.
    #[arg(long)]
    also_mounted: Vec<String>,
    /// Of the mount's measurement, only this one.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// One process of the mount's measurement.
    #[arg(long = "do", hide = true, requires = "place")]
    operation: Option<mount::Operation>,
    #[arg(long = "in", hide = true)]
    place: Option<PathBuf>,
    /// Print JSON lines instead of a table.
    #[arg(long)]
    json: bool,
}

const WORKLOADS: &[(&str, Action, usize)] = &[
    ("PUT 4 KiB", Action::Put(4 << 10), 1),
    ("PUT 4 KiB", Action::Put(4 << 10), 16),
    ("PUT 64 KiB", Action::Put(64 << 10), 16),
    ("PUT 1 MiB", Action::Put(1 << 20), 8),
    ("PUT 64 MiB", Action::Put(64 << 20), 4),
    ("GET 4 KiB", Action::Get(4 << 10), 1),
    ("GET 4 KiB", Action::Get(4 << 10), 4),
    ("GET 64 KiB", Action::Get(64 << 10), 8),
    ("GET 1 MiB", Action::Get(1 << 20), 8),
    ("GET 64 MiB", Action::Get(64 << 20), 4),
    ("LIST", Action::List, 2),
];

/// Something to measure.
struct Target {
    name: String,
    endpoints: Vec<Endpoint>,
    servers: Cpu,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let (Some(operation), Some(place)) = (args.operation, &args.place) {
        return mount::work(operation, place, args.seconds);
    }
    let wanted = |name: &str| args.only.iter().any(|only| name.starts_with(only.as_str()));
    if !args.json {
        println!("{}\n", machine::describe());
        limits()?;
    }
    if wanted("bucket") && args.objects > 0 && !args.json {
        bucket::measure(args.nodes, args.objects, Duration::from_secs(args.seconds)).await?;
        if args.only == ["bucket"] {
            return Ok(());
        }
        println!();
    }
    if wanted("mount") {
        let (nodes, seconds, json) = (args.nodes, args.seconds, args.json);
        let (also, target) = (args.also_mounted.clone(), args.target.clone());
        let mounts = move || mount::measure(nodes, seconds, &also, target.as_deref(), json);
        tokio::task::spawn_blocking(mounts).await??;
        if args.only == ["mount"] {
            return Ok(());
        }
        println!();
    }
    let options = GridOptions { nodes: args.nodes, ..GridOptions::default() };
    let mut grid = tokio::task::spawn_blocking(move || LocalGrid::start_with(&options)).await?;
    let mut targets = vec![target_of(&grid, args.nodes, "nexusgrid")];
    if let Some(also) = &args.also {
        let (name, authority) = also.split_once('=').context("--also NAME=HOST:PORT")?;
        let secret_key = std::env::var("BENCH_SECRET_KEY").context("BENCH_SECRET_KEY")?;
        let access_key = args.access_key.clone();
        let endpoint = Endpoint {
            authority: authority.to_owned(),
            access_key,
            secret_key,
            region: "us-east-1".to_owned(),
        };
        let servers = Cpu::of(args.pids.clone());
        targets.push(Target { name: name.to_owned(), endpoints: vec![endpoint], servers });
    }
    header(args.json);
    let seconds = Duration::from_secs(args.seconds);
    for target in &targets {
        load::bucket(&target.endpoints[0], "bench").await?;
        if wanted("idle") {
            idle(target, args.json).await;
        }
        for (name, action, clients) in WORKLOADS.iter().filter(|(name, ..)| wanted(name)) {
            if let Action::Get(size) = action {
                load::fill(&target.endpoints[0], "bench", *size).await?;
            }
            let outcome =
                load::run(&target.endpoints, "bench", *action, *clients, seconds, &target.servers)
                    .await?;
            line(&target.name, name, *clients, &outcome, args.json);
        }
        let resident = target.servers.resident();
        let mib = |bytes: u64| bytes >> 20;
        if !args.json {
            let most = resident.iter().max().copied().unwrap_or_default();
            println!("\n{}: resident memory at most {} MiB per process\n", target.name, mib(most));
        }
    }
    if wanted("degraded GET 1 MiB") && args.nodes >= 7 {
        let target = &targets[0];
        load::fill(&target.endpoints[0], "bench", 1 << 20).await?;
        for number in [args.nodes - 1, args.nodes] {
            grid.kill(number);
        }
        grid.wait_until("two nodes down", |status| {
            let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
            nodes.iter().filter(|node| node["state"] == "alive").count() <= args.nodes - 2
        });
        let target = target_of(&grid, args.nodes - 2, "nexusgrid, 2 of 7 dead");
        let action = Action::Get(1 << 20);
        let outcome =
            load::run(&target.endpoints, "bench", action, 8, seconds, &target.servers).await?;
        line(&target.name, "degraded GET 1 MiB", 8, &outcome, args.json);
    }
    drop(grid);
    if wanted("repair") && args.nodes >= 7 {
        repair(args.nodes + 1, seconds, args.json).await?;
    }
    Ok(())
}

/// How fast a grid rebuilds a node that is lost for good, when nothing bounds it.
async fn repair(nodes: usize, seconds: Duration, json: bool) -> anyhow::Result<()> {
    let options = GridOptions { nodes, ..GridOptions::default() };
    let mut grid = tokio::task::spawn_blocking(move || LocalGrid::start_with(&options)).await?;
    let target = target_of(&grid, nodes, "nexusgrid");
    load::bucket(&target.endpoints[0], "bench").await?;
    let put = Action::Put(1 << 20);
    load::run(&target.endpoints, "bench", put, 8, seconds * 4, &target.servers).await?;
    grid.kill(nodes);
    grid.wait_until("noticed", |status| status["repair"]["down"] != 0);
    let target = target_of(&grid, nodes - 1, "nexusgrid");
    let admin = |node: usize, words: &[&str]| {
        let dir = grid.dir(node).display().to_string();
        grid.command(&[words, &["--dir", dir.as_str()]].concat())
    };
    admin(1, &["worker", "rate", "remap", "100000"])?;
    let (begin, before) = (Instant::now(), target.servers.used());
    admin(1, &["node", "remove", &format!("n{nodes}"), "--lost"])?;
    grid.wait_until("rebuilt", |status| {
        let repair = &status["repair"];
        ["moving", "to_move", "down"].iter().all(|what| repair[what] == 0)
    });
    let took = begin.elapsed();
    let server = target.servers.used().saturating_sub(before);
    let mut bytes = 0;
    for node in 1..nodes {
        let rows: serde_json::Value =
            serde_json::from_str(&admin(node, &["worker", "ls", "--json"])?)?;
        let rows = rows.as_array().context("a list of workers")?;
        let remap = rows.iter().find(|row| row["name"] == "remap");
        bytes += remap.and_then(|row| row["bytes"].as_u64()).context("the worker `remap`")?;
    }
    let outcome = Outcome {
        operations: 1,
        bytes,
        took,
        p50: took,
        p99: took,
        server,
        client: Duration::ZERO,
        failed: (0, String::new()),
    };
    line("nexusgrid, 1 of 8 lost", "repair", 0, &outcome, json);
    Ok(())
}

fn target_of(grid: &LocalGrid, nodes: usize, name: &str) -> Target {
    let endpoint = |number: usize| Endpoint {
        authority: grid.s3(number).trim_start_matches("http://").to_owned(),
        access_key: ACCESS_KEY.to_owned(),
        secret_key: SECRET_KEY.to_owned(),
        region: "us-east-1".to_owned(),
    };
    Target {
        name: name.to_owned(),
        endpoints: (1..=nodes).map(endpoint).collect(),
        servers: Cpu::of(grid.pids()),
    }
}

/// The machine's own limits.
fn limits() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let second = Duration::from_secs(2);
    let gb = |rate: f64| rate / 1e9;
    println!("| the machine alone | |\n|---|---|");
    println!(
        "| synced 4 KiB writes, one at a time | {:.0}/s |",
        machine::syncs_per_second(dir.path(), second)?
    );
    println!(
        "| disk, written in order and synced | {:.2} GB/s |",
        gb(machine::disk_write(dir.path(), 1 << 30)?)
    );
    println!("| loopback, one connection | {:.2} GB/s |", gb(machine::loopback(4 << 30)?));
    println!("| loopback, round trips of 4 KiB | {:.0}/s |\n", machine::round_trips(second)?);
    Ok(())
}

async fn idle(target: &Target, json: bool) {
    let before = target.servers.used();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let used = target.servers.used().saturating_sub(before);
    let processes = target.servers.resident().len().max(1) as f64;
    let percent = used.as_secs_f64() * 10.0 / processes;
    if json {
        println!("{}", serde_json::json!({"target": target.name, "idle_cpu_percent": percent}));
    } else {
        println!("| {} | idle | | | | | | {percent:.2} % of a core each | | | |", target.name);
    }
}

fn header(json: bool) {
    if !json {
        println!(
            "| target | workload | clients | ops/s | MB/s | p50 ms | p99 ms | server CPU ms/op | server CPU s/GB | client CPU ms/op | failed |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|");
    }
}

fn line(target: &str, name: &str, clients: usize, outcome: &Outcome, json: bool) {
    let seconds = outcome.took.as_secs_f64();
    let operations = outcome.operations.max(1) as f64;
    let rate = outcome.operations as f64 / seconds;
    let mb = outcome.bytes as f64 / 1e6 / seconds;
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let (server, client) = (ms(outcome.server) / operations, ms(outcome.client) / operations);
    let per_gb = outcome.server.as_secs_f64() / (outcome.bytes.max(1) as f64 / 1e9);
    if json {
        println!(
            "{}",
            serde_json::json!({
                "target": target, "workload": name, "clients": clients,
                "operations_per_second": rate, "mb_per_second": mb,
                "p50_ms": ms(outcome.p50), "p99_ms": ms(outcome.p99),
                "server_cpu_ms_per_operation": server, "server_cpu_s_per_gb": per_gb,
                "client_cpu_ms_per_operation": client, "failed": outcome.failed.0,
            })
        );
        return;
    }
    let per_gb = if outcome.bytes == 0 { String::new() } else { format!("{per_gb:.1}") };
    let failed = match &outcome.failed {
        (0, _) => "0".to_owned(),
        (count, reason) => format!("{count}: {}", reason.chars().take(80).collect::<String>()),
    };
    println!(
        "| {target} | {name} | {clients} | {rate:.0} | {mb:.1} | {:.2} | {:.2} | {server:.3} | {per_gb} | {client:.3} | {failed} |",
        ms(outcome.p50),
        ms(outcome.p99),
    );
}
