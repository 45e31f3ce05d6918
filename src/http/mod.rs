//! The HTTP port: whether the process is alive, whether it is ready, and its metrics. Nothing here changes anything.
//!
//! | path | 200 while |
//! |---|---|
//! | `/healthz` | the process makes progress, whatever backend and keys do: nothing a restart would not mend makes it fail |
//! | `/readyz` | gRPC answers, in every mode: a core must reach an agent without keys to bring them |
//! | `/metrics` | always: Prometheus' text format |
//!
//! The port answers before the store is open and until the process ends.

pub mod metrics;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use futures::future::BoxFuture;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Connections at once. Probes and a scraper need a handful; one more waits in the queue of the operating system.
const CONNECTIONS_MAX: usize = 32;
/// The headers of a request must have come in this time, which also ends connections that nobody uses.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(30);
/// A request line and headers, in bytes.
const BUFFER_MAX: usize = 16 << 10;
/// How often the runtime shows that it runs tasks …
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// … and the longest time without, after which only a restart helps.
const BEAT_MAX: Duration = Duration::from_secs(60);
/// A listener that fails to accept, as when there are no file descriptors left, is asked again after this time.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How far the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The store is being opened.
    Opening,
    /// gRPC answers.
    Serving,
    /// New calls are refused.
    Ending,
}

/// Writes all metrics in Prometheus' text format.
pub type Render = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// What the HTTP port tells about.
pub struct HttpState {
    phase: watch::Sender<Phase>,
    beat: Mutex<Instant>,
    metrics: Mutex<Option<Render>>,
}

impl HttpState {
    /// The state of a process that has just begun.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            phase: watch::Sender::new(Phase::Opening),
            beat: Mutex::new(Instant::now()),
            metrics: Mutex::new(None),
        })
    }

    /// Tells how far the process is.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Says what writes the metrics; until then there are none.
    pub fn set_metrics(&self, render: Render) {
        *self.metrics.lock() = Some(render);
    }

    /// Shows that tasks are run. Never returns.
    pub async fn beat(self: Arc<Self>) {
        let mut beats = tokio::time::interval(BEAT_EVERY);
        loop {
            beats.tick().await;
            *self.beat.lock() = Instant::now();
        }
    }

    fn is_alive(&self) -> bool {
        self.beat.lock().elapsed() < BEAT_MAX
    }
}

/// Serves the port. Never returns; dropping the future closes it.
pub async fn serve(listener: TcpListener, state: Arc<HttpState>) {
    let service = TowerToHyperService::new(router(state));
    let mut connections = JoinSet::new();
    loop {
        let may_accept = connections.len() < CONNECTIONS_MAX;
        tokio::select! {
            accepted = listener.accept(), if may_accept => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(speak(stream, service.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the HTTP port could not be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn speak(stream: TcpStream, service: TowerToHyperService<Router>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIMEOUT)
        .max_buf_size(BUFFER_MAX);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the HTTP port broke");
    }
}

fn router(state: Arc<HttpState>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(state)
}

async fn healthz(State(state): State<Arc<HttpState>>) -> impl IntoResponse {
    match state.is_alive() {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "tasks are not run any more\n"),
    }
}

async fn readyz(State(state): State<Arc<HttpState>>) -> impl IntoResponse {
    let phase = *state.phase.borrow();
    match phase {
        Phase::Opening => (StatusCode::SERVICE_UNAVAILABLE, "the store is being opened\n"),
        Phase::Serving => (StatusCode::OK, "ok\n"),
        Phase::Ending => (StatusCode::SERVICE_UNAVAILABLE, "the agent is going down\n"),
    }
}

async fn metrics(State(state): State<Arc<HttpState>>) -> impl IntoResponse {
    const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
    let render = state.metrics.lock().clone();
    let text = match render {
        Some(render) => render().await,
        None => String::new(),
    };
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], text)
}

/// Asks an HTTP port for a path and returns the number and the text of its answer, for probes.
///
/// # Errors
/// If nobody answers, or not in HTTP.
pub async fn ask(address: &str, path: &str) -> io::Result<(u16, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const ANSWER_MAX: u64 = 64 << 10;
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let number = head
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok());
    let number = number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))?;
    Ok((number, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn started() -> (String, Arc<HttpState>, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = HttpState::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, state.clone()));
        (address, state, tasks)
    }

    #[tokio::test]
    async fn ready_means_that_grpc_answers_and_alive_means_that_tasks_run() {
        let (address, state, _tasks) = started().await;
        for (phase, ready) in [(Phase::Opening, 503), (Phase::Serving, 200), (Phase::Ending, 503)] {
            state.enter(phase);
            assert_eq!(ask(&address, "/readyz").await.unwrap().0, ready, "{phase:?}");
            assert_eq!(ask(&address, "/healthz").await.unwrap(), (200, "ok\n".to_owned()));
        }
        *state.beat.lock() -= BEAT_MAX;
        assert_eq!(ask(&address, "/healthz").await.unwrap().0, 503);
    }

    #[tokio::test]
    async fn metrics_are_those_of_the_renderer_and_nothing_else_is_there() {
        let (address, state, _tasks) = started().await;
        assert_eq!(ask(&address, "/metrics").await.unwrap(), (200, String::new()));
        state.set_metrics(Arc::new(|| Box::pin(async { "x 1\n".to_owned() })));
        assert_eq!(ask(&address, "/metrics").await.unwrap(), (200, "x 1\n".to_owned()));
        assert_eq!(ask(&address, "/").await.unwrap().0, 404);
    }

    #[tokio::test]
    async fn silent_connections_keep_nobody_out_for_ever() {
        let (address, _state, _tasks) = started().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(&address).await.unwrap());
        }
        let mut asked = std::pin::pin!(ask(&address, "/healthz"));
        assert!(futures::poll!(asked.as_mut()).is_pending());
        silent.pop();
        assert_eq!(asked.await.unwrap().0, 200);
    }
}
