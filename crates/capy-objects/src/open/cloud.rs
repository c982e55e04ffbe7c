//! The stores of the clouds, each behind its feature. Without the feature the URL is refused with
//! the feature's name.

use std::sync::Arc;

use super::{Place, invalid};
use crate::{Store, StoreError, StoreOptions};

#[cfg(any(feature = "s3", feature = "gs", feature = "az"))]
mod client {
    //! What the clouds have in common: one TLS provider, limits of time and repetition.

    use std::sync::Once;

    use object_store::{BackoffConfig, ClientOptions, RetryConfig};

    use crate::{StoreError, StoreErrorKind, StoreOp, StoreOptions};

    /// Installs the process's TLS provider unless the program has chosen one. Without it the first
    /// client would panic, for plain HTTP too.
    pub(super) fn install_tls() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            // An error says that the program has installed one already.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
    }

    pub(super) fn limits(options: &StoreOptions) -> ClientOptions {
        ClientOptions::new()
            .with_connect_timeout(options.connect_timeout)
            .with_timeout(options.request_timeout)
    }

    pub(super) fn retries(options: &StoreOptions) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: options.retry_limit,
            retry_timeout: options.operation_timeout,
        }
    }

    /// A setting's secret as the text that the builders take.
    pub(super) fn text(name: &str, secret: &capy_types::Secret, url: &str) -> Result<String, StoreError> {
        String::from_utf8(secret.expose().to_vec()).map_err(|_| {
            let kind = StoreErrorKind::invalid(format!("not UTF-8: {name}"));
            StoreError::new(StoreOp::Open, "", url, kind)
        })
    }

    pub(super) fn build_error(url: &str, error: object_store::Error) -> StoreError {
        let kind = StoreErrorKind::invalid("the settings make no store");
        StoreError::new(StoreOp::Open, "", url, kind).because(error)
    }

    /// Hands the caller's settings to a builder. Those of another cloud are not for it.
    macro_rules! with_provider_settings {
        ($builder:expr, $key:ty, $options:expr, $prefix:literal, $url:expr) => {{
            let mut builder = $builder;
            for (name, secret) in &$options.provider_settings {
                if !name.starts_with($prefix) {
                    continue;
                }
                let key: $key = name.parse().map_err(|error| build_error($url, error))?;
                builder = builder.with_config(key, text(name, secret, $url)?);
            }
            builder
        }};
    }
    pub(super) use with_provider_settings;
}

#[cfg(feature = "s3")]
pub(super) fn open_s3(place: &Place, options: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};

    use self::client::{build_error, text, with_provider_settings};
    use crate::remote::RemoteStore;

    client::install_tls();
    let url = &place.url;
    let endpoint = options.endpoint.as_deref().map(|given| Endpoint::parse(given, url)).transpose()?;
    let plain_http = endpoint.as_ref().is_some_and(|endpoint| endpoint.plain_http);
    if plain_http && options.allow_http == Some(false) {
        return Err(invalid(url, "the endpoint speaks plain HTTP, which the options forbid"));
    }
    match (&options.access_key_id, &options.secret_access_key) {
        (Some(_), None) => return Err(invalid(url, "an access key id without its secret access key")),
        (None, Some(_)) => return Err(invalid(url, "a secret access key without its id")),
        // Only Amazon's machines have roles; elsewhere the search for one would end in a time-out.
        (None, None)
            if endpoint.is_some() && !options.provider_settings.keys().any(|key| key.starts_with("aws_")) =>
        {
            return Err(invalid(url, "no credentials: an access key id and a secret access key are needed"));
        }
        _ => {}
    }
    let in_path = options.path_style.unwrap_or(endpoint.is_some());
    let region = options.region.clone().unwrap_or_else(|| "us-east-1".to_owned());
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&place.bucket)
        .with_region(&region)
        .with_client_options(client::limits(options).with_allow_http(plain_http))
        .with_retry(client::retries(options))
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        // One request for one object: not every store knows the bulk form.
        .with_disable_bulk_delete(true)
        .with_virtual_hosted_style_request(!in_path);
    if let Some(endpoint) = &endpoint {
        builder = builder.with_endpoint(endpoint.for_bucket(&place.bucket, in_path));
    }
    if let (Some(id), Some(secret)) = (&options.access_key_id, &options.secret_access_key) {
        builder =
            builder.with_access_key_id(id).with_secret_access_key(text("secret access key", secret, url)?);
    }
    if let Some(token) = &options.session_token {
        builder = builder.with_token(text("session token", token, url)?);
    }
    let builder = with_provider_settings!(builder, AmazonS3ConfigKey, options, "aws_", url);
    let store = Arc::new(builder.build().map_err(|error| build_error(url, error))?);
    let bucket = crate::probe::s3::Bucket {
        name: place.bucket.clone(),
        credentials: store.credentials().clone(),
        region,
        endpoint: options.endpoint.clone(),
        in_path,
        limits: options.clone(),
    };
    let base = place.base.clone();
    Ok(Arc::new(
        RemoteStore::new(store.clone(), base, url.clone(), options.operation_timeout)
            .with_pages(store)
            .with_settings(bucket.asker()),
    ))
}

#[cfg(not(feature = "s3"))]
pub(super) fn open_s3(place: &Place, _: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    Err(unserved(place, "s3"))
}

/// Where an S3-compatible service listens.
#[cfg(feature = "s3")]
struct Endpoint {
    plain_http: bool,
    /// `host:port`, and a path where there is one.
    host: String,
}

#[cfg(feature = "s3")]
impl Endpoint {
    fn parse(given: &str, url: &str) -> Result<Self, StoreError> {
        let (plain_http, host) = match given.split_once("://") {
            Some(("https", host)) => (false, host),
            Some(("http", host)) => (true, host),
            _ => return Err(invalid(url, "the endpoint starts with neither https:// nor http://")),
        };
        let host = host.trim_end_matches('/');
        if host.is_empty() || host.contains('@') {
            return Err(invalid(url, "the endpoint has no host, or credentials in front of it"));
        }
        Ok(Self { plain_http, host: host.to_owned() })
    }

    fn for_bucket(&self, bucket: &str, in_path: bool) -> String {
        let scheme = if self.plain_http { "http" } else { "https" };
        if in_path {
            format!("{scheme}://{}", self.host)
        } else {
            format!("{scheme}://{bucket}.{}", self.host)
        }
    }
}

#[cfg(feature = "gs")]
pub(super) fn open_gs(place: &Place, options: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};

    use self::client::{build_error, text, with_provider_settings};
    use crate::remote::RemoteStore;

    client::install_tls();
    let url = &place.url;
    let builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&place.bucket)
        .with_client_options(client::limits(options))
        .with_retry(client::retries(options));
    let builder = with_provider_settings!(builder, GoogleConfigKey, options, "google_", url);
    let store = Arc::new(builder.build().map_err(|error| build_error(url, error))?);
    let remote = RemoteStore::new(store.clone(), place.base.clone(), url.clone(), options.operation_timeout);
    Ok(Arc::new(remote.with_pages(store)))
}

#[cfg(not(feature = "gs"))]
pub(super) fn open_gs(place: &Place, _: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    Err(unserved(place, "gs"))
}

#[cfg(feature = "az")]
pub(super) fn open_az(place: &Place, options: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

    use self::client::{build_error, text, with_provider_settings};
    use crate::remote::RemoteStore;

    client::install_tls();
    let url = &place.url;
    let builder = MicrosoftAzureBuilder::new()
        .with_container_name(&place.bucket)
        .with_client_options(client::limits(options))
        .with_retry(client::retries(options));
    let builder = with_provider_settings!(builder, AzureConfigKey, options, "azure_", url);
    let store = Arc::new(builder.build().map_err(|error| build_error(url, error))?);
    let remote = RemoteStore::new(store.clone(), place.base.clone(), url.clone(), options.operation_timeout);
    Ok(Arc::new(remote.with_pages(store)))
}

#[cfg(not(feature = "az"))]
pub(super) fn open_az(place: &Place, _: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    Err(unserved(place, "az"))
}

#[cfg(not(all(feature = "s3", feature = "gs", feature = "az")))]
fn unserved(place: &Place, feature: &str) -> StoreError {
    invalid(&place.url, &format!("this program was built without the feature {feature:?}"))
}

#[cfg(all(test, feature = "s3"))]
mod tests {
    use capy_types::Secret;

    use super::*;
    use crate::StoreErrorKind;

    fn open(options: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
        open_s3(&Place::parse("s3://b/p", "b/p").expect("a bucket and a prefix"), options)
    }

    fn refused(options: &StoreOptions) -> String {
        let error = open(options).expect_err("half a key is refused");
        assert!(matches!(error.kind, StoreErrorKind::Invalid { .. }), "{error}");
        error.to_string()
    }

    fn with_keys(endpoint: &str) -> StoreOptions {
        StoreOptions {
            endpoint: Some(endpoint.to_owned()),
            access_key_id: Some("id".to_owned()),
            secret_access_key: Some(Secret::from("secret".to_owned())),
            ..StoreOptions::default()
        }
    }

    #[test]
    fn options_that_make_no_sense_are_refused_before_anything_is_asked() {
        let good = with_keys("http://localhost:1");
        assert!(open(&good).is_ok());
        assert!(refused(&with_keys("localhost:1")).contains("neither https:// nor http://"));
        assert!(refused(&with_keys("https://id:secret@host")).contains("credentials in front"));
        assert!(refused(&StoreOptions { allow_http: Some(false), ..good.clone() }).contains("plain HTTP"));
        assert!(
            refused(&StoreOptions { secret_access_key: None, ..good.clone() }).contains("without its secret")
        );
        assert!(refused(&StoreOptions { access_key_id: None, ..good.clone() }).contains("without its id"));
        let none = StoreOptions { access_key_id: None, secret_access_key: None, ..good };
        assert!(refused(&none).contains("no credentials"));
    }

    #[test]
    fn the_bucket_goes_into_the_path_or_the_host() {
        let endpoint = Endpoint::parse("https://s3.example:9000/", "u").unwrap();
        assert_eq!(endpoint.for_bucket("b", true), "https://s3.example:9000");
        assert_eq!(endpoint.for_bucket("b", false), "https://b.s3.example:9000");
    }

    #[test]
    fn every_provider_variable_is_a_setting_of_its_cloud() {
        for name in crate::options::PROVIDER_VARS.map(str::to_ascii_lowercase) {
            let known = match name.split_once('_').map(|(cloud, _)| cloud) {
                Some("aws") => name.parse::<object_store::aws::AmazonS3ConfigKey>().is_ok(),
                #[cfg(feature = "gs")]
                Some("google") => name.parse::<object_store::gcp::GoogleConfigKey>().is_ok(),
                #[cfg(feature = "az")]
                Some("azure") => name.parse::<object_store::azure::AzureConfigKey>().is_ok(),
                _ => true,
            };
            assert!(known, "{name}");
        }
    }
}
