//! What an operation did, as its output tells: for those who are told of it besides its client.

use std::any::Any;

use s3s::dto::DeleteObjectsOutput;

use crate::auth::RequestNotes;

/// Notes what the access log says of each object of a request that is about several.
pub(super) fn note<T: Any>(notes: &RequestNotes, output: &T) {
    if notes.asked.get().is_none() {
        return;
    }
    let output: &dyn Any = output;
    if let Some(output) = output.downcast_ref::<DeleteObjectsOutput>() {
        let mut several = notes.several.lock();
        for deleted in output.deleted.iter().flatten() {
            let version =
                deleted.version_id.clone().or_else(|| deleted.delete_marker_version_id.clone());
            several.push((deleted.key.clone().unwrap_or_default(), version, None));
        }
        for error in output.errors.iter().flatten() {
            let key = error.key.clone().unwrap_or_default();
            several.push((key, error.version_id.clone(), error.code.clone()));
        }
    }
}
