//! Identities: accounts and what is in them, kept as records of the root group.
//!
//! [`entities`] says what there is, [`directory`] makes principals of it, [`session`] temporary
//! ones. [`api`] is the AWS IAM's interface to them, [`sts`] the STS'; [`route`] the way in.

pub mod accounts;
mod administer;
pub mod api;
pub mod directory;
pub mod entities;
pub mod managed;
pub mod oidc;
pub(crate) mod route;
pub mod session;
pub mod sts;
mod web_identity;

pub use directory::{Accounts, Directory, DirectoryError};
