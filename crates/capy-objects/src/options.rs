//! How to reach a store: place, credentials, time limits. Given by the caller; nothing here reads
//! the environment.

use std::collections::BTreeMap;
use std::time::Duration;

use capy_types::Secret;

use crate::{StoreError, StoreErrorKind, StoreOp};

/// Settings of a store. The defaults fit a local directory, and Amazon S3 on a machine with an
/// instance role.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Where the S3-compatible service listens (`https://host:port`). `None`: Amazon's.
    pub endpoint: Option<String>,
    /// The region to sign for. `None`: `us-east-1`.
    pub region: Option<String>,
    /// The access key's id.
    pub access_key_id: Option<String>,
    /// The access key.
    pub secret_access_key: Option<Secret>,
    /// The token that belongs to temporary keys.
    pub session_token: Option<Secret>,
    /// Whether the bucket is named in the path (`true`) or in the host name (`false`). `None`: in
    /// the path when `endpoint` is given, otherwise in the host name.
    pub path_style: Option<bool>,
    /// Whether plain HTTP may be spoken. `None`: when `endpoint` starts with `http://`.
    pub allow_http: Option<bool>,
    /// Other settings by the names their cloud uses (`aws_role_arn`,
    /// `google_application_credentials`, `azure_storage_account_name` …).
    pub provider_settings: BTreeMap<String, Secret>,
    /// Longest time to wait for a connection.
    pub connect_timeout: Duration,
    /// Longest time for one request, its body included. At 60 s a pack of 32 MiB needs 4.5 Mbit/s.
    pub request_timeout: Duration,
    /// How often a request is repeated after a failure that may pass.
    pub retry_limit: usize,
    /// Longest time for one operation, repetitions included, from its start.
    pub operation_timeout: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            path_style: None,
            allow_http: None,
            provider_settings: BTreeMap::new(),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(60),
            retry_limit: 6,
            operation_timeout: Duration::from_secs(120),
        }
    }
}

/// Names passed on as they are, in lower case, to the cloud's own settings.
pub(crate) const PROVIDER_VARS: [&str; 17] = [
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_SKIP_SIGNATURE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_CLIENT_ID",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_STORAGE_TENANT_ID",
    "AZURE_STORAGE_SAS_TOKEN",
];

impl StoreOptions {
    /// Options from variables by their usual names, as `var` answers for them:
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION` (or
    /// `AWS_DEFAULT_REGION`), `AWS_ENDPOINT_URL_S3` (or `AWS_ENDPOINT_URL`, `AWS_ENDPOINT`),
    /// `AWS_ALLOW_HTTP`, `AWS_S3_PATH_STYLE` (or its opposite
    /// `AWS_VIRTUAL_HOSTED_STYLE_REQUEST`), and the credentials' variables of the other clouds.
    ///
    /// # Errors
    /// `Invalid` when one holds neither yes nor no where it must.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, StoreError> {
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let first = |names: &[&str]| names.iter().find_map(|name| set(name));
        let flag = |name: &str| set(name).map(|value| parse_flag(name, &value)).transpose();
        let provider_settings = PROVIDER_VARS
            .iter()
            .filter_map(|name| Some((name.to_ascii_lowercase(), Secret::from(set(name)?))))
            .collect();
        Ok(Self {
            endpoint: first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]),
            region: first(&["AWS_REGION", "AWS_DEFAULT_REGION"]),
            access_key_id: set("AWS_ACCESS_KEY_ID"),
            secret_access_key: set("AWS_SECRET_ACCESS_KEY").map(Secret::from),
            session_token: set("AWS_SESSION_TOKEN").map(Secret::from),
            path_style: match flag("AWS_S3_PATH_STYLE")? {
                None => flag("AWS_VIRTUAL_HOSTED_STYLE_REQUEST")?.map(|in_host| !in_host),
                some => some,
            },
            allow_http: flag("AWS_ALLOW_HTTP")?,
            provider_settings,
            ..Self::default()
        })
    }
}

fn parse_flag(name: &str, value: &str) -> Result<bool, StoreError> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => {
            let kind = StoreErrorKind::invalid(format!("{name} is neither true nor false: {value:?}"));
            Err(StoreError::new(StoreOp::Open, "", "options", kind))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(vars: &[(&str, &str)]) -> Result<StoreOptions, StoreError> {
        StoreOptions::from_vars(|name| {
            vars.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_usual_variables_are_understood_and_empty_ones_are_not_set() {
        let options = from(&[
            ("AWS_ACCESS_KEY_ID", "AK"),
            ("AWS_SECRET_ACCESS_KEY", "SK"),
            ("AWS_DEFAULT_REGION", "eu-central-1"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:8333"),
            ("AWS_SESSION_TOKEN", ""),
            ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "false"),
        ])
        .unwrap();
        assert_eq!(options.access_key_id.as_deref(), Some("AK"));
        assert_eq!(options.secret_access_key.as_ref().map(|s| s.expose().to_vec()), Some(b"SK".to_vec()));
        assert_eq!(options.region.as_deref(), Some("eu-central-1"));
        assert_eq!(options.endpoint.as_deref(), Some("http://127.0.0.1:8333"));
        assert!(options.session_token.is_none());
        assert_eq!(options.path_style, Some(true));
        assert!(!format!("{options:?}").contains("SK"));
    }

    #[test]
    fn a_flag_must_be_yes_or_no() {
        let error = from(&[("AWS_ALLOW_HTTP", "maybe")]).unwrap_err();
        assert_eq!(error.to_string(), "open: AWS_ALLOW_HTTP is neither true nor false: \"maybe\": options");
    }
}
