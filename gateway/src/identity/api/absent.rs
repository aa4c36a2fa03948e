//! What nobody has here: passwords, second factors, certificates, machines' profiles. Clients such as
//! Terraform's provider ask for them before they delete a user or a role, and are told that there
//! are none.

use super::call::{Call, Outcome};
use super::error::ApiError;
use super::xml::Xml;
use super::{roles, users};

fn none(list: &str) -> Xml {
    let mut xml = Xml::default();
    xml.texts(list, []).flag("IsTruncated", false);
    xml
}

/// A list of things that the user would have.
pub(super) async fn of_user(call: &Call<'_>, list: &str) -> Outcome {
    users::target(call).await?;
    Ok(none(list))
}

/// A list of things that the role would have.
pub(super) async fn of_role(call: &Call<'_>, list: &str) -> Outcome {
    roles::target(call).await?;
    Ok(none(list))
}

/// A list of things that the account would have.
pub(super) async fn of_account(call: &Call<'_>, list: &str) -> Outcome {
    call.allow("*")?;
    Ok(none(list))
}

/// The password by which the user would log in.
pub(super) async fn login_profile(call: &Call<'_>) -> Outcome {
    let user = users::target(call).await?.value;
    Err(ApiError::no_such("Login Profile for User", &user.name))
}
