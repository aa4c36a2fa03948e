//! Snapshots of buckets by the command line: each command is one request to a node over its administration socket.

use clap::Subcommand;

use crate::admin::{AdminRequest, client};
use crate::cli::NodeDir;
use crate::commands::{print, table};

/// What a bucket was at one moment; mounts show it in `.snapshots` of every directory.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Take one of a bucket, or of a directory in it: at once, whatever it holds.
    Create {
        /// The bucket, or a directory in it: `bucket/path`.
        of: String,
        /// Its name, which no other snapshot of the bucket has; without one, the time: `2026-11-24T07:00:00Z`.
        name: Option<String>,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// List a bucket's, oldest first.
    Ls {
        /// The bucket.
        bucket: String,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
    /// Delete one; what it alone has of space comes back within minutes.
    #[command(alias = "rm")]
    Delete {
        /// The bucket.
        bucket: String,
        /// The snapshot's name.
        name: String,
        /// The node's directory.
        #[command(flatten)]
        node: NodeDir,
    },
}

/// Bucket and directory of `bucket/path`.
fn place(of: &str) -> (String, String) {
    let (bucket, path) = of.split_once('/').unwrap_or((of, ""));
    (bucket.to_owned(), path.trim_end_matches('/').to_owned())
}

/// Does what was asked for.
pub async fn run(command: SnapshotCommand, json: bool) -> anyhow::Result<()> {
    let columns = ["name", "of", "taken"];
    match command {
        SnapshotCommand::Create { of, name, node } => {
            let (bucket, directory) = place(&of);
            let request = AdminRequest::SnapshotCreate { bucket, directory, name };
            let answer = client::ask_value(&node.dir, &request).await?;
            print(&answer, json, |answer| {
                table(&serde_json::Value::Array(vec![answer.clone()]), &columns)
            })
        }
        SnapshotCommand::Ls { bucket, node } => {
            let request = AdminRequest::SnapshotList { bucket };
            let answer = client::ask_value(&node.dir, &request).await?;
            print(&answer, json, |answer| table(answer, &columns))
        }
        SnapshotCommand::Delete { bucket, name, node } => {
            let request = AdminRequest::SnapshotDelete { bucket, name };
            let answer = client::ask_value(&node.dir, &request).await?;
            print(&answer, json, |_| "done\n".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_and_a_directory_in_it() {
        let place = |of| place(of);
        let both = |bucket: &str, path: &str| (bucket.to_owned(), path.to_owned());
        assert_eq!(place("b"), both("b", ""));
        assert_eq!(place("b/"), both("b", ""));
        assert_eq!(place("b/c/d/"), both("b", "c/d"));
    }
}
