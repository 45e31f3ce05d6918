//! An S3 service in this process, as much of it as Cairn uses: put (also conditional), get with ranges, head, delete, bulk
//! delete, listing with prefix, delimiter, start-after and continuation.
//!
//! Signatures are not checked. Listings come in small pages, so that every longer listing of a test crosses pages. Faults can
//! be ordered, and requests are recorded.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Bound, Range};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::backend::{Backend, S3Access};

/// Entries of one page of a listing, if the request does not ask for fewer.
const PAGE: usize = 16;

/// All objects have this time: nothing of Cairn looks at it.
const MODIFIED_HTTP: &str = "Thu, 01 Jan 2026 00:00:00 GMT";
const MODIFIED_ISO: &str = "2026-01-01T00:00:00.000Z";

/// A running service with one bucket, [`S3Server::BUCKET`]; goes away on drop.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    bucket: Arc<Bucket>,
    /// Dropping it tells the accept loop to end.
    _stop: oneshot::Sender<()>,
}

/// What to do with the next request instead of answering it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Do nothing and answer with this status.
    Refuse(u16),
    /// Do what is asked and answer with 500: the caller cannot know.
    LoseReply,
}

#[derive(Debug, Default)]
struct Bucket {
    objects: Mutex<BTreeMap<String, Bytes>>,
    faults: Mutex<VecDeque<Fault>>,
    requests: Mutex<Vec<String>>,
}

impl S3Server {
    /// The one bucket that exists; every other name answers `NoSuchBucket`.
    pub const BUCKET: &str = "cairn-test";

    /// Starts a service with an empty bucket on a free port of this host, on the current runtime.
    pub async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port on this host");
        let address = listener.local_addr().expect("a bound socket has an address");
        let bucket = Arc::new(Bucket::default());
        let service = Router::new()
            .fallback(answer)
            .layer(DefaultBodyLimit::disable())
            .with_state(bucket.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let until = async { drop(stopped.await) };
            drop(axum::serve(listener, service).with_graceful_shutdown(until).await);
        });
        Self {
            address,
            bucket,
            _stop: stop,
        }
    }

    /// URL of the service, without the bucket.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Endpoint and credentials that work here.
    pub fn access(&self) -> S3Access {
        S3Access::Given {
            endpoint: self.url(),
            key_id: "test".to_owned(),
            secret: "test".to_owned(),
        }
    }

    /// A backend on the bucket.
    pub async fn backend(&self, prefix: &str) -> Backend {
        Backend::with_s3(Self::BUCKET, prefix, self.access())
            .await
            .expect("the service answers")
    }

    /// Looks at or changes the objects behind everybody's back: full key to contents.
    pub fn edit<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Bytes>) -> T) -> T {
        change(&mut self.bucket.objects.lock())
    }

    /// Makes the next requests, in order, fail this way. A client that repeats its request uses up one fault a time.
    pub fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.bucket.faults.lock().extend(faults);
    }

    /// The requests since the last call, as "METHOD key" or "LIST prefix".
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.bucket.requests.lock())
    }
}

type Reply = Response<Body>;

async fn answer(State(bucket): State<Arc<Bucket>>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Reply {
    let request = Request::parse(method, &uri, headers, body);
    bucket.requests.lock().push(request.summary());
    let fault = bucket.faults.lock().pop_front();
    match fault {
        None => bucket.serve(&request),
        Some(Fault::Refuse(status)) => refuse(status),
        Some(Fault::LoseReply) => {
            bucket.serve(&request);
            refuse(500)
        }
    }
}

struct Request {
    method: Method,
    bucket: String,
    key: String,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    body: Bytes,
}

impl Request {
    fn parse(method: Method, uri: &Uri, headers: HeaderMap, body: Bytes) -> Self {
        let path = uri.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let query = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let query = query.into_owned().collect();
        Self {
            method,
            bucket: bucket.to_owned(),
            key: percent_decode(key),
            query,
            headers,
            body,
        }
    }

    fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn summary(&self) -> String {
        match self.key.as_str() {
            "" if self.method == Method::GET => format!("LIST {}", self.parameter("prefix")),
            key => format!("{} {key}", self.method),
        }
    }
}

impl Bucket {
    fn serve(&self, request: &Request) -> Reply {
        if request.bucket != S3Server::BUCKET {
            return fail(404, "NoSuchBucket");
        }
        match (&request.method, request.key.is_empty()) {
            (&Method::GET, true) => self.list(request),
            (&Method::POST, true) if request.query.contains_key("delete") => self.delete_many(request),
            (&Method::PUT, false) => self.put(request),
            (&Method::GET | &Method::HEAD, false) => self.get(request),
            (&Method::DELETE, false) => self.delete(request),
            _ => fail(501, "NotImplemented"),
        }
    }

    fn put(&self, request: &Request) -> Reply {
        let mut objects = self.objects.lock();
        let create_only = request.header(header::IF_NONE_MATCH) == Some("*");
        if create_only && objects.contains_key(&request.key) {
            return fail(412, "PreconditionFailed");
        }
        objects.insert(request.key.clone(), request.body.clone());
        reply(200)
            .header(header::ETAG, etag(&request.body))
            .body(Body::empty())
            .expect("plain headers")
    }

    fn get(&self, request: &Request) -> Reply {
        let Some(contents) = self.objects.lock().get(&request.key).cloned() else {
            return fail(404, "NoSuchKey");
        };
        let whole = contents.len();
        let head = reply(200)
            .header(header::ETAG, etag(&contents))
            .header(header::LAST_MODIFIED, MODIFIED_HTTP);
        if request.method == Method::HEAD {
            return head
                .header(header::CONTENT_LENGTH, whole)
                .body(Body::empty())
                .expect("plain headers");
        }
        let Some(range) = request.header(header::RANGE) else {
            return head.body(contents.into()).expect("plain headers");
        };
        let Some(range) = parse_range(range, whole) else {
            return fail(416, "InvalidRange");
        };
        let described = format!("bytes {}-{}/{whole}", range.start, range.end - 1);
        let head = head
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, described);
        head.body(contents.slice(range).into()).expect("plain headers")
    }

    fn delete(&self, request: &Request) -> Reply {
        self.objects.lock().remove(&request.key);
        reply(204).body(Body::empty()).expect("plain headers")
    }

    fn delete_many(&self, request: &Request) -> Reply {
        let body = String::from_utf8_lossy(&request.body);
        let mut answer = String::from("<DeleteResult>");
        for part in body.split("<Key>").skip(1) {
            let key = part.split("</Key>").next().unwrap_or_default();
            self.objects.lock().remove(&unescape(key));
            write!(answer, "<Deleted><Key>{key}</Key></Deleted>").expect("strings take everything");
        }
        answer.push_str("</DeleteResult>");
        xml(200, answer)
    }

    fn list(&self, request: &Request) -> Reply {
        let limit = request.parameter("max-keys").parse().unwrap_or(PAGE).min(PAGE);
        let (prefix, delimiter) = (request.parameter("prefix"), request.parameter("delimiter"));
        let after = request
            .parameter("start-after")
            .max(request.parameter("continuation-token"));
        let page = page(&self.objects.lock(), prefix, delimiter, after, limit);
        xml(200, page.to_xml())
    }
}

#[derive(Default)]
struct Page {
    objects: Vec<(String, Bytes)>,
    directories: BTreeSet<String>,
    next: Option<String>,
}

fn page(objects: &BTreeMap<String, Bytes>, prefix: &str, delimiter: &str, after: &str, limit: usize) -> Page {
    let mut page = Page::default();
    let mut last = String::new();
    // A continuation may be a directory: everything in it has been told.
    let told =
        |key: &str| !after.is_empty() && !delimiter.is_empty() && after.ends_with(delimiter) && key.starts_with(after);
    let start = Bound::Excluded(after);
    for (key, contents) in objects.range::<str, _>((start, Bound::Unbounded)) {
        let Some(rest) = key.strip_prefix(prefix) else {
            continue;
        };
        if told(key) {
            continue;
        }
        let directory = match delimiter.is_empty() {
            true => None,
            false => rest
                .split_once(delimiter)
                .map(|(name, _)| format!("{prefix}{name}{delimiter}")),
        };
        if directory
            .as_ref()
            .is_some_and(|directory| page.directories.contains(directory))
        {
            continue;
        }
        if page.objects.len() + page.directories.len() == limit {
            page.next = Some(last);
            return page;
        }
        match directory {
            Some(directory) => {
                last.clone_from(&directory);
                page.directories.insert(directory);
            }
            None => {
                last.clone_from(key);
                page.objects.push((key.clone(), contents.clone()));
            }
        }
    }
    page
}

impl Page {
    fn to_xml(&self) -> String {
        let mut text = String::from("<ListBucketResult>");
        for (key, contents) in &self.objects {
            let (key, size, etag) = (escape(key), contents.len(), etag(contents));
            write!(
                text,
                "<Contents><Key>{key}</Key><LastModified>{MODIFIED_ISO}</LastModified>\
                 <ETag>{}</ETag><Size>{size}</Size></Contents>",
                escape(&etag)
            )
            .expect("strings take everything");
        }
        for directory in &self.directories {
            write!(
                text,
                "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
                escape(directory)
            )
            .expect("strings take everything");
        }
        write!(text, "<IsTruncated>{}</IsTruncated>", self.next.is_some()).expect("strings take everything");
        if let Some(next) = &self.next {
            write!(text, "<NextContinuationToken>{}</NextContinuationToken>", escape(next))
                .expect("strings take everything");
        }
        text.push_str("</ListBucketResult>");
        text
    }
}

/// The part of an object of `whole` bytes that a Range header means; `None` if it is unsatisfiable.
fn parse_range(header: &str, whole: usize) -> Option<Range<usize>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", suffix) => whole.saturating_sub(suffix.parse().ok()?)..whole,
        (first, "") => first.parse().ok()?..whole,
        (first, last) => first.parse().ok()?..last.parse::<usize>().ok()?.saturating_add(1).min(whole),
    };
    (range.start < range.end).then_some(range)
}

fn refuse(status: u16) -> Reply {
    let code = match status {
        403 => "AccessDenied",
        429 | 503 => "SlowDown",
        _ => "InternalError",
    };
    fail(status, code)
}

fn fail(status: u16, code: &str) -> Reply {
    xml(
        status,
        format!("<Error><Code>{code}</Code><Message>a test said so</Message></Error>"),
    )
}

fn xml(status: u16, text: String) -> Reply {
    let kind = HeaderValue::from_static("application/xml");
    reply(status)
        .header(header::CONTENT_TYPE, kind)
        .body(text.into())
        .expect("plain headers")
}

fn reply(status: u16) -> axum::http::response::Builder {
    Response::builder().status(status)
}

fn etag(contents: &[u8]) -> String {
    format!("\"{}\"", &blake3::hash(contents).to_hex()[..32])
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn unescape(text: &str) -> String {
    let text = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'");
    text.replace("&amp;", "&")
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
