//! Versions: rules of buckets, deletions, listings, and what can be changed of a version.

use nexusgrid_meta::namespace::limits as meta_limits;
use nexusgrid_meta::namespace::types as row;
use nexusgrid_meta::namespace::types::{
    NamespaceAnswer, NamespaceCommand, NamespaceOk, NamespaceQuery, Object, VersionEntry,
    VersionListing, VersionRef, VersionsAfter,
};
use nexusgrid_meta::root::topology::Bucket;

use crate::convert;
use crate::core::internal;
use crate::error::GridError;
use crate::facade::Grid;
use crate::limits;
use crate::meta_port::MetaError;
use crate::version::{
    DeleteOutcome, ListVersionsRequest, MarkerSummary, RulesChange, VersionChange, VersionDelete,
    VersionName, VersionRules, VersionSummary, VersionsPage,
};

/// A version as metadata names it.
pub(crate) fn version_ref(bucket: &Bucket, key: &str, version: Option<VersionName>) -> VersionRef {
    let key = key.as_bytes().to_vec();
    VersionRef { bucket: bucket.id, key, version: version.map(convert::version_row) }
}

impl Grid {
    /// A version's row; without a name the current one's.
    pub(crate) async fn find_version(
        &self,
        bucket: &Bucket,
        key: &str,
        version: Option<VersionName>,
    ) -> Result<Object, GridError> {
        let query = match version {
            None => NamespaceQuery::Head { bucket: bucket.id, key: key.as_bytes().to_vec() },
            Some(_) => NamespaceQuery::HeadVersion { version: version_ref(bucket, key, version) },
        };
        match self.core.meta.ask(bucket.group, &query).await {
            Ok(NamespaceAnswer::Object(object)) => Ok(*object),
            Ok(_) => Err(internal("answer to a head query")),
            Err(error) => Err(self.explain(bucket, error).await),
        }
    }

    /// How a bucket treats versions; as of now.
    pub async fn version_rules(&self, bucket: &str) -> Result<VersionRules, GridError> {
        let bucket = self.core.map.bucket(bucket).await?;
        let query = NamespaceQuery::Rules { bucket: bucket.id };
        match self.core.meta.ask(bucket.group, &query).await {
            Ok(NamespaceAnswer::Rules(rules)) => Ok(convert::rules(rules)),
            Ok(_) => Err(internal("answer to a query for rules")),
            Err(error) => Err(self.explain(&bucket, error).await),
        }
    }

    /// Changes how a bucket treats versions: what is written from now on is treated so.
    pub async fn set_version_rules(
        &self,
        bucket: &str,
        change: RulesChange,
    ) -> Result<(), GridError> {
        let bucket = self.core.map.bucket(bucket).await?;
        let change = convert::rules_change_row(change);
        let command = NamespaceCommand::SetRules { bucket: bucket.id, change };
        match self.core.meta.command(bucket.group, &command).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain(&bucket, error).await),
        }
    }

    /// Deletes objects or versions of a bucket; one result each, in order.
    pub async fn delete_versions(
        &self,
        bucket: &str,
        deletes: Vec<VersionDelete>,
    ) -> Result<Vec<Result<DeleteOutcome, GridError>>, GridError> {
        if deletes.len() > limits::DELETE_KEYS_MAX {
            return Err(GridError::InvalidArgument("too many keys".to_owned()));
        }
        let bucket = self.named(bucket).await?;
        let mut results = Vec::with_capacity(deletes.len());
        for chunk in deletes.chunks(meta_limits::VERSION_DELETES_MAX) {
            results.extend(self.delete_chunk(&bucket, chunk).await?);
        }
        Ok(results)
    }

    async fn delete_chunk(
        &self,
        bucket: &Bucket,
        chunk: &[VersionDelete],
    ) -> Result<Vec<Result<DeleteOutcome, GridError>>, GridError> {
        let mut rows = Vec::with_capacity(chunk.len());
        let mut refused: Vec<Option<GridError>> = Vec::with_capacity(chunk.len());
        for delete in chunk {
            let row = if delete.key.is_empty() || delete.key.len() > limits::KEY_BYTES_MAX {
                Err(GridError::KeyTooLong)
            } else {
                self.delete_condition(bucket, delete).await
            };
            let row = row.map(|precondition| row::DeleteVersion {
                key: delete.key.as_bytes().to_vec(),
                version: delete.version.map(convert::version_row),
                precondition,
                bypass: delete.bypass,
            });
            refused.push(match row {
                Ok(row) => {
                    rows.push(row);
                    None
                }
                Err(error) => Some(error),
            });
        }
        let command = NamespaceCommand::DeleteVersions {
            bucket: bucket.id,
            deletes: rows,
            now_ms: self.core.meta.now_ms(),
        };
        let mut done = match self.core.meta.command(bucket.group, &command).await {
            Ok(NamespaceOk::VersionsDeleted(done)) => done.into_iter(),
            Ok(_) => return Err(internal("reply to a delete")),
            Err(error) => return Err(self.explain(bucket, error).await),
        };
        let mut outcome = |refused: Option<GridError>| {
            if let Some(error) = refused {
                return Err(error);
            }
            match done.next() {
                Some(Ok(deleted)) => Ok(DeleteOutcome {
                    version: deleted.version.map(convert::version_name),
                    is_marker: deleted.is_marker,
                }),
                Some(Err(error)) => Err(MetaError::Namespace(error).into()),
                None => Err(internal("reply to a delete")),
            }
        };
        Ok(refused.into_iter().map(&mut outcome).collect())
    }

    /// The condition of a deletion: on the version that is named, or on the current object.
    async fn delete_condition(
        &self,
        bucket: &Bucket,
        delete: &VersionDelete,
    ) -> Result<row::Precondition, GridError> {
        if let Some(expected) = &delete.expected {
            return Ok(row::Precondition::IfAny(row::Expected {
                etag: expected.etag.clone(),
                size: expected.size,
                modified_s: expected.modified.map(|time| time.0 / 1000),
            }));
        }
        let Some(version) = delete.version else {
            return self.condition(bucket, &delete.key, &delete.precondition).await;
        };
        if delete.precondition == Default::default() {
            return Ok(row::Precondition::None);
        }
        let found = match self.find_version(bucket, &delete.key, Some(version)).await {
            Ok(object) => Some(object),
            Err(GridError::NoSuchVersion | GridError::DeleteMarker { .. }) => None,
            Err(error) => return Err(error),
        };
        let etag = found.as_ref().map(|object| object.meta.etag.as_str());
        if convert::satisfies(&delete.precondition, etag) {
            Ok(convert::condition_row(&delete.precondition, etag))
        } else {
            Err(GridError::PreconditionFailed)
        }
    }

    /// Changes tags, retention or hold of a version; without a name of the current one. Gives the
    /// version that was changed, `None` if the bucket never kept any.
    pub async fn change_version(
        &self,
        bucket: &str,
        key: &str,
        version: Option<VersionName>,
        change: VersionChange,
    ) -> Result<Option<VersionName>, GridError> {
        let place = self.place(bucket, key).await?;
        let change = match change {
            VersionChange::Tags(tags) => row::VersionChange::Tags(tags),
            VersionChange::Retention { retention, bypass } => row::VersionChange::Retention {
                retention: retention.map(convert::retention_row),
                bypass,
            },
            VersionChange::LegalHold(held) => row::VersionChange::LegalHold(held),
            VersionChange::Acl(acl) => row::VersionChange::Acl(acl),
        };
        let command = NamespaceCommand::ChangeVersion {
            version: version_ref(&place, key, version),
            change,
            now_ms: self.core.meta.now_ms(),
        };
        match self.core.meta.command(place.group, &command).await {
            Ok(NamespaceOk::VersionChanged(version)) => Ok(version.map(convert::version_name)),
            Ok(_) => Err(internal("reply to a change of a version")),
            Err(error) => Err(self.explain(&place, error).await),
        }
    }

    /// A page of versions and delete markers.
    pub async fn list_versions(
        &self,
        request: ListVersionsRequest,
    ) -> Result<VersionsPage, GridError> {
        let bucket = self.core.map.bucket(&request.bucket).await?;
        let delimiter = request.delimiter.filter(|delimiter| !delimiter.is_empty());
        if request.max == 0 {
            return Ok(VersionsPage::default());
        }
        let after = request.after.map(|(key, version)| {
            match (convert::folded_at(&key, &request.prefix, delimiter.as_deref()), version) {
                (Some(folded), _) => VersionsAfter::Prefix(folded.into()),
                (None, None) => VersionsAfter::Key(key.into_bytes()),
                (None, Some(version)) => {
                    VersionsAfter::Version(key.into_bytes(), convert::version_row(version))
                }
            }
        });
        let (prefix, delimiter) = (request.prefix.into_bytes(), delimiter.map(String::into_bytes));
        let limit = request.max.min(limits::LIST_PAGE_MAX);
        let query = |after| NamespaceQuery::ListVersions {
            bucket: bucket.id,
            prefix: prefix.clone(),
            delimiter: delimiter.clone(),
            after,
            limit,
        };
        let mut query_now = query(after);
        let listing = loop {
            let listing = match self.core.meta.ask(bucket.group, &query_now).await {
                Ok(NamespaceAnswer::Versions(listing)) => listing,
                Ok(_) => return Err(internal("answer to a listing of versions")),
                Err(error) => return Err(self.explain(&bucket, error).await),
            };
            // Without a line: so much was passed over that is no object.
            match listing.next {
                Some(next) if listing.entries.is_empty() => query_now = query(Some(next)),
                next => break VersionListing { next, ..listing },
            }
        };
        let name = |version: Option<row::VersionId>| {
            version.map_or(VersionName::Null, convert::version_name)
        };
        let mut page = VersionsPage::default();
        for entry in listing.entries {
            match entry {
                VersionEntry::Object { key, object, is_latest } => {
                    page.versions.push(VersionSummary {
                        version: name(object.version),
                        object: convert::version_summary(key, *object),
                        is_latest,
                    });
                }
                VersionEntry::Marker { key, marker, is_latest } => {
                    page.markers.push(MarkerSummary {
                        key: convert::text(&key),
                        version: name(marker.version),
                        last_modified: nexusgrid_env::UnixMillis(marker.modified_ms),
                        is_latest,
                    });
                }
                VersionEntry::Prefix(prefix) => page.prefixes.push(convert::text(&prefix)),
            }
        }
        page.next = listing.next.map(|next| match next {
            VersionsAfter::Version(key, version) => {
                (convert::text(&key), Some(convert::version_name(version)))
            }
            VersionsAfter::Key(key) | VersionsAfter::Prefix(key) => (convert::text(&key), None),
        });
        Ok(page)
    }
}
