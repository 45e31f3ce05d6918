//! A bucket that speaks S3.
//!
//! Everything comes from the usual `AWS_*` environment: `AWS_ENDPOINT_URL` (or `AWS_ENDPOINT_URL_S3`), `AWS_REGION`,
//! `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, web identity, container and instance credentials. Profile
//! files are not read. Buckets are addressed by path unless `AWS_VIRTUAL_HOSTED_STYLE_REQUEST=true`.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey as Key};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, RetryConfig};

use crate::backend::Backend;
use crate::backend::error::{Cause, Error, ErrorKind};
use crate::backend::location::Location;

/// Whole request, body included: a 64 MiB pack at 0.5 MB/s. The client's own default, 30 s, fails on slow links.
/// `AWS_TIMEOUT` overrides it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(150);

/// `AWS_CONNECT_TIMEOUT` overrides it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to look for credentials: away from EC2 the metadata service does not answer, and its client would go on trying.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(10);

/// Server errors, throttling and lost connections are repeated inside the client, at most six times,
/// none after 90 s from the first try; with [`REQUEST_TIMEOUT`] a call takes four minutes at the worst
/// and seconds as a rule. Higher layers decide about anything beyond.
///
/// Puts of immutable objects and reads are repeated after a timeout too. A conditional create is not;
/// repeated after a server error it may find its own work, so callers read back what they created.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(10),
            base: 2.0,
        },
        max_retries: 6,
        retry_timeout: Duration::from_secs(90),
    }
}

/// Where endpoint and credentials come from.
#[derive(Clone)]
pub enum S3Access {
    /// The `AWS_*` environment.
    Environment,
    /// Given by the caller; the environment is not looked at. Plain http is allowed, since the caller chose the endpoint.
    Given {
        /// URL of the service, without the bucket.
        endpoint: String,
        /// Access key id.
        key_id: String,
        /// Secret access key.
        secret: String,
    },
}

impl std::fmt::Debug for S3Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Environment => f.write_str("Environment"),
            Self::Given { endpoint, .. } => f
                .debug_struct("Given")
                .field("endpoint", endpoint)
                .finish_non_exhaustive(),
        }
    }
}

/// Asks the bucket one question before it returns, so that a wrong name, endpoint or key shows here and not in mid-work.
pub(in crate::backend) async fn attach(bucket: &str, prefix: &str, access: S3Access) -> Result<Backend, Error> {
    let location = Location::S3 {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
    };
    let builder = builder(&location, access)?;
    connect(location, builder.with_bucket_name(bucket), prefix).await
}

async fn connect(location: Location, builder: AmazonS3Builder, prefix: &str) -> Result<Backend, Error> {
    let anonymous = builder.get_config_value(&Key::SkipSignature).as_deref() == Some("true");
    let store = builder
        .with_retry(retries())
        .build()
        .map_err(|error| Error::invalid(location.to_string(), error.to_string()))?;
    if !anonymous {
        find_credentials(&location, &store).await?;
    }
    ask(&location, &store, prefix).await?;
    let prefix = ObjectPath::parse(prefix).map_err(|error| Error::invalid(location.to_string(), error.to_string()))?;
    Ok(Backend::assemble(
        location,
        Arc::new(PrefixStore::new(store, prefix)),
        None,
    ))
}

fn builder(location: &Location, access: S3Access) -> Result<AmazonS3Builder, Error> {
    match access {
        S3Access::Environment => from_environment(location),
        S3Access::Given {
            endpoint,
            key_id,
            secret,
        } => Ok(AmazonS3Builder::new()
            .with_client_options(timeouts().with_allow_http(true))
            .with_endpoint(endpoint)
            .with_access_key_id(key_id)
            .with_secret_access_key(secret)),
    }
}

fn from_environment(location: &Location) -> Result<AmazonS3Builder, Error> {
    checked(location, AmazonS3Builder::from_env(), |name| {
        env::var_os(name).is_some()
    })
}

/// Puts our timeouts in place of the client's unless the user `has_set` others, and checks the endpoint.
fn checked(
    location: &Location,
    mut builder: AmazonS3Builder,
    has_set: impl Fn(&str) -> bool,
) -> Result<AmazonS3Builder, Error> {
    // The builder has defaults for these, which cannot be told from a user's wish.
    let timeouts = [
        ("AWS_TIMEOUT", ClientConfigKey::Timeout, REQUEST_TIMEOUT),
        ("AWS_CONNECT_TIMEOUT", ClientConfigKey::ConnectTimeout, CONNECT_TIMEOUT),
    ];
    for (name, key, value) in timeouts {
        if !has_set(name) {
            builder = builder.with_config(Key::Client(key), seconds(value));
        }
    }
    let endpoint = builder
        .get_config_value(&Key::S3Endpoint)
        .or_else(|| builder.get_config_value(&Key::Endpoint));
    let allow_http = builder.get_config_value(&Key::Client(ClientConfigKey::AllowHttp));
    check_endpoint(location, endpoint.as_deref(), allow_http.as_deref() == Some("true"))?;
    Ok(builder)
}

fn timeouts() -> ClientOptions {
    ClientOptions::new()
        .with_timeout(REQUEST_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
}

fn seconds(duration: Duration) -> String {
    format!("{} seconds", duration.as_secs())
}

/// The HTTP client would refuse too, with a message about schemes that names neither the variable nor the remedy.
fn check_endpoint(location: &Location, endpoint: Option<&str>, allow_http: bool) -> Result<(), Error> {
    let Some(endpoint) = endpoint else {
        return Ok(());
    };
    let refuse = |reason: String| Err(Error::invalid(location.to_string(), reason));
    match endpoint.split_once("://") {
        Some(("https", _)) => Ok(()),
        Some(("http", _)) if allow_http => Ok(()),
        Some(("http", _)) => refuse(format!(
            "the endpoint {endpoint} is not encrypted; use https, or set AWS_ALLOW_HTTP=true to accept that"
        )),
        _ => refuse(format!(
            "the endpoint {endpoint:?} is not a URL; set AWS_ENDPOINT_URL to https://host:port"
        )),
    }
}

async fn find_credentials(location: &Location, store: &AmazonS3) -> Result<(), Error> {
    let failed = |cause| Error::AuthFailed {
        path: location.to_string(),
        cause,
    };
    match tokio::time::timeout(CREDENTIALS_TIMEOUT, store.credentials().get_credential()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(failed(Cause::text(
            Error::from_store(location.to_string(), error).reason(),
        ))),
        Err(_) => Err(failed(Cause::text(
            "none in the environment, and no metadata service answers",
        ))),
    }
}

async fn ask(location: &Location, store: &AmazonS3, prefix: &str) -> Result<(), Error> {
    let one = PaginatedListOptions {
        max_keys: Some(1),
        ..Default::default()
    };
    let prefix = (!prefix.is_empty()).then(|| format!("{prefix}/"));
    let Err(error) = store.list_paginated(prefix.as_deref(), one).await else {
        return Ok(());
    };
    let error = Error::from_store(location.to_string(), error);
    let missing = error.kind() == ErrorKind::NotFound || error.reason().contains("NoSuchBucket");
    Err(if missing {
        Error::NotFound {
            path: format!("{location} (the bucket)"),
        }
    } else {
        error
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::s3_server::S3Server;

    fn location() -> Location {
        Location::S3 {
            bucket: "bucket".to_owned(),
            prefix: String::new(),
        }
    }

    fn check(endpoint: &str, allow_http: bool) -> Result<(), String> {
        check_endpoint(&location(), Some(endpoint), allow_http).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn settings_of_the_environment_lead_to_a_backend() {
        let server = S3Server::start().await;
        let builder = AmazonS3Builder::new()
            .with_config(Key::Endpoint, server.url())
            .with_config("aws_allow_http".parse().unwrap(), "true")
            .with_config(Key::AccessKeyId, "id")
            .with_config(Key::SecretAccessKey, "secret")
            .with_bucket_name(S3Server::BUCKET);
        let builder = checked(&location(), builder, |_| false).unwrap();
        let backend = connect(location(), builder, "p").await.unwrap();
        backend.put("x", "1".into()).await.unwrap();
        assert_eq!(backend.get("x").await.unwrap(), "1");
    }

    #[tokio::test]
    async fn missing_credentials_are_named() {
        let server = S3Server::start().await;
        // Where the metadata service would be, something answers that knows nothing of it.
        let builder = AmazonS3Builder::new()
            .with_endpoint(server.url())
            .with_allow_http(true)
            .with_config(Key::MetadataEndpoint, server.url())
            .with_bucket_name(S3Server::BUCKET);
        let error = connect(location(), builder, "").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AuthFailed);
        assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
    }

    #[test]
    fn an_endpoint_without_encryption_needs_consent() {
        assert_eq!(check("https://here:9000", false), Ok(()));
        assert_eq!(check("http://here:9000", true), Ok(()));
        let refused = check("http://here:9000", false).unwrap_err();
        assert!(
            refused.contains("AWS_ALLOW_HTTP=true") && refused.contains("s3://bucket"),
            "{refused}"
        );
        assert!(check("here:9000", true).unwrap_err().contains("AWS_ENDPOINT_URL"));
    }
}
