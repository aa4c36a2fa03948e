//! What a document says to a request.

use super::{Among, Condition, Document, Effect, Pattern, PrincipalPattern, Statement};
use crate::{Context, Principal, PrincipalKind, arn};

/// What a question is about.
#[derive(Clone, Copy, Debug)]
pub enum About<'a> {
    /// The resource of this ARN; empty where a document is about its own role.
    One(&'a str),
    /// Likewise, whatever a request says that is not in the context: a condition that asks for that allows nothing,
    /// and may deny.
    Always(&'a str),
    /// Likewise of all resources whose ARNs begin so, also those that are not there yet: what allows it allows it for
    /// each of them, and what denies it for one of them denies it.
    All(&'a str),
}

impl About<'_> {
    /// Whether a pattern is about what is asked; of several, about each (`each`) or about one.
    fn fits(&self, pattern: &Pattern, context: &Context, each: bool) -> bool {
        match *self {
            About::One(arn) => pattern.matches(arn, context, false),
            About::Always(arn) if pattern.is_known(context) => pattern.matches(arn, context, false),
            About::Always(_) => !each,
            About::All(start) if each => pattern.covers(start, context),
            About::All(start) => pattern.meets(start, context),
        }
    }

    fn holds(&self, condition: &Condition, context: &Context, allows: bool) -> bool {
        match self {
            About::Always(_) | About::All(_) if !condition.is_known(context) => !allows,
            _ => condition.holds(context),
        }
    }
}

/// A request, as documents see it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// `service:Action`.
    pub action: &'a str,
    /// What it is done to.
    pub resource: About<'a>,
    /// Who asks.
    pub principal: &'a Principal,
    /// What else is known.
    pub context: &'a Context,
}

/// What a document gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// A statement denies: nothing else counts.
    pub denied: bool,
    /// A statement allows the caller as such: by ARN, or as one of everybody.
    pub allowed: bool,
    /// The same, and it names the caller, or the role of the caller's session.
    pub allowed_by_name: bool,
    /// A statement allows the caller as the holder of this very session.
    pub allowed_session: bool,
    /// A statement allows the caller's account, which decides who of it may.
    pub allowed_account: bool,
    /// A statement allows who holds a token of the caller's identity provider.
    pub allowed_provider: bool,
}

impl Document {
    /// Asks every statement.
    pub fn evaluate(&self, question: &Question<'_>) -> Grants {
        let mut grants = Grants::default();
        for statement in &self.statements {
            let Some(named) = statement.applies(question) else { continue };
            match (statement.effect, named) {
                (Effect::Deny, _) => grants.denied = true,
                (Effect::Allow, Named::Everybody) => grants.allowed = true,
                (Effect::Allow, Named::Caller) => {
                    grants.allowed_by_name = true;
                    grants.allowed = true;
                }
                (Effect::Allow, Named::Session) => grants.allowed_session = true,
                (Effect::Allow, Named::Account) => grants.allowed_account = true,
                (Effect::Allow, Named::Provider) => {
                    grants.allowed_provider = true;
                    grants.allowed = true;
                }
            }
        }
        grants
    }
}

/// How a statement names the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Named {
    Account,
    Everybody,
    Caller,
    Session,
    Provider,
}

impl Statement {
    fn applies(&self, question: &Question<'_>) -> Option<Named> {
        let allows = self.effect == Effect::Allow;
        let named = match &self.principals {
            None => Some(Named::Caller),
            Some(Among::Any(list)) => {
                list.iter().filter_map(|one| one.names(question.principal, allows)).max()
            }
            // A role is named by its ARN; a session of it, too, must be named to be spared.
            Some(Among::AllBut(_)) if allows && question.principal.kind == PrincipalKind::Grid => {
                None
            }
            Some(Among::AllBut(list)) => {
                let spared = list.iter().any(|one| one.names(question.principal, false).is_some());
                (!spared).then_some(Named::Everybody)
            }
        }?;
        let context = question.context;
        let action = match &self.actions {
            Among::Any(list) => list.iter().any(|one| one.matches(question.action, context, true)),
            Among::AllBut(list) => {
                !list.iter().any(|one| one.matches(question.action, context, true))
            }
        };
        let resource = match &self.resources {
            None => true,
            Some(Among::Any(list)) => {
                list.iter().any(|one| question.resource.fits(one, context, allows))
            }
            Some(Among::AllBut(list)) => {
                !list.iter().any(|one| question.resource.fits(one, context, !allows))
            }
        };
        let holds = action
            && resource
            && self.conditions.iter().all(|one| question.resource.holds(one, context, allows));
        holds.then_some(named)
    }
}

impl PrincipalPattern {
    fn names(&self, principal: &Principal, allows: bool) -> Option<Named> {
        match self {
            // Services are none of everybody whom an owner lets in, but of those whom one shuts out.
            PrincipalPattern::Everybody if principal.kind == PrincipalKind::Grid && allows => None,
            PrincipalPattern::Everybody => Some(Named::Everybody),
            PrincipalPattern::Account(account) => {
                (principal.account.as_deref() == Some(account)).then_some(Named::Account)
            }
            PrincipalPattern::Canonical(id) => {
                (principal.canonical_id.as_deref() == Some(id)).then_some(Named::Account)
            }
            PrincipalPattern::Arn(arn) => {
                if principal.is(arn) {
                    let is_session = principal.role_arn.is_some();
                    Some(if is_session { Named::Session } else { Named::Caller })
                } else if principal.is_of_role(arn) {
                    Some(Named::Caller)
                } else {
                    None
                }
            }
            PrincipalPattern::Identity(arn, id) => {
                // A session's id is its role's, a colon and its name.
                let own = principal.id.split(':').next().unwrap_or("");
                let is_named = principal.is(arn) || principal.is_of_role(arn);
                (is_named && own == id).then_some(Named::Caller)
            }
            PrincipalPattern::Federated(provider) => {
                let own = principal.provider.as_deref()?;
                // The holder of a token has no account before it has a session.
                let account = principal.account.as_ref().or(principal.provider_account.as_ref());
                let account = account.map(String::as_str);
                arn::names(provider, own, account).then_some(Named::Provider)
            }
            PrincipalPattern::Service(name) => {
                let is_it = principal.kind == PrincipalKind::Grid && principal.name == *name;
                is_it.then_some(Named::Caller)
            }
        }
    }
}
