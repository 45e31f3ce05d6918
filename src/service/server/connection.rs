//! One connection: TLS, HTTP/2 with windows of its own, calls that end with it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Server;
use super::listener::Accepted;
use super::preface::Prefaced;
use super::tls::Certificates;
use super::windows::Windows;
use crate::service::Caller;

/// A client must have said the first words of TLS and of HTTP/2 within this time each.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// A client that sends nothing is asked whether it is still there …
const PING_EVERY: Duration = Duration::from_secs(20);
/// … and dropped if it does not answer: a machine that lost its power closes no connection.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Of the headers of a call, in bytes. Ours are names and ids; the rest is what proxies add.
const HEADERS_MAX: u32 = 32 << 10;
/// Bytes of a response that wait for the connection, per call. A reader fetches ahead by itself.
const SEND_BUFFER: usize = 256 << 10;

/// Serves a connection to its end.
pub(super) async fn serve(server: Arc<Server>, accepted: Accepted) {
    match accepted {
        Accepted::Unix(stream) => match stream.peer_cred() {
            Ok(peer) => speak(&server, stream, server.access.unix(peer.uid())).await,
            Err(error) => tracing::debug!(%error, "the user at the other end of a socket is not known"),
        },
        Accepted::Tcp(stream, peer, None) => {
            prompt(&stream);
            speak(&server, stream, server.access.plaintext(peer)).await;
        }
        Accepted::Tcp(stream, peer, Some(certificates)) => {
            prompt(&stream);
            let Some(stream) = encrypt(stream, &certificates).await else {
                return;
            };
            let chain = stream.get_ref().1.peer_certificates();
            let caller = server.access.tls(chain.and_then(<[_]>::first), peer);
            speak(&server, stream, caller).await;
        }
    }
}

/// Answers are small and waited for.
fn prompt(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection sends small packets late");
    }
}

async fn encrypt(stream: TcpStream, certificates: &Certificates) -> Option<TlsStream<TcpStream>> {
    let acceptor = TlsAcceptor::from(certificates.current());
    match timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!("a TLS handshake took too long");
            None
        }
    }
}

async fn speak<I>(server: &Server, io: I, caller: Caller)
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let share = server.pool.take();
    let io = Prefaced::new(io);
    let preface = io.came();
    let routes = TowerToHyperService::new(server.routes.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        routes.call(request)
    });
    let calls = Calls::default();
    let http = http(calls.clone(), share.windows(), server.streams_max);
    let mut connection = pin!(http.serve_connection(TokioIo::new(io), service));
    let mut ending = server.ending.clone();
    let mut asked_to_end = false;
    let mut silence = pin!(tokio::time::sleep(HANDSHAKE_MAX));
    let mut spoken = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection broke");
                }
                return;
            }
            _ = ending.wait_for(|ending| *ending), if !asked_to_end => {
                asked_to_end = true;
                connection.as_mut().graceful_shutdown();
            }
            () = silence.as_mut(), if !spoken => {
                if !preface.load(Ordering::Relaxed) {
                    tracing::debug!("a client connected and kept silent");
                    return;
                }
                spoken = true;
            }
        }
    }
}

fn http(calls: Calls, windows: Windows, streams_max: u32) -> http2::Builder<Calls> {
    let mut builder = http2::Builder::new(calls);
    builder
        .timer(TokioTimer::new())
        .initial_connection_window_size(windows.connection)
        .initial_stream_window_size(windows.stream)
        .max_frame_size(windows.frame)
        .max_concurrent_streams(streams_max)
        .max_header_list_size(HEADERS_MAX)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

/// The calls of a connection. They end with it: dropping the last clone drops what is still running.
#[derive(Clone, Default)]
struct Calls {
    running: Arc<Mutex<JoinSet<()>>>,
}

impl<F> hyper::rt::Executor<F> for Calls
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        let mut running = self.running.lock();
        // Those that ended would be kept until asked for. HTTP/2 bounds how many run at once.
        while running.try_join_next().is_some() {}
        running.spawn(call);
    }
}
