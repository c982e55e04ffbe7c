//! The S3 store against a real server. One test, so that one server serves all of it.

use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::types::{
    AbortIncompleteMultipartUpload, BucketLifecycleConfiguration, BucketVersioningStatus, ExpirationStatus,
    LifecycleRule, LifecycleRuleFilter, VersioningConfiguration,
};
use bytes::Bytes;
use capy_testkit::S3Server;
use capy_types::{OsEntropy, Secret};
use futures::TryStreamExt;

use crate::testing::conformance;
use crate::{Store, StoreErrorKind, StoreOptions, open_store, probe};

fn options(server: &S3Server) -> StoreOptions {
    StoreOptions {
        endpoint: Some(server.endpoint().to_owned()),
        access_key_id: Some(server.access_key_id().to_owned()),
        secret_access_key: Some(Secret::from(server.secret_access_key().to_owned())),
        ..StoreOptions::default()
    }
}

async fn open(url: &str, options: &StoreOptions) -> Arc<dyn Store> {
    open_store(url, options, true).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_s3_server() {
    let server = S3Server::shared();
    let options = options(server);
    conformance::check(&open(&server.fresh_url(), &options).await, "dir").await;
    a_bad_key_or_bucket_is_told_apart(server, &options).await;
    the_prefix_is_kept_apart(server, &options).await;
    the_probe_passes_and_leaves_nothing(server, &options).await;
    the_probe_tells_of_versions_and_lifecycle(server, &options).await;
}

async fn a_bad_key_or_bucket_is_told_apart(server: &S3Server, options: &StoreOptions) {
    let body = Bytes::from_static(b"x");
    let wrong = StoreOptions { secret_access_key: Some(Secret::from("wrong".to_owned())), ..options.clone() };
    let store = open(&server.fresh_url(), &wrong).await;
    assert_eq!(store.put_new("x", body.clone()).await.unwrap_err().kind, StoreErrorKind::Denied);
    assert_eq!(store.get("x", 1).await.unwrap_err().kind, StoreErrorKind::Denied);
    let store = open("s3://there-is-none/p", options).await;
    for error in [
        store.put_new("x", body).await.unwrap_err(),
        store.get("x", 1).await.unwrap_err(),
        store.first("").await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("there is no such bucket"), "{error}");
    }
}

/// Two repositories in one bucket do not see each other, also when one's prefix starts with the
/// other's.
async fn the_prefix_is_kept_apart(server: &S3Server, options: &StoreOptions) {
    let url = server.fresh_url();
    let (one, two) = (open(&url, options).await, open(&format!("{url}-two"), options).await);
    one.put_new("x", Bytes::from_static(b"1")).await.unwrap();
    two.put_new("x", Bytes::from_static(b"2")).await.unwrap();
    assert_eq!(one.get("x", 1).await.unwrap(), "1");
    let names: Vec<_> = one.list("").map_ok(|info| info.name).try_collect().await.unwrap();
    assert_eq!(names, ["x"]);
    assert_eq!(one.first("").await.unwrap().unwrap().name, "x");
}

async fn the_probe_passes_and_leaves_nothing(server: &S3Server, options: &StoreOptions) {
    let store = open(&server.fresh_url(), options).await;
    let report = probe(&*store, &OsEntropy).await.unwrap();
    assert!(report.multi_writer_safe, "{report:?}");
    assert_eq!(report.versioning, Some(false), "{report:?}");
    assert_eq!(report.object_lock, Some(false), "{report:?}");
    assert_eq!(report.aborts_multipart, Some(false), "{report:?}");
    assert!(
        report.advice.iter().any(|advice| advice.contains("AbortIncompleteMultipartUpload")),
        "{report:?}"
    );
    assert_eq!(store.first("").await.unwrap(), None);
}

/// A bucket that keeps versions still shows no deleted object, and the probe says what it is.
async fn the_probe_tells_of_versions_and_lifecycle(server: &S3Server, options: &StoreOptions) {
    let place = server.fresh_url();
    let bucket = place.rsplit('/').next().unwrap();
    let client = client(server);
    client.create_bucket().bucket(bucket).object_lock_enabled_for_bucket(true).send().await.unwrap();
    let versioning = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    client.put_bucket_versioning().bucket(bucket).versioning_configuration(versioning).send().await.unwrap();
    let rule = LifecycleRule::builder()
        .id("abort")
        .status(ExpirationStatus::Enabled)
        .filter(LifecycleRuleFilter::builder().prefix("").build())
        .abort_incomplete_multipart_upload(
            AbortIncompleteMultipartUpload::builder().days_after_initiation(1).build(),
        )
        .build()
        .unwrap();
    let rules = BucketLifecycleConfiguration::builder().rules(rule).build().unwrap();
    client
        .put_bucket_lifecycle_configuration()
        .bucket(bucket)
        .lifecycle_configuration(rules)
        .send()
        .await
        .unwrap();
    let store = open(&format!("s3://{bucket}/p"), options).await;
    let report = probe(&*store, &OsEntropy).await.unwrap();
    assert!(report.multi_writer_safe, "{report:?}");
    assert_eq!(report.versioning, Some(true), "{report:?}");
    assert_eq!(report.object_lock, Some(true), "{report:?}");
    assert_eq!(report.aborts_multipart, Some(true), "{report:?}");
    assert_eq!(store.first("").await.unwrap(), None);
    assert_eq!(store.list("").try_collect::<Vec<_>>().await.unwrap(), []);
}

fn client(server: &S3Server) -> Client {
    let credentials =
        Credentials::new(server.access_key_id(), server.secret_access_key(), None, None, "test");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .credentials_provider(credentials)
        .region(Region::new("us-east-1"))
        .force_path_style(true)
        .endpoint_url(server.endpoint());
    Client::from_conf(config.build())
}
