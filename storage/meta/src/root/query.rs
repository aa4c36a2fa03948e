//! Answers to queries: pure reads of one state.
#![deny(clippy::indexing_slicing)]

use std::collections::BTreeMap;

use bytes::Bytes;
use nexusgrid_env::KvRead;
use nexusgrid_env::kv::prefix_end;

use super::limits;
use super::machine::{Step, all};
use super::rows::{self, ClusterRow, ROOT, RecordRow, RestoresRow, RulesRow, TokenRow};
use super::topology::{Bucket, Drive, Group, Node, Pg, Topology};
use super::types::{AccessKey, Record, Restores, RootAnswer, RootError, RootQuery, TokenInfo};
use crate::rows::tx::{Tx, decode_row};

/// Answers a query.
pub(super) fn answer(state: &dyn KvRead, query: RootQuery) -> Step<RootAnswer> {
    let tx = &Tx::new(state);
    let cluster: Option<ClusterRow> = tx.load(ROOT, &rows::cluster())?;
    let cluster = cluster.ok_or(RootError::NotInitialised)?;
    Ok(match query {
        RootQuery::Topology { unless_version } if unless_version == cluster.map_version => {
            RootAnswer::Topology(None)
        }
        RootQuery::Topology { .. } => RootAnswer::Topology(Some(Box::new(topology(tx, cluster)?))),
        RootQuery::Cluster => RootAnswer::Cluster(Box::new(cluster.cluster)),
        RootQuery::AccessKey { id } => {
            RootAnswer::AccessKey(tx.load(ROOT, &rows::access_key(&id))?)
        }
        RootQuery::AccessKeys { after, limit } => {
            let limit = limit.clamp(1, limits::ANSWER_ROWS_MAX) as usize;
            let mut start = rows::access_key(&after);
            if !after.is_empty() {
                start.push(0);
            }
            let found = tx.scan(ROOT, &start, prefix_end(b"K").as_deref(), limit + 1)?;
            let keys = found.iter().take(limit).map(|(_, value)| decode_row(ROOT, value));
            let keys = keys.collect::<Result<Vec<AccessKey>, _>>()?;
            RootAnswer::AccessKeys { keys, more: found.len() > limit }
        }
        RootQuery::BucketKeys { bucket } => {
            RootAnswer::BucketKeys(all(tx, &rows::bucket_keys(bucket).done())?)
        }
        RootQuery::Restores => {
            let row: RestoresRow = tx.load(ROOT, &rows::restores())?.unwrap_or_default();
            RootAnswer::Restores(Restores {
                incarnation: cluster.cluster.incarnation,
                thawed: row.thawed,
                restores: row.restores,
            })
        }
        RootQuery::Records { mut paths } => {
            paths.truncate(limits::ANSWER_ROWS_MAX as usize);
            paths.sort_unstable();
            paths.dedup();
            let mut found = Vec::new();
            for path in paths {
                if let Some(row) = tx.get(ROOT, &rows::record(&path))? {
                    found.push((Bytes::from(rows::record(&path)), row));
                }
            }
            records(found, usize::MAX)?
        }
        RootQuery::RecordsUnder { prefix, after, limit } => {
            let limit = limit.clamp(1, limits::ANSWER_ROWS_MAX) as usize;
            let first = rows::record(&prefix);
            let end = prefix_end(&first);
            let mut start = rows::record(&after);
            start.push(0);
            let start = start.max(first);
            records(tx.scan(ROOT, &start, end.as_deref(), limit + 1)?, limit)?
        }
        RootQuery::Tokens => {
            let mut tokens = Vec::new();
            for (key, value) in tx.scan(ROOT, b"T", prefix_end(b"T").as_deref(), usize::MAX)? {
                let TokenRow { expires_ms, roles, used_by, .. } = decode_row(ROOT, &value)?;
                let id = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
                tokens.push(TokenInfo { id, expires_ms, roles, used_by: used_by.map(|by| by.0) });
            }
            RootAnswer::Tokens(tokens)
        }
    })
}

fn topology(tx: &Tx<'_>, row: ClusterRow) -> Step<Topology> {
    let nodes: Vec<Node> = all(tx, b"N")?;
    let drives: Vec<Drive> = all(tx, b"D")?;
    let pgs: Vec<Pg> = all(tx, b"P")?;
    let groups: Vec<Group> = all(tx, b"G")?;
    let buckets: Vec<Bucket> = all(tx, b"B")?;
    let rules: RulesRow = tx.load(ROOT, &rows::rules())?.unwrap_or_default();
    let mut workers = BTreeMap::new();
    for (key, value) in tx.scan(ROOT, b"W", prefix_end(b"W").as_deref(), limits::WORKERS_MAX)? {
        let name = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
        workers.insert(name, decode_row(ROOT, &value)?);
    }
    Ok(Topology {
        version: row.map_version,
        cluster: Some(row.cluster.id),
        incarnation: row.cluster.incarnation,
        settings: row.cluster.settings,
        nodes: nodes.into_iter().map(|node| (node.id, node)).collect(),
        drives: drives.into_iter().map(|drive| (drive.id, drive)).collect(),
        pgs: pgs.into_iter().map(|pg| (pg.id, pg)).collect(),
        groups: groups.into_iter().map(|group| (group.id, group)).collect(),
        buckets: buckets.into_iter().map(|bucket| (bucket.name.clone(), bucket)).collect(),
        workers,
        rules_version: rules.version,
    })
}

/// At most `limit` records, and fewer if they are large.
fn records(found: Vec<(Bytes, Bytes)>, limit: usize) -> Step<RootAnswer> {
    let (mut records, mut bytes) = (Vec::new(), 0);
    let all = found.len();
    for (key, value) in found.into_iter().take(limit) {
        let RecordRow { revision, value } = decode_row(ROOT, &value)?;
        bytes += value.len();
        if bytes > limits::RECORDS_ANSWER_BYTES_MAX && !records.is_empty() {
            break;
        }
        let path = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
        records.push(Record { path, revision, value });
    }
    let more = records.len() < all;
    Ok(RootAnswer::Records { records, more })
}
