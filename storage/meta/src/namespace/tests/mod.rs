//! Tests of the namespace machine against reference models, and of its encodings and bounds.

mod bounds;
mod expected;
mod golden;
mod lifecycle;
mod listing;
mod model;
mod restore;
mod rewrite;
mod sequences;
mod sessions;
mod staged;
mod support;
mod versions;
