//! Commands for users, groups, roles, policies and identity providers.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::NodeDir;

/// Whose identities.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// The account, as `account ls` shows it.
    #[arg(long, env = "NEXUSGRID_ACCOUNT", default_value = "000000000001")]
    pub account: String,
    /// The node's directory.
    #[command(flatten)]
    pub node: NodeDir,
}

/// An identity by its name.
#[derive(Clone, Debug, Args)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Where it is.
    #[command(flatten)]
    pub place: Place,
}

/// Policies of a user, a group or a role.
#[derive(Debug, Subcommand)]
pub enum HeldCommand {
    /// Attach a managed policy.
    Attach {
        /// Its name.
        name: String,
        /// The policy, by name or ARN, such as AmazonS3ReadOnlyAccess.
        policy: String,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Detach a managed policy.
    Detach {
        /// Its name.
        name: String,
        /// The policy, by name or ARN.
        policy: String,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Put a policy of its own into it.
    PutPolicy {
        /// Its name.
        name: String,
        /// The policy's name.
        policy: String,
        /// A file with the document, JSON; default: the standard input.
        file: Option<PathBuf>,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Print a policy of its own.
    GetPolicy {
        /// Its name.
        name: String,
        /// The policy's name.
        policy: String,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Remove a policy of its own.
    DeletePolicy {
        /// Its name.
        name: String,
        /// The policy's name.
        policy: String,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
}

/// Users.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// List them.
    Ls(Place),
    /// Make one: it may do nothing yet.
    Create {
        /// Its name.
        name: String,
        /// Begins and ends with a slash; policies may speak of all users under it.
        #[arg(long, default_value = "/")]
        path: String,
        /// Also an access key; its secret is shown this once.
        #[arg(long)]
        key: bool,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Show one: its groups, policies and keys.
    Show(Named),
    /// Remove one that has no keys and no policies.
    Delete(Named),
    /// Bound what one may do at most, whatever its policies say; without a policy: no more.
    Boundary {
        /// Its name.
        name: String,
        /// The policy, by ARN.
        policy: Option<String>,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Its access keys.
    #[command(subcommand)]
    Key(UserKeyCommand),
    /// Its policies.
    #[command(flatten)]
    Held(HeldCommand),
}

/// Access keys of a user.
#[derive(Debug, Subcommand)]
pub enum UserKeyCommand {
    /// List them, without secrets.
    Ls(Named),
    /// Make one; its secret is shown this once.
    Create(Named),
    /// Remove one.
    Delete(OfUser),
    /// Switch one off.
    Disable(OfUser),
    /// Switch one on again.
    Enable(OfUser),
}

/// A key of a user.
#[derive(Clone, Debug, Args)]
pub struct OfUser {
    /// The user's name.
    pub name: String,
    /// The key's id.
    pub key: String,
    /// Where it is.
    #[command(flatten)]
    pub place: Place,
}

/// Groups.
#[derive(Debug, Subcommand)]
pub enum GroupCommand {
    /// List them.
    Ls(Place),
    /// Make one.
    Create {
        /// Its name.
        name: String,
        /// Begins and ends with a slash.
        #[arg(long, default_value = "/")]
        path: String,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Show one: its users and policies.
    Show(Named),
    /// Remove one without users and policies.
    Delete(Named),
    /// Put users into it.
    Add {
        /// Its name.
        name: String,
        /// The users.
        #[arg(required = true)]
        users: Vec<String>,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Take users out of it.
    Remove {
        /// Its name.
        name: String,
        /// The users.
        #[arg(required = true)]
        users: Vec<String>,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Its policies.
    #[command(flatten)]
    Held(HeldCommand),
}

/// Roles.
#[derive(Debug, Subcommand)]
pub enum RoleCommand {
    /// List them.
    Ls(Place),
    /// Make one.
    Create {
        /// Its name.
        name: String,
        /// A file with the policy of who may take it on, JSON; default: the standard input.
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
        /// Begins and ends with a slash.
        #[arg(long, default_value = "/")]
        path: String,
        /// Longest session, seconds.
        #[arg(long, default_value_t = 3600)]
        max_session: u32,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Show one: who may take it on, and its policies.
    Show(Named),
    /// Remove one without policies; its sessions end.
    Delete(Named),
    /// Change who may take it on.
    Trust {
        /// Its name.
        name: String,
        /// A file with the policy, JSON; default: the standard input.
        file: Option<PathBuf>,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Its policies.
    #[command(flatten)]
    Held(HeldCommand),
}

/// Managed policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// List them.
    Ls {
        /// Also those that every account has.
        #[arg(long)]
        all: bool,
        /// Where they are.
        #[command(flatten)]
        place: Place,
    },
    /// Make one.
    Create {
        /// Its name.
        name: String,
        /// A file with the document, JSON; default: the standard input.
        file: Option<PathBuf>,
        /// Begins and ends with a slash.
        #[arg(long, default_value = "/")]
        path: String,
        /// What it is for.
        #[arg(long)]
        description: Option<String>,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Show one: its document, and who has it.
    Show(Named),
    /// Give it another document; the older ones stay until there are five.
    Update {
        /// Its name.
        name: String,
        /// A file with the document, JSON; default: the standard input.
        file: Option<PathBuf>,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Remove one that is attached to nothing, with its older documents.
    Delete(Named),
}

/// Identity providers: who holds a token of one may get a session.
#[derive(Debug, Subcommand)]
pub enum ProviderCommand {
    /// List them.
    Ls(Place),
    /// Name an OpenID Connect provider, for roles to trust.
    Create {
        /// Its URL, as its tokens say.
        url: String,
        /// An audience that its tokens may be for. May be repeated.
        #[arg(long = "client", value_name = "ID", required = true)]
        clients: Vec<String>,
        /// The claim of its tokens that names policies, for sessions without a role.
        #[arg(long, value_name = "CLAIM")]
        policy_claim: Option<String>,
        /// The claim of its tokens that names groups, for sessions without a role.
        #[arg(long, value_name = "CLAIM")]
        group_claim: Option<String>,
        /// Where it is.
        #[command(flatten)]
        place: Place,
    },
    /// Show one.
    Show(Named),
    /// Remove one; sessions that are by its tokens alone end.
    Delete(Named),
}
