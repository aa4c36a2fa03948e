//! One request as a line of S3's server access log.

use std::fmt::Write as _;

use nexusgrid_iam::time;

/// What a line says; `None` is written as `-`.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// Canonical id of the bucket's owner.
    pub owner: String,
    /// The bucket.
    pub bucket: String,
    /// When the request came, ms since 1970.
    pub unix_ms: u64,
    /// The other end of the connection.
    pub peer: Option<String>,
    /// The caller's ARN; `None`: anonymous.
    pub requester: Option<String>,
    /// The request's id.
    pub request_id: String,
    /// `REST.GET.OBJECT` and the like.
    pub operation: String,
    /// The object's key.
    pub key: Option<String>,
    /// The request line, without secrets.
    pub request_line: Option<String>,
    /// The HTTP status; `None` in lines about one of several objects.
    pub status: Option<u16>,
    /// S3's error code.
    pub error: Option<String>,
    /// Bytes of the reply's body.
    pub sent: u64,
    /// Bytes of the object.
    pub size: Option<u64>,
    /// From the request's head to the reply's end.
    pub total_ms: Option<u64>,
    /// Until the reply began.
    pub turnaround_ms: Option<u64>,
    /// Referer.
    pub referer: Option<String>,
    /// User-Agent.
    pub user_agent: Option<String>,
    /// The version that was named or made.
    pub version: Option<String>,
    /// How the request was signed.
    pub signature: Option<&'static str>,
    /// Where the signature was.
    pub auth_type: Option<&'static str>,
    /// Host.
    pub host: Option<String>,
    /// Whether it was an access control list that let the caller in.
    pub acl_required: bool,
}

impl Entry {
    /// Adds the line.
    pub fn write(&self, out: &mut String) {
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        word(out, Some(&self.owner));
        word(out, Some(&self.bucket));
        let _ = write!(out, "[{}] ", time::written(self.unix_ms, "%d/%b/%Y:%H:%M:%S +0000"));
        word(out, self.peer.as_deref());
        word(out, self.requester.as_deref());
        word(out, Some(&self.request_id));
        word(out, Some(&self.operation));
        word(out, self.key.as_deref());
        quoted(out, self.request_line.as_deref());
        word(out, self.status.map(|status| status.to_string()).as_deref());
        word(out, self.error.as_deref());
        word(out, Some(self.sent).filter(|sent| *sent > 0).map(|sent| sent.to_string()).as_deref());
        word(out, number(self.size).as_deref());
        word(out, number(self.total_ms).as_deref());
        word(out, number(self.turnaround_ms).as_deref());
        quoted(out, self.referer.as_deref());
        quoted(out, self.user_agent.as_deref());
        word(out, self.version.as_deref());
        // Host id.
        word(out, None);
        word(out, self.signature);
        // Cipher suite.
        word(out, None);
        word(out, self.auth_type);
        word(out, self.host.as_deref());
        // TLS version, access point.
        word(out, None);
        word(out, None);
        out.push_str(if self.acl_required { "Yes\n" } else { "-\n" });
    }
}

/// A field without quotes: what would end it, or the line, is written in hexadecimal.
fn word(out: &mut String, text: Option<&str>) {
    match text {
        None | Some("") => out.push('-'),
        Some(text) => escaped(out, text, |byte| byte <= b' ' || byte == b'"' || byte >= 0x7f),
    }
    out.push(' ');
}

fn quoted(out: &mut String, text: Option<&str>) {
    match text {
        None | Some("") => out.push('-'),
        Some(text) => {
            out.push('"');
            escaped(out, text, |byte| byte < b' ' || byte == b'"' || byte >= 0x7f);
            out.push('"');
        }
    }
    out.push(' ');
}

fn escaped(out: &mut String, text: &str, odd: impl Fn(u8) -> bool) {
    for byte in text.bytes() {
        if odd(byte) {
            let _ = write!(out, "%{byte:02X}");
        } else {
            out.push(char::from(byte));
        }
    }
}

/// A request's path and query without what it could be repeated with.
pub fn without_secrets(path_and_query: &str) -> String {
    let Some((path, query)) = path_and_query.split_once('?') else {
        return path_and_query.to_owned();
    };
    let is_secret = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        ["X-Amz-Signature", "X-Amz-Security-Token", "Signature"]
            .iter()
            .any(|it| name.eq_ignore_ascii_case(it))
    };
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_secret(pair)).collect();
    if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) }
}

/// As S3's log names an operation.
pub fn operation_name(operation: &str, method: &str) -> String {
    let resource = match operation {
        "PutObject" | "GetObject" | "HeadObject" | "DeleteObject" | "PostObject" => "OBJECT",
        "CopyObject" => return "REST.COPY.OBJECT".to_owned(),
        "UploadPartCopy" => return "REST.COPY.PART".to_owned(),
        "UploadPart" => "PART",
        "CreateMultipartUpload" | "ListMultipartUploads" => "UPLOADS",
        "CompleteMultipartUpload" | "AbortMultipartUpload" | "ListParts" => "UPLOAD",
        "DeleteObjects" => "MULTI_OBJECT_DELETE",
        "ListObjects" | "ListObjectsV2" | "CreateBucket" | "DeleteBucket" | "HeadBucket" => {
            "BUCKET"
        }
        "ListObjectVersions" => "BUCKETVERSIONS",
        "GetObjectAttributes" => "OBJECT_ATTRIBUTES",
        "GetBucketAcl" | "PutBucketAcl" | "GetObjectAcl" | "PutObjectAcl" => "ACL",
        "GetObjectTagging" | "PutObjectTagging" | "DeleteObjectTagging" => "OBJECT_TAGGING",
        "GetObjectRetention" | "PutObjectRetention" => "RETENTION",
        "GetObjectLegalHold" | "PutObjectLegalHold" => "LEGAL_HOLD",
        "GetObjectLockConfiguration" | "PutObjectLockConfiguration" => "OBJECT_LOCK",
        "GetBucketLogging" | "PutBucketLogging" => "LOGGING_STATUS",
        "GetBucketRequestPayment" | "PutBucketRequestPayment" => "REQUEST_PAYMENT",
        other => {
            let verbs = ["Get", "Put", "Delete", "List", "Head"];
            let name = verbs.iter().find_map(|verb| other.strip_prefix(verb)).unwrap_or(other);
            let name = name.strip_prefix("Bucket").unwrap_or(name);
            let name = name.strip_suffix("Configuration").unwrap_or(name);
            return format!("REST.{method}.{}", name.to_ascii_uppercase());
        }
    };
    format!("REST.{method}.{resource}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_all_fields_and_no_way_out_of_them() {
        let entry = Entry {
            owner: "o".into(),
            bucket: "b".into(),
            unix_ms: 1_795_378_500_000,
            request_id: "ID".into(),
            operation: operation_name("GetObject", "GET"),
            key: Some("a b\n\"c\u{e9}".into()),
            request_line: Some("GET /b/a \"x\" HTTP/1.1".into()),
            status: Some(200),
            sent: 5,
            size: Some(5),
            user_agent: Some("u\r\nv".into()),
            auth_type: Some("AuthHeader"),
            ..Entry::default()
        };
        let mut line = String::new();
        entry.write(&mut line);
        assert_eq!(
            line,
            "o b [22/Nov/2026:20:15:00 +0000] - - ID REST.GET.OBJECT a%20b%0A%22c%C3%A9 \
             \"GET /b/a %22x%22 HTTP/1.1\" 200 - 5 5 - - - \"u%0D%0Av\" - - - - AuthHeader - - - -\n"
        );
    }

    #[test]
    fn signatures_are_not_kept() {
        let line = "/b/k?X-Amz-Date=1&X-Amz-Signature=s&x-amz-security-token=t&versionId=v";
        assert_eq!(without_secrets(line), "/b/k?X-Amz-Date=1&versionId=v");
        assert_eq!(without_secrets("/b/k?X-Amz-Signature=s"), "/b/k");
        assert_eq!(operation_name("GetBucketTagging", "GET"), "REST.GET.TAGGING");
        let lifecycle = operation_name("PutBucketLifecycleConfiguration", "PUT");
        assert_eq!(lifecycle, "REST.PUT.LIFECYCLE");
    }
}
