//! The real program on a bucket: endpoint and credentials from the usual environment, catalog and key named by flags.

use std::process::Command;

use cairn_agent::testkit::s3_server::S3Server;
use tokio::runtime::Runtime;

use crate::support::{Home, Run, random_bytes};

struct Bucket {
    home: Home,
    server: S3Server,
    /// What the server runs on.
    _runtime: Runtime,
}

impl Bucket {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let server = runtime.block_on(S3Server::start());
        let home = Home::new();
        home.file("key", random_bytes(5, 32).as_slice());
        Self {
            home,
            server,
            _runtime: runtime,
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let store = format!("s3://{}/some/prefix", S3Server::BUCKET);
        let mut command = self
            .home
            .command(&["--store", &store, "--catalog", "catalog", "--key-file", "key"]);
        command
            .args(arguments)
            .env("AWS_ENDPOINT_URL", self.server.url())
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "id")
            .env("AWS_SECRET_ACCESS_KEY", "secret");
        command
    }

    fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments))
    }
}

#[test]
fn a_bucket_is_a_store_like_any_other() {
    let bucket = Bucket::new();
    let bytes = random_bytes(6, 3_000_000);
    let file = bucket.home.file("file", &bytes);
    bucket.run(&["repo", "create", "default"]).ok();
    bucket.run(&["put", "a", file.to_str().unwrap()]).ok();
    assert!(bucket.run(&["get", "a"]).ok() == bytes);
    bucket.run(&["rm", "a"]).ok();
    bucket.run(&["gc"]).ok();
    bucket.run(&["get", "a"]).fails(1, &["\"a\""]);
    assert!(
        bucket
            .server
            .edit(|objects| objects.keys().all(|key| key.starts_with("some/prefix/")))
    );
}

#[test]
fn a_put_does_not_make_a_store_in_a_bucket() {
    let bucket = Bucket::new();
    let file = bucket.home.file("file", b"x");
    bucket
        .run(&["put", "a", file.to_str().unwrap()])
        .fails(69, &["no store", "cairn repo create"]);
    assert!(bucket.server.edit(|objects| objects.is_empty()));
}

#[test]
fn a_bucket_needs_its_places_named() {
    let bucket = Bucket::new();
    let store = format!("s3://{}/p", S3Server::BUCKET);
    bucket.home.run(&["--store", &store, "ls"]).fails(64, &["--catalog"]);
}
