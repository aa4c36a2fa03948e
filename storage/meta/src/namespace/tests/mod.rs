//! Tests of the namespace machine against reference models, and of its encodings and bounds.

mod append;
mod bounds;
mod due;
mod ends;
mod expected;
mod golden;
mod lifecycle;
mod listing;
mod model;
mod posix;
mod posix_bounds;
mod posix_compare;
mod posix_kept;
mod posix_locks;
mod posix_long;
mod posix_ops;
mod posix_rights;
mod posix_tree;
mod posix_versions;
mod restore;
mod rewrite;
mod sequences;
mod sessions;
mod staged;
mod support;
mod versions;
