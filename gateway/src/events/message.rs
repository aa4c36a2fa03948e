//! An event as S3 tells it: JSON, version 2.2 of its format.

use nexusgrid_iam::time;
use serde_json::{Value, json};

/// Something that happened to an object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Happened {
    /// `s3:ObjectCreated:Put` and the like.
    pub event: &'static str,
    /// The key.
    pub key: String,
    /// Bytes, of what was made.
    pub size: Option<u64>,
    /// Without quotes.
    pub etag: Option<String>,
    /// The version that was made or removed.
    pub version: Option<String>,
    /// The storage class that it was moved to.
    pub class: Option<String>,
    /// When, ms since 1970; `None`: now.
    pub at_ms: Option<u64>,
}

/// In whose name and where it happened.
#[derive(Clone, Debug)]
pub(crate) struct Scene<'a> {
    pub region: &'a str,
    pub bucket: &'a str,
    /// Canonical id of the bucket's owner.
    pub owner: &'a str,
    /// Id of the caller.
    pub principal: &'a str,
    pub source: Option<&'a str>,
    pub request_id: &'a str,
    pub unix_ms: u64,
    /// Grows with what one gateway tells.
    pub sequence: u64,
}

/// One record of the message.
pub(crate) fn record(happened: &Happened, configuration: &str, scene: &Scene<'_>) -> Value {
    let mut object = json!({
        "key": form_urlencoded::byte_serialize(happened.key.as_bytes()).collect::<String>(),
        "sequencer": format!("{:013X}{:08X}", scene.unix_ms, scene.sequence & 0xffff_ffff),
    });
    if let Some(object) = object.as_object_mut() {
        if let Some(size) = happened.size {
            object.insert("size".to_owned(), size.into());
        }
        if let Some(etag) = &happened.etag {
            object.insert("eTag".to_owned(), etag.as_str().into());
        }
        if let Some(version) = &happened.version {
            object.insert("versionId".to_owned(), version.as_str().into());
        }
    }
    let mut record = json!({
        "eventVersion": "2.2",
        "eventSource": "aws:s3",
        "awsRegion": scene.region,
        "eventTime": time::written(scene.unix_ms, "%Y-%m-%dT%H:%M:%S.%3fZ"),
        "eventName": happened.event.strip_prefix("s3:").unwrap_or(happened.event),
        "userIdentity": { "principalId": scene.principal },
        "requestParameters": { "sourceIPAddress": scene.source.unwrap_or("") },
        "responseElements": { "x-amz-request-id": scene.request_id },
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": configuration,
            "bucket": {
                "name": scene.bucket,
                "ownerIdentity": { "principalId": scene.owner },
                "arn": format!("arn:aws:s3:::{}", scene.bucket),
            },
            "object": object,
        },
    });
    if let Some(class) = &happened.class
        && let Some(fields) = record.as_object_mut()
    {
        let moved = json!({ "transitionEventData": { "destinationStorageClass": class } });
        fields.insert("lifecycleEventData".to_owned(), moved);
    }
    record
}

/// What a target is sent when a bucket begins to tell it.
pub(crate) fn test(scene: &Scene<'_>) -> Value {
    json!({
        "Service": "Amazon S3",
        "Event": "s3:TestEvent",
        "Time": time::written(scene.unix_ms, "%Y-%m-%dT%H:%M:%S.%3fZ"),
        "Bucket": scene.bucket,
        "RequestId": scene.request_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_as_s3_writes_them() {
        let happened = Happened {
            event: "s3:ObjectCreated:Put",
            key: "a b/\u{e9}".into(),
            size: Some(3),
            etag: Some("e".into()),
            version: None,
            ..Happened::default()
        };
        let scene = Scene {
            region: "r",
            bucket: "b",
            owner: "o",
            principal: "p",
            source: Some("10.0.0.1"),
            request_id: "ID",
            unix_ms: 1_795_378_500_007,
            sequence: 1,
        };
        let record = record(&happened, "c", &scene);
        assert_eq!(record["eventName"], "ObjectCreated:Put");
        assert_eq!(record["eventTime"], "2026-11-22T20:15:00.007Z");
        let object = json!({
            "key": "a+b%2F%C3%A9", "size": 3, "eTag": "e", "sequencer": "001A204D72F2700000001",
        });
        assert_eq!(record["s3"]["object"]["size"], object["size"]);
        assert_eq!(record["s3"]["object"]["key"], object["key"]);
        assert!(record["s3"]["object"].get("versionId").is_none());
        assert_eq!(record["s3"]["object"]["sequencer"].as_str().map(str::len), Some(21));
    }
}
