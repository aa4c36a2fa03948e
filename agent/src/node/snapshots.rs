//! Snapshots of buckets, for the command line.

use nexusgrid_env::Env;
use nexusgrid_grid::{Grid, Snapshot};
use nexusgrid_iam::time::iso8601;
use serde_json::{Value, json};

/// A time as people read it, to the second.
fn moment(ms: u64) -> String {
    iso8601(ms - ms % 1_000)
}

fn shown(bucket: &str, snapshot: &Snapshot) -> Value {
    let path = String::from_utf8_lossy(&snapshot.path);
    let of = match path.trim_end_matches('/') {
        "" => bucket.to_owned(),
        path => format!("{bucket}/{path}"),
    };
    json!({
        "name": snapshot.name,
        "of": of,
        "taken": moment(snapshot.taken_ms),
        "taken_ms": snapshot.taken_ms,
    })
}

/// Takes one; without a name it is called by the time.
pub async fn create(
    (grid, env): (&Grid, &Env),
    bucket: &str,
    directory: &str,
    name: Option<String>,
) -> anyhow::Result<Value> {
    let name = name.unwrap_or_else(|| moment(env.clock.wall().0));
    let snapshot = grid.take_snapshot(bucket, directory, &name).await?;
    Ok(shown(bucket, &snapshot))
}

/// A bucket's, oldest first.
pub async fn list(grid: &Grid, bucket: &str) -> anyhow::Result<Value> {
    let all = grid.snapshots(bucket).await?;
    Ok(Value::Array(all.iter().map(|one| shown(bucket, one)).collect()))
}

/// Drops one.
pub async fn delete(grid: &Grid, bucket: &str, name: &str) -> anyhow::Result<Value> {
    grid.drop_snapshot(bucket, name).await?;
    Ok(json!({}))
}
