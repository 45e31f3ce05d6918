use crate::backend::{Attach, Backend, Created, ErrorKind, Location, S3Access};
use crate::testkit::s3_server::{Fault, S3Server};

#[tokio::test]
async fn prefixes_keep_stores_apart() {
    let server = S3Server::start().await;
    let (a, b, whole) = (
        server.backend("a").await,
        server.backend("a/b").await,
        server.backend("").await,
    );
    a.put("x", "a".into()).await.unwrap();
    b.put("x", "b".into()).await.unwrap();
    assert_eq!(b.get("x").await.unwrap(), "b");
    assert_eq!(a.get("b/x").await.unwrap(), "b");
    assert_eq!(b.list("", None).await.unwrap().len(), 1);
    assert_eq!(whole.list("", None).await.unwrap().len(), 2);
    assert_eq!(
        server.edit(|objects| objects.keys().cloned().collect::<Vec<_>>()),
        ["a/b/x", "a/x"]
    );
}

#[tokio::test]
async fn a_wrong_bucket_shows_when_attaching() {
    let server = S3Server::start().await;
    let error = Backend::with_s3("no-such-bucket", "p", server.access())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains("s3://no-such-bucket/p (the bucket)"),
        "{error}"
    );
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_is_unavailable() {
    let server = S3Server::start().await;
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let endpoint = format!("http://{closed}");
    let access = S3Access::Given {
        endpoint,
        key_id: "k".to_owned(),
        secret: "s".to_owned(),
    };
    let error = Backend::with_s3(S3Server::BUCKET, "", access).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(
        error.to_string().contains("refused") && error.to_string().contains("s3://cairn-test"),
        "{error}"
    );
    drop(server);
}

#[tokio::test]
async fn passing_failures_are_retried() {
    let server = S3Server::start().await;
    let backend = server.backend("").await;
    server.take_requests();
    server.fail([Fault::Refuse(503), Fault::Refuse(500)]);
    backend.put("x", "1".into()).await.unwrap();
    assert_eq!(server.take_requests(), ["PUT x", "PUT x", "PUT x"]);
    server.fail([Fault::Refuse(429), Fault::LoseReply]);
    assert_eq!(backend.get("x").await.unwrap(), "1");
    server.fail([Fault::LoseReply]);
    backend.delete("x").await.unwrap();
    assert_eq!(backend.get("x").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_creation_whose_reply_was_lost_reports_exists_and_reads_back_as_ours() {
    let server = S3Server::start().await;
    let backend = server.backend("").await;
    server.fail([Fault::LoseReply]);
    assert_eq!(backend.create("owner/1", "mine".into()).await.unwrap(), Created::Exists);
    assert_eq!(backend.get("owner/1").await.unwrap(), "mine");
}

#[tokio::test]
async fn refusals_are_told_apart_and_not_retried() {
    let server = S3Server::start().await;
    let backend = server.backend("").await;
    server.take_requests();
    for (status, kind) in [
        (403, ErrorKind::PermissionDenied),
        (401, ErrorKind::AuthFailed),
        (400, ErrorKind::Io),
    ] {
        server.fail([Fault::Refuse(status)]);
        let error = backend.put("x", "1".into()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        assert!(
            text.starts_with("s3://cairn-test/x: ") && text.contains("a test said so"),
            "{text}"
        );
        assert!(!text.contains('\n') && text.len() < 300, "{text}");
    }
    assert_eq!(server.take_requests().len(), 3);
}

#[tokio::test]
async fn each_operation_costs_one_request() {
    let server = S3Server::start().await;
    let backend = server.backend("").await;
    server.take_requests();
    backend.put("p/x", "0123".into()).await.unwrap();
    backend.create("p/y", "0123".into()).await.unwrap();
    backend.get("p/x").await.unwrap();
    backend.get_range("p/x", 1..2).await.unwrap();
    backend.get_tail("p/x", 2).await.unwrap();
    backend.size("p/x").await.unwrap();
    backend.list("p", Some("p/x")).await.unwrap();
    backend.list_directories("").await.unwrap();
    backend.rewrite("p/x").await.unwrap();
    backend.sync().await.unwrap();
    backend.delete("p/x").await.unwrap();
    let expected = [
        "PUT p/x", "PUT p/y", "GET p/x", "GET p/x", "GET p/x", "HEAD p/x", "LIST p/", "LIST ", "POST ",
    ];
    assert_eq!(server.take_requests(), expected);
}

#[tokio::test]
async fn a_server_goes_away_on_drop() {
    let server = S3Server::start().await;
    let address = server.url().trim_start_matches("http://").to_owned();
    drop(server);
    while std::net::TcpStream::connect(&address).is_ok() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn credentials_are_not_printed() {
    let access = S3Access::Given {
        endpoint: "http://here".to_owned(),
        key_id: "the-id".to_owned(),
        secret: "the-secret".to_owned(),
    };
    let text = format!("{access:?}");
    assert!(text.contains("http://here") && !text.contains("the-"), "{text}");
}

#[tokio::test]
async fn buckets_hold_no_locks() {
    let server = S3Server::start().await;
    let backend = server.backend("").await;
    let (first, second) = (backend.lock().unwrap(), backend.lock().unwrap());
    assert!(!first.is_held() && !second.is_held());
    assert!(matches!(backend.location(), Location::S3 { .. }));
    assert_ne!(Attach::Existing, Attach::CreateDirectory);
}
