//! Pages that a web site's visitors see where it has none of its own.

use http::{HeaderValue, Response, StatusCode, header};

/// Text as part of a page.
fn escaped(text: &str) -> String {
    let mut page = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            '\'' => page.push_str("&#39;"),
            letter => page.push(letter),
        }
    }
    page
}

/// The text of an XML element.
pub(super) fn unescaped(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    text.replace("&apos;", "'").replace("&#39;", "'").replace("&amp;", "&")
}

/// S3's code for an answer that has no body to say it in.
pub(super) fn usual_code(status: StatusCode) -> &'static str {
    match status {
        StatusCode::FORBIDDEN => "AccessDenied",
        StatusCode::NOT_FOUND => "NoSuchKey",
        StatusCode::PRECONDITION_FAILED => "PreconditionFailed",
        StatusCode::RANGE_NOT_SATISFIABLE => "InvalidRange",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        status if status.is_client_error() => "InvalidRequest",
        _ => "InternalError",
    }
}

fn page(status: StatusCode, lines: &[(&str, &str)]) -> Response<s3s::Body> {
    let title = escaped(&status.to_string());
    let lines = lines.iter().filter(|(_, value)| !value.is_empty());
    let lines: String =
        lines.map(|(name, value)| format!("<li>{name}: {}</li>\n", escaped(value))).collect();
    let text = format!(
        "<html>\n<head><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n<ul>\n{lines}</ul>\n\
         <hr/>\n</body>\n</html>\n"
    );
    let mut reply = Response::new(s3s::Body::from(text));
    *reply.status_mut() = status;
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    reply
}

/// Says what went wrong.
pub(super) fn error_page(
    status: StatusCode,
    (code, message): (&str, &str),
    key: &str,
    id: &str,
) -> Response<s3s::Body> {
    // Which keys are not there is told where S3 tells it.
    let key = if code == "NoSuchKey" { key } else { "" };
    page(status, &[("Code", code), ("Message", message), ("Key", key), ("RequestId", id)])
}

/// Sends a visitor elsewhere.
pub(super) fn redirect_page(status: StatusCode, to: &str, id: &str) -> Response<s3s::Body> {
    let Ok(location) = HeaderValue::from_str(to) else {
        let told = ("InternalError", "The redirect leads nowhere.");
        return error_page(StatusCode::INTERNAL_SERVER_ERROR, told, "", id);
    };
    let mut reply = page(status, &[("RequestId", id)]);
    reply.headers_mut().insert(header::LOCATION, location);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_visitors_ask_for_is_no_part_of_the_page() {
        let script = "<script>alert('x')</script>&\"";
        let reply = error_page(StatusCode::NOT_FOUND, ("NoSuchKey", "m"), script, "1");
        let text = String::from_utf8(reply.body().bytes().unwrap().to_vec()).unwrap();
        assert!(!text.contains("<script>"), "{text}");
        assert_eq!(unescaped(&escaped(script)), script);
    }

    #[test]
    fn a_redirect_has_no_line_breaks() {
        let reply = redirect_page(StatusCode::FOUND, "/a\r\nx: y", "1");
        assert_eq!(reply.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(reply.headers().get("location").is_none());
    }
}
