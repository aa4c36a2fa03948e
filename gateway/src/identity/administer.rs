//! The IAM's interface for administrators of the grid: any account's, as that account itself.

use nexusgrid_iam::{AccessKeyId, AccountId, Arns, Principal};
use serde_json::Value;

use super::api::{self, ApiError, Call, Form};
use super::directory::{Directory, Read};
use super::entities::{Policy, paths};
use super::managed;
use crate::context;

/// How an administrator shows in logs.
const KEY: &str = "administrator";

impl Directory {
    /// Does one operation of the IAM's interface in an account; the answer is what clients get as XML.
    /// Policies may be named by their names where the interface wants an ARN.
    pub async fn administer(
        &self,
        account: &str,
        fields: Vec<(String, String)>,
    ) -> Result<Value, ApiError> {
        let missing = || ApiError::no_such("account", account);
        let id = AccountId::new(account).map_err(|_| missing())?;
        self.account(&id).await?.ok_or_else(missing)?;
        let arns = self.arns().await?;
        let mut form = Form::new(fields);
        if let Some(name) = form.get("PolicyArn").filter(|name| !name.starts_with("arn:")) {
            let arn = self.policy_arn_of(&arns, &id, name).await?;
            form.set("PolicyArn", arn);
        }
        let key = AccessKeyId::new(KEY).map_err(|_| missing())?;
        let principal = Principal::root(&key, &id);
        let call = Call {
            directory: self,
            principal: &principal,
            account: id,
            arns,
            action: form.get("Action").unwrap_or(""),
            form: &form,
            context: context::of_caller(&principal, self.now_ms()),
        };
        Ok(api::run(&call).await?.into_json())
    }

    async fn policy_arn_of(
        &self,
        arns: &Arns,
        account: &AccountId,
        name: &str,
    ) -> Result<String, ApiError> {
        if let Some(Read { value, .. }) = self.read::<Policy>(&paths::policy(account, name)).await?
        {
            return Ok(arns.write("iam", account, &format!("policy{}{}", value.path, value.name)));
        }
        let of_grid = format!("{}{name}", managed::PREFIX);
        match managed::document(&of_grid) {
            Some(_) => Ok(of_grid),
            None => Err(ApiError::no_such("policy", name)),
        }
    }
}
