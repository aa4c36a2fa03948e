//! Who is told of what happens to a bucket's objects.

use std::collections::BTreeSet;

use async_trait::async_trait;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result};

use super::bucket_rules::xml;
use super::{Handle, Handlers, read_xml};
use crate::auth::AuthenticatedRequest;
use crate::error::{from_grid, invalid_argument};
use crate::events::{self, Doer};
use crate::rules::Kind;

#[async_trait]
impl Handle<PutBucketNotificationConfigurationInput, PutBucketNotificationConfigurationOutput>
    for Handlers
{
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        request: S3Request<PutBucketNotificationConfigurationInput>,
    ) -> S3Result<S3Response<PutBucketNotificationConfigurationOutput>> {
        let bucket = caller.bucket_rules()?;
        let configuration = request.input.notification_configuration;
        let rules = events::read(&configuration, &bucket.owner)?;
        let targets: BTreeSet<_> = rules.iter().map(|rule| rule.target.clone()).collect();
        let known = self.targets.all().await.map_err(from_grid)?;
        if targets.iter().any(|target| !known.contains_key(target)) {
            let text = "Unable to validate the following destination configurations";
            return Err(invalid_argument(text));
        }
        // Before anybody is promised to be told. It stays so: what nobody wants any more is passed over.
        if rules.iter().any(events::Rule::tells_ends) {
            self.store.tell_ends(&request.input.bucket, true).await.map_err(from_grid)?;
        }
        let value = if rules.is_empty() { None } else { Some(xml(&configuration)?) };
        self.lay_down(&caller, vec![(Kind::Notification, value)]).await?;
        let is_told: BTreeSet<_> = bucket.events().iter().map(|rule| &rule.target).collect();
        let new: Vec<_> = targets.iter().filter(|it| !is_told.contains(it)).cloned().collect();
        let doer = Doer { principal: caller.principal().id.clone(), ..Doer::default() };
        self.events.tell_test(bucket, &new, &doer).await.map_err(from_grid)?;
        Ok(S3Response::new(PutBucketNotificationConfigurationOutput::default()))
    }
}

#[async_trait]
impl Handle<GetBucketNotificationConfigurationInput, GetBucketNotificationConfigurationOutput>
    for Handlers
{
    async fn handle(
        &self,
        caller: AuthenticatedRequest,
        _request: S3Request<GetBucketNotificationConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketNotificationConfigurationOutput>> {
        let found = match caller.bucket_rules()?.text(Kind::Notification) {
            Some(text) => read_xml(text)?,
            None => NotificationConfiguration::default(),
        };
        Ok(S3Response::new(GetBucketNotificationConfigurationOutput {
            event_bridge_configuration: found.event_bridge_configuration,
            lambda_function_configurations: found.lambda_function_configurations,
            queue_configurations: found.queue_configurations,
            topic_configurations: found.topic_configurations,
        }))
    }
}
