//! `nexusgrid metadata`: copies of metadata, restores, and letting deletes happen again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, bail};
use nexusgrid_codec::GroupId;
use nexusgrid_env::NodeId;
use nexusgrid_grid::care::checkpoint::{GroupState, RecordHead, Survey};
use serde_json::{Value, json};

use super::administration::NodeAdministration;
use crate::status::StatusReport;

fn name(group: GroupId) -> String {
    if group.0 == 0 { "root".to_owned() } else { format!("meta {}", group.0) }
}

fn row(administration: &NodeAdministration, head: &RecordHead) -> Value {
    let age_ms = administration.env.clock.wall().0.saturating_sub(head.taken_ms);
    json!({
        "group": head.group.0,
        "index": head.index,
        "incarnation": head.incarnation,
        "taken": head.taken_ms,
        "age_seconds": age_ms / 1_000,
    })
}

/// The newest checkpoints that this node keeps a record of, and how far the tails behind them lead;
/// groups without one too.
pub async fn list(administration: &NodeAdministration) -> anyhow::Result<Value> {
    let checkpoints = &administration.checkpoints;
    let records: BTreeMap<GroupId, RecordHead> =
        checkpoints.records().into_iter().map(|head| (head.group, head)).collect();
    let groups: BTreeSet<GroupId> =
        checkpoints.groups().into_iter().chain(records.keys().copied()).collect();
    let (damaged, set_aside) = (checkpoints.damaged(), checkpoints.set_aside().await?);
    let tails = groups.iter().map(|group| checkpoints.tail_state(*group));
    let tails = futures_util::future::join_all(tails).await;
    let now_ms = administration.env.clock.wall().0;
    let rows = groups.iter().zip(tails).map(|(group, tail)| {
        let head = records.get(group);
        let mut row =
            head.map_or_else(|| json!({ "group": group.0 }), |head| row(administration, head));
        let as_of_ms = tail.as_ref().map(|tail| tail.as_of_ms);
        if let Some(tail) = tail {
            let keepers: Vec<String> = tail.keepers.iter().map(ToString::to_string).collect();
            row["tail_index"] = tail.index.into();
            row["tail_as_of"] = tail.as_of_ms.into();
            row["tail_keepers"] = keepers.join(" ").into();
            row["tail_keepers_wanted"] = tail.wanted.into();
        }
        // What would be lost with the group now: the newest of it.
        let as_of_ms = as_of_ms.max(head.map(|head| head.taken_ms));
        row["loss_window_seconds"] =
            as_of_ms.map_or(Value::Null, |at| (now_ms.saturating_sub(at) / 1_000).into());
        row["damaged_here"] = damaged.contains(group).into();
        row["lost_replica_here"] = set_aside.contains(group).into();
        row
    });
    Ok(rows.collect())
}

/// Takes a checkpoint of every group.
pub async fn checkpoint(administration: &NodeAdministration) -> anyhow::Result<Value> {
    let groups = administration.checkpoints.groups();
    if groups.is_empty() {
        bail!("no root group answers: there is nothing to take a checkpoint of");
    }
    let mut rows = Vec::new();
    // The root group last: it names what the others made.
    for group in groups.into_iter().rev() {
        let head = administration.checkpoints.take_now(group).await;
        let head = head.with_context(|| format!("taking a checkpoint of group {}", group.0))?;
        rows.push(row(administration, &head));
    }
    rows.reverse();
    Ok(Value::Array(rows))
}

/// Says what a restore would do; does it once it is confirmed twice.
pub async fn restore(
    administration: &NodeAdministration,
    confirm: Option<&str>,
    newer_lost: bool,
    accept_older: bool,
) -> anyhow::Result<Value> {
    let cluster = administration.cluster.to_string();
    if let Some(confirm) = confirm {
        if confirm != cluster {
            bail!("this is not cluster {confirm}");
        }
        if !newer_lost {
            bail!("say --yes-i-understand-that-newer-changes-are-lost as well");
        }
    }
    let survey = administration.checkpoints.survey().await?;
    if confirm.is_none() {
        let (mut answer, plan) = plan(administration, &survey, &cluster);
        answer["text"] = Value::String(plan);
        return Ok(answer);
    }
    let restored = administration.checkpoints.restore(survey, accept_older).await?;
    let groups: Vec<String> =
        restored.groups.iter().map(|found| name(found.checkpoint.group)).collect();
    let rows = restored.groups.iter().map(|found| {
        let mut row = row(administration, &found.checkpoint);
        row["reached"] = found.index.into();
        row["known"] = found.known.into();
        row
    });
    let lost = restored.groups.iter().filter(|found| found.index < found.known).map(|found| {
        let (from, to) = (found.index + 1, found.known);
        format!("\nlost for good: entries {from} to {to} of {}", name(found.checkpoint.group))
    });
    let lost: String = lost.collect();
    let text = format!(
        "restored: {}{lost}\nThe other nodes join these groups by themselves; `nexusgrid status` shows when they have.\n\
         Nothing is deleted from drives meanwhile. Look at the grid (`nexusgrid fsck`), then `nexusgrid metadata thaw`.",
        groups.join(", ")
    );
    Ok(json!({
        "text": text,
        "incarnation": restored.incarnation,
        "groups": rows.collect::<Vec<_>>(),
    }))
}

fn plan(administration: &NodeAdministration, survey: &Survey, cluster: &str) -> (Value, String) {
    let nodes =
        |nodes: &[NodeId]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut text = format!("cluster {cluster}\n");
    let mut groups = Vec::new();
    for group in &survey.groups {
        let state = match group.state {
            GroupState::Serving => "serves",
            GroupState::MayServe => "may serve again",
            GroupState::Lost => "lost",
        };
        let checkpoint = group.checkpoint.map(|head| row(administration, &head));
        let age = checkpoint.as_ref().map_or_else(
            || "none".to_owned(),
            |row| format!("{} s old, entry {}", row["age_seconds"], row["index"]),
        );
        let now_ms = administration.env.clock.wall().0;
        let tail = group.tail.map_or_else(String::new, |tail| {
            let age_seconds = now_ms.saturating_sub(tail.taken_ms) / 1_000;
            format!(", tails to entry {}, {age_seconds} s old", tail.end.index)
        });
        let _ = writeln!(
            text,
            "group {:<8} {state:<16} voters {} (running: {}); checkpoint: {age}{tail}",
            name(group.group),
            nodes(&group.voters),
            nodes(&group.running),
        );
        groups.push(json!({
            "group": group.group.0,
            "state": state,
            "checkpoint": checkpoint,
            "tail_index": group.tail.map(|tail| tail.end.index),
            "tail_taken": group.tail.map(|tail| tail.taken_ms),
            "running": group.running.iter().map(|node| node.0).collect::<Vec<_>>(),
        }));
    }
    if !survey.silent.is_empty() {
        let _ = writeln!(
            text,
            "nodes that do not answer: {}. If any of them may come back, and holds one of the lost\n\
             groups, start it instead: nothing is lost then.",
            nodes(&survey.silent)
        );
    }
    if survey.lost().next().is_none() {
        text += "no group is lost: there is nothing to restore\n";
    } else {
        let _ = write!(
            text,
            "The lost groups would begin anew on this node from their checkpoints and the tails of\n\
             their logs. What was changed since is lost to metadata; the drives keep their blocks. To do it:\n  nexusgrid metadata restore \
             --confirm {cluster} --yes-i-understand-that-newer-changes-are-lost"
        );
    }
    let silent: Vec<u64> = survey.silent.iter().map(|node| node.0).collect();
    (json!({ "cluster": cluster, "groups": groups, "silent": silent }), text)
}

/// Says what would go if deletes happened again; lets them once the incarnation is named.
pub async fn thaw(
    administration: &NodeAdministration,
    incarnation: Option<u64>,
) -> anyhow::Result<Value> {
    let restores = administration.checkpoints.restores().await?;
    if !restores.is_frozen() {
        return Ok(json!({ "frozen": false, "text": "deletes are not frozen" }));
    }
    if let Some(incarnation) = incarnation {
        administration.checkpoints.thaw(incarnation).await?;
        return Ok(json!({
            "frozen": false,
            "text": "thawed: what metadata does not know is garbage from now on",
        }));
    }
    let report = administration.grid.fsck(false).await?;
    let text = format!(
        "incarnation {}: deletes are frozen\n\
         {:>12}  shards newer than metadata: they would go to the trash, and from there after a week\n\
         {:>12}  other shards that metadata does not know: likewise\n\
         {:>12}  shards of what was deleted: they would go at once\n\
         {:>12}  blocks that metadata knows and the drives do not hold any more\n\
         To let deletes happen again:\n  nexusgrid metadata thaw --incarnation {0}",
        restores.incarnation, report.unheard, report.orphans, report.awaiting_burial, report.lost,
    );
    Ok(json!({
        "frozen": true,
        "incarnation": restores.incarnation,
        "unheard": report.unheard,
        "orphans": report.orphans,
        "awaiting_burial": report.awaiting_burial,
        "lost": report.lost,
        "text": text,
    }))
}

/// What an administrator should know of metadata's safety.
pub fn warn(administration: &NodeAdministration, report: &mut StatusReport) {
    if administration.checkpoints.is_frozen() {
        report.warnings.push(
            "metadata was restored: nothing is deleted from drives until `nexusgrid metadata thaw`"
                .to_owned(),
        );
    }
    for (group, age) in administration.checkpoints.overdue() {
        let age = age.map_or_else(
            || "there is no checkpoint".to_owned(),
            |age| format!("the newest checkpoint is {} min old", age.as_secs() / 60),
        );
        report.warnings.push(format!("metadata of group {}: {age}", group.0));
    }
    for group in administration.checkpoints.damaged() {
        let file = format!("bootstrap/{}", group.0);
        report.warnings.push(format!(
            "{file} of this node was damaged and set aside; another node's copy takes its place"
        ));
    }
}
