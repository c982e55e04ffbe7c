//! What only S3 knows of a bucket: versioning, object lock, lifecycle rules. Asked through
//! `aws-sdk-s3`, since `object_store` has no words for it, with the store's own credentials.
//!
//! A store that does not know the question, or does not let us ask, leaves the answer unknown.

use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::types::{BucketVersioningStatus, ExpirationStatus, LifecycleRule, ObjectLockEnabled};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use object_store::aws::AwsCredentialProvider;

use crate::remote::AskSettings;
use crate::{BucketSettings, StoreOptions};

/// A bucket and how to reach it.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    pub(crate) name: String,
    pub(crate) credentials: AwsCredentialProvider,
    pub(crate) region: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) in_path: bool,
    pub(crate) limits: StoreOptions,
}

impl Bucket {
    /// Asks again at every call: settings change.
    pub(crate) fn asker(self) -> AskSettings {
        let bucket = Arc::new(self);
        Arc::new(move || {
            let bucket = bucket.clone();
            Box::pin(async move { bucket.settings().await })
        })
    }

    async fn settings(&self) -> BucketSettings {
        let client = match self.client().await {
            Ok(client) => client,
            Err(error) => {
                return BucketSettings { problems: vec![error], ..BucketSettings::default() };
            }
        };
        let (versioning, object_lock, aborts_multipart) =
            tokio::join!(self.versioning(&client), self.object_lock(&client), self.aborts_multipart(&client));
        let mut problems = Vec::new();
        let mut known = |answer: Result<bool, String>| answer.map_err(|problem| problems.push(problem)).ok();
        BucketSettings {
            versioning: known(versioning),
            object_lock: known(object_lock),
            aborts_multipart: known(aborts_multipart),
            problems,
        }
    }

    async fn client(&self) -> Result<Client, String> {
        let credential = self
            .credentials
            .get_credential()
            .await
            .map_err(|error| format!("the bucket's settings are unknown: no credentials: {error}"))?;
        let credentials = Credentials::new(
            &credential.key_id,
            &credential.secret_key,
            credential.token.clone(),
            None,
            "capy-store",
        );
        let limits = TimeoutConfig::builder()
            .connect_timeout(self.limits.connect_timeout)
            .operation_timeout(self.limits.request_timeout)
            .build();
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https())
            .credentials_provider(credentials)
            .region(Region::new(self.region.clone()))
            .force_path_style(self.in_path)
            .timeout_config(limits)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS));
        if let Some(endpoint) = &self.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(Client::from_conf(config.build()))
    }

    async fn versioning(&self, client: &Client) -> Result<bool, String> {
        let answer = client.get_bucket_versioning().bucket(&self.name).send().await;
        let answer = answer.map_err(|error| unknown("versioning", &error))?;
        Ok(answer.status() == Some(&BucketVersioningStatus::Enabled))
    }

    async fn object_lock(&self, client: &Client) -> Result<bool, String> {
        match client.get_object_lock_configuration().bucket(&self.name).send().await {
            Ok(answer) => Ok(answer
                .object_lock_configuration()
                .is_some_and(|lock| lock.object_lock_enabled() == Some(&ObjectLockEnabled::Enabled))),
            Err(error) if is(&error, "ObjectLockConfigurationNotFoundError") => Ok(false),
            Err(error) => Err(unknown("object lock", &error)),
        }
    }

    async fn aborts_multipart(&self, client: &Client) -> Result<bool, String> {
        match client.get_bucket_lifecycle_configuration().bucket(&self.name).send().await {
            Ok(answer) => Ok(answer.rules().iter().any(removes_abandoned_uploads)),
            Err(error) if is(&error, "NoSuchLifecycleConfiguration") => Ok(false),
            Err(error) => Err(unknown("lifecycle rules", &error)),
        }
    }
}

/// Attempts at one question: it is asked for advice, not for a decision.
const ATTEMPTS: u32 = 2;

fn removes_abandoned_uploads(rule: &LifecycleRule) -> bool {
    rule.status() == &ExpirationStatus::Enabled && rule.abort_incomplete_multipart_upload().is_some()
}

fn is<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>, code: &str) -> bool {
    error.code() == Some(code)
}

fn unknown<E: ProvideErrorMetadata, R>(what: &str, error: &SdkError<E, R>) -> String {
    let why = error.code().map_or_else(|| error.to_string(), ToOwned::to_owned);
    format!("the bucket's {what}: unknown: {why}")
}
