//! One call of the identity interface: who asks, with what, and how records change.

use nexusgrid_grid::{GridError, RecordWrite};
use nexusgrid_iam::policy::{Document, DocumentKind};
use nexusgrid_iam::{AccountId, Arns, Context, Principal, authorize_identity};

use super::error::ApiError;
use super::form::Form;
use crate::identity::DirectoryError;
use crate::identity::directory::{self, Directory, Read};
use crate::identity::entities::{Entity, Tags};
use crate::limits;

/// What an operation answers: the elements inside its result.
pub type Outcome = Result<super::xml::Xml, ApiError>;

/// A call, authenticated.
pub struct Call<'a> {
    /// Where identities are.
    pub directory: &'a Directory,
    /// Who asks.
    pub principal: &'a Principal,
    /// The caller's account: calls are about this one.
    pub account: AccountId,
    /// How ARNs are written and read.
    pub arns: Arns,
    /// The operation's name.
    pub action: &'a str,
    /// Its parameters.
    pub form: &'a Form,
    /// What policies may ask about.
    pub context: Context,
}

impl Call<'_> {
    /// Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.directory.now_ms()
    }

    /// Refuses unless the caller may do this to the identity of that ARN.
    pub fn allow(&self, arn: &str) -> Result<(), ApiError> {
        let action = format!("iam:{}", self.action);
        let decision =
            authorize_identity(self.principal, &action, arn, &self.context, self.now_ms());
        if decision.allowed() {
            return Ok(());
        }
        tracing::info!(key = %self.principal.key, action, arn, ?decision, "denied");
        Err(ApiError::denied(&self.principal.arn, &action))
    }

    /// Refuses unless the caller may do that to everything, and nothing bounds them: what is made
    /// by this call gives others rights that the caller's own bounds would not hold.
    pub fn allow_unbounded(&self, action: &str) -> Result<(), ApiError> {
        let (principal, now_ms) = (self.principal, self.now_ms());
        let bounded = principal.boundary.is_some() || !principal.session.is_empty();
        let decision = authorize_identity(principal, action, "*", &self.context, now_ms);
        if decision.allowed() && !bounded {
            return Ok(());
        }
        tracing::info!(key = %principal.key, action, bounded, ?decision, "denied");
        Err(ApiError::denied(&principal.arn, action))
    }

    /// The ARN of something of the caller's account.
    pub fn arn(&self, kind: &str, path: &str, name: &str) -> String {
        self.arns.write("iam", &self.account, &format!("{kind}{path}{name}"))
    }

    /// Reads an entity that must be there.
    pub async fn need<T: Entity>(&self, path: &str, name: &str) -> Result<Read<T>, ApiError> {
        let found = self.directory.read::<T>(path).await?;
        found.ok_or_else(|| ApiError::no_such(T::KIND, name))
    }

    /// Writes several records; `false` if another change came between.
    pub async fn commit(&self, writes: Vec<RecordWrite>) -> Result<bool, ApiError> {
        if !self.directory.may_change(self.account.as_str()) {
            let message = "Rate exceeded";
            return Err(ApiError::new("Throttling", http::StatusCode::BAD_REQUEST, message));
        }
        match self.directory.write(writes).await {
            Ok(()) => Ok(true),
            Err(DirectoryError::Grid(GridError::Conflict)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Changes one entity, again from what is there if another change came between.
    pub async fn change<T: Entity, R>(
        &self,
        path: &str,
        name: &str,
        mut change: impl FnMut(&mut T) -> Result<R, ApiError>,
    ) -> Result<R, ApiError> {
        for _ in 0..limits::CHANGE_TRIES_MAX {
            let Read { revision, mut value, .. } = self.need::<T>(path, name).await?;
            let result = change(&mut value)?;
            let write = directory::write(path.to_owned(), revision, &value)?;
            if self.commit(vec![write]).await? {
                return Ok(result);
            }
        }
        Err(ApiError::concurrent())
    }

    /// Makes an entity that must not be there.
    pub async fn create<T: Entity>(
        &self,
        path: String,
        name: &str,
        value: &T,
    ) -> Result<(), ApiError> {
        self.create_with(path, name, value, Vec::new()).await
    }

    /// The same, with other changes.
    pub async fn create_with<T: Entity>(
        &self,
        path: String,
        name: &str,
        value: &T,
        mut writes: Vec<RecordWrite>,
    ) -> Result<(), ApiError> {
        writes.push(directory::write(path.clone(), 0, value)?);
        if self.commit_counted(&path, 1, writes).await? {
            Ok(())
        } else if self.directory.read::<T>(&path).await?.is_some() {
            Err(ApiError::exists(T::KIND, name))
        } else {
            Err(ApiError::concurrent())
        }
    }

    /// Takes an entity away, with other changes.
    pub async fn remove(
        &self,
        path: String,
        revision: u64,
        mut writes: Vec<RecordWrite>,
    ) -> Outcome {
        writes.push(directory::remove(path.clone(), revision));
        if self.commit_counted(&path, -1, writes).await? {
            Ok(super::xml::Xml::default())
        } else {
            Err(ApiError::concurrent())
        }
    }

    /// A document of the form, checked.
    pub fn document(
        &self,
        parameter: &str,
        kind: DocumentKind<'_>,
        most: usize,
    ) -> Result<String, ApiError> {
        let text = self.form.need(parameter)?;
        match Document::parse(text, kind, most) {
            // Ceph's policies of users and roles may say that they are about everybody.
            Ok(document)
                if kind == DocumentKind::Identity
                    && document.has_principals()
                    && self.arns.bare() != Some(&self.account) =>
            {
                Err(ApiError::malformed("Policy document should not specify a principal."))
            }
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(ApiError::malformed(error.to_string())),
        }
    }
}

/// Adds tags to others.
pub fn add_tags(to: &mut Tags, tags: Tags) -> Result<(), ApiError> {
    to.extend(tags);
    if to.len() > limits::TAGS_MAX {
        return Err(ApiError::limit(format!("There are at most {} tags.", limits::TAGS_MAX)));
    }
    Ok(())
}
