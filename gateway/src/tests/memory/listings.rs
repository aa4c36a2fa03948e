//! Listings: of objects, of versions, of uploads.

use nexusgrid_grid::*;

use super::state::{State, Stored, summary};

impl State {
    pub(super) fn list(&self, request: ListRequest) -> Result<ListPage, GridError> {
        self.bucket(&request.bucket)?;
        let mut page = ListPage::default();
        let mut last: Option<String> = None;
        for ((bucket, key), versions) in &self.objects {
            let stored = &versions[0];
            if stored.is_marker {
                continue;
            }
            let Some(rest) = key.strip_prefix(&request.prefix) else { continue };
            if *bucket != request.bucket {
                continue;
            }
            let folded = request.delimiter.as_ref().and_then(|delimiter| {
                let at = rest.find(delimiter.as_str())?;
                Some(key[..request.prefix.len() + at + delimiter.len()].to_owned())
            });
            let name = folded.clone().unwrap_or_else(|| key.clone());
            // A prefix that holds the start is not greater than it: it is left out.
            if request.after.as_ref().is_some_and(|after| name <= *after)
                || page.prefixes.last() == Some(&name)
            {
                continue;
            }
            if page.objects.len() + page.prefixes.len() == request.max as usize {
                page.next = last;
                break;
            }
            last = Some(name);
            match folded {
                Some(prefix) => page.prefixes.push(prefix),
                None => page.objects.push(summary(stored)),
            }
        }
        Ok(page)
    }

    pub(super) fn list_versions(
        &self,
        request: ListVersionsRequest,
    ) -> Result<VersionsPage, GridError> {
        self.bucket(&request.bucket)?;
        let mut page = VersionsPage::default();
        let mut last = None;
        let mut count = 0;
        for ((bucket, key), versions) in &self.objects {
            let Some(rest) = key.strip_prefix(&request.prefix) else { continue };
            if *bucket != request.bucket {
                continue;
            }
            let folded = request.delimiter.as_ref().and_then(|delimiter| {
                let at = rest.find(delimiter.as_str())?;
                Some(key[..request.prefix.len() + at + delimiter.len()].to_owned())
            });
            let shown = folded.clone().unwrap_or_else(|| key.clone());
            let mut skip = 0;
            match &request.after {
                Some((after, _)) if shown < *after => continue,
                Some((after, Some(version))) if shown == *after => {
                    let at = |stored: &Stored| {
                        stored.info.version_name.unwrap_or(VersionName::Null) == *version
                    };
                    skip = versions.iter().position(at).map_or(0, |at| at + 1);
                }
                Some((after, None)) if shown == *after => continue,
                _ => {}
            }
            if page.prefixes.last() == Some(&shown) {
                continue;
            }
            for (at, stored) in versions.iter().enumerate().skip(skip) {
                if count == request.max as usize {
                    page.next = last;
                    return Ok(page);
                }
                count += 1;
                if folded.is_some() {
                    page.prefixes.push(shown.clone());
                    last = Some((shown, None));
                    break;
                }
                let version = stored.info.version_name.unwrap_or(VersionName::Null);
                last = Some((key.clone(), Some(version)));
                let (is_latest, last_modified) = (at == 0, stored.info.last_modified);
                if stored.is_marker {
                    let key = key.clone();
                    page.markers.push(MarkerSummary { key, version, last_modified, is_latest });
                } else {
                    let object = summary(stored);
                    page.versions.push(VersionSummary { object, version, is_latest });
                }
            }
        }
        Ok(page)
    }

    pub(super) fn list_uploads(
        &self,
        request: ListUploadsRequest,
    ) -> Result<UploadsPage, GridError> {
        self.bucket(&request.bucket)?;
        let mut page = UploadsPage::default();
        for ((bucket, key, id), upload) in &self.uploads {
            let after = match &request.after {
                None => true,
                Some((marker, None)) => key > marker,
                Some((marker, Some(upload))) => (key, id) > (marker, &upload.0),
            };
            if *bucket != request.bucket || !key.starts_with(&request.prefix) || !after {
                continue;
            }
            let rest = &key[request.prefix.len()..];
            if let Some(delimiter) = &request.delimiter
                && let Some(at) = rest.find(delimiter.as_str())
            {
                let folded = key[..request.prefix.len() + at + delimiter.len()].to_owned();
                if page.prefixes.last() != Some(&folded) {
                    page.prefixes.push(folded);
                }
                continue;
            }
            if page.uploads.len() == request.max as usize {
                let last = page.uploads.last().expect("max is not zero");
                page.next = Some((last.key.clone(), last.upload.clone()));
                break;
            }
            page.uploads.push(upload.info.clone());
        }
        Ok(page)
    }

    pub(super) fn list_parts(
        &mut self,
        bucket: &str,
        key: &str,
        upload: &UploadId,
        after: Option<u32>,
        max: u32,
    ) -> Result<PartsPage, GridError> {
        let upload = self.upload(bucket, key, upload)?;
        let mut parts: Vec<PartInfo> = upload
            .parts
            .range(after.map_or(0, |after| after + 1)..)
            .take(max as usize + 1)
            .map(|(_, (info, _))| info.clone())
            .collect();
        let more = parts.len() > max as usize;
        parts.truncate(max as usize);
        let next = parts.last().map(|part| part.number).filter(|_| more);
        Ok(PartsPage { upload: upload.info.clone(), parts, next })
    }
}
