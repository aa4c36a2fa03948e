//! The storage classes of the grid, by the names that clients give them.
//!
//! | class | small contents | large contents |
//! |---|---|---|
//! | `STANDARD` | copies | the code that the number of hosts allows |
//! | `REDUCED_REDUNDANCY` | the same: S3 still knows the name, nothing is kept worse for it | the same |
//! | `REPLICATED` | copies | copies |

use nexusgrid_meta::namespace::types::StorageClass;

use crate::stripe::BlockKind;

/// The class whose contents all lie in copies.
pub const REPLICATED: &str = "REPLICATED";

/// A class by its name; `None`: there is none of that name here.
pub fn parse(name: &str) -> Option<StorageClass> {
    match name {
        "STANDARD" => Some(StorageClass::Standard),
        "REDUCED_REDUNDANCY" => Some(StorageClass::ReducedRedundancy),
        REPLICATED => Some(StorageClass::Named(REPLICATED.to_owned())),
        _ => None,
    }
}

/// A class's name.
pub fn name(class: &StorageClass) -> &str {
    match class {
        StorageClass::Standard => "STANDARD",
        StorageClass::ReducedRedundancy => "REDUCED_REDUNDANCY",
        StorageClass::Named(name) => name,
    }
}

/// Whether large contents of a class lie in copies.
pub(crate) fn is_copies(class: &StorageClass) -> bool {
    name(class) == REPLICATED
}

/// The blocks that large contents of a class go to; without a name of the first class.
pub(crate) fn block_kind(class: Option<&str>) -> BlockKind {
    if class == Some(REPLICATED) { BlockKind::Pack } else { BlockKind::Large }
}
