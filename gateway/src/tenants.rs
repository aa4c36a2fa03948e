//! Names of tenants before names of buckets, `TENANT:bucket`, as clients of Ceph say them: taken
//! where an administrator has them be.
//!
//! All buckets of a grid have one space of names. A tenant's name finds nothing that the bucket's
//! does not: it says whose the bucket must be, by the name of its owner's account; nothing before the
//! colon says nothing. No bucket's own name has a colon.

use s3s::path::S3Path;
use s3s::validation::{AwsNameValidation, NameValidation};

/// The tenant's name, and the bucket's.
pub(crate) fn split(name: &str) -> (Option<&str>, &str) {
    match name.split_once(':') {
        Some((tenant, bucket)) => (Some(tenant), bucket),
        None => (None, name),
    }
}

/// Takes the tenant's name away.
pub(crate) fn strip(name: &mut String) {
    if let (Some(_), bucket) = split(name) {
        *name = bucket.to_owned();
    }
}

/// The tenant that a path names, and the path without it; `None`: it names none.
pub(crate) fn of_path(path: &S3Path) -> Option<(&str, S3Path)> {
    let (Some(tenant), bucket) = split(path.get_bucket_name()?) else { return None };
    let plain = match path.get_object_key() {
        Some(key) => S3Path::object(bucket, key),
        None => S3Path::bucket(bucket),
    };
    Some((tenant, plain))
}

/// Names of buckets as S3 has them, behind a tenant's or not.
pub(crate) struct Names;

impl NameValidation for Names {
    fn validate_bucket_name(&self, name: &str) -> bool {
        let (_, bucket) = split(name);
        AwsNameValidation::new().validate_bucket_name(bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_may_name_a_tenant() {
        assert_eq!(of_path(&S3Path::root()), None);
        assert_eq!(of_path(&S3Path::object("bucket", "a:b")), None);
        assert_eq!(of_path(&S3Path::bucket(":bucket")), Some(("", S3Path::bucket("bucket"))));
        let named = S3Path::object("ann:bucket", "a:b");
        assert_eq!(of_path(&named), Some(("ann", S3Path::object("bucket", "a:b"))));
        for (name, is_one) in [("ann:bucket", true), ("ann:", false), ("a:b:bucket", false)] {
            assert_eq!(Names.validate_bucket_name(name), is_one, "{name}");
        }
    }
}
