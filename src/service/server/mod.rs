//! The accept loop: connections in, calls to [`routes`](super::routes), an orderly end.
//!
//! A loop of our own, so that each connection gets windows from one pool of bytes ([`windows`]) and each request a
//! [`Caller`](super::Caller) that says who is at the other end ([`access`]). Every task belongs to its connection, every
//! connection to [`serve`]: when that returns, nothing of them runs any more.

mod access;
mod connection;
mod listener;
mod preface;
mod tls;
mod windows;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::select_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tonic::service::Routes;

pub use access::Access;
pub use listener::{BindError, Listener, bind_http};
pub use tls::{Certificates, TlsError};
pub use windows::{Pool, Share, Windows};

use crate::config::serve::Limits;
use listener::Accepted;

/// A listener that fails to accept, as when there are no file descriptors left, is asked again after this time.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Refused connections are told about at most this often.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What the accept loop needs to know.
pub struct ServerOptions {
    /// Who may do what.
    pub access: Access,
    /// Bounds.
    pub limits: Limits,
    /// What connections get their windows from.
    pub pool: Arc<Pool>,
}

/// What all connections share.
struct Server {
    routes: Routes,
    access: Access,
    pool: Arc<Pool>,
    streams_max: u32,
    /// Becomes true when connections should end.
    ending: watch::Receiver<bool>,
}

/// Serves until `shutdown` is ready, then lets calls under way end, for as long as `limits.drain` says, and drops the rest.
///
/// Returns the number of connections that had to be dropped.
pub async fn serve(
    routes: Routes,
    listeners: Vec<Listener>,
    options: ServerOptions,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let (end, ending) = watch::channel(false);
    let server = Arc::new(Server {
        routes: routes.prepare(),
        access: options.access,
        pool: options.pool,
        streams_max: options.limits.streams,
        ending,
    });
    let mut connections = Connections::new(options.limits.connections);
    tokio::select! {
        () = connections.accept_from(&listeners, &server) => {}
        () = shutdown => {}
    }
    drop(listeners);
    end.send_replace(true);
    connections.drain(options.limits.drain).await
}

/// The connections there are.
struct Connections {
    running: JoinSet<()>,
    free: Arc<Semaphore>,
    refusals: Refusals,
}

impl Connections {
    fn new(max: usize) -> Self {
        Self {
            running: JoinSet::new(),
            free: Arc::new(Semaphore::new(max)),
            refusals: Refusals::default(),
        }
    }

    /// Never returns.
    async fn accept_from(&mut self, listeners: &[Listener], server: &Arc<Server>) {
        loop {
            let next = select_all(listeners.iter().map(|listener| Box::pin(listener.accept())));
            let (accepted, _, _) = tokio::select! {
                accepted = next => accepted,
                Some(_) = self.running.join_next() => continue,
            };
            match accepted {
                Ok(accepted) => self.admit(accepted, server),
                Err(error) => wait_to_accept(&error).await,
            }
        }
    }

    /// Serves a connection, or closes it by dropping it.
    fn admit(&mut self, accepted: Accepted, server: &Arc<Server>) {
        match self.free.clone().try_acquire_owned() {
            Ok(permit) => {
                let serving = connection::serve(server.clone(), accepted);
                self.running.spawn(held(permit, serving));
            }
            Err(_) => self.refusals.count(),
        }
    }

    /// Waits for all to end; the number of those that did not in time.
    async fn drain(&mut self, time: Duration) -> usize {
        let all = async { while self.running.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(time, all).await;
        let left = self.running.len();
        self.running.shutdown().await;
        left
    }
}

async fn held(permit: OwnedSemaphorePermit, serving: impl Future<Output = ()>) {
    serving.await;
    drop(permit);
}

async fn wait_to_accept(error: &io::Error) {
    // The other side gave up before we came: nothing is wrong here.
    if matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    ) {
        return;
    }
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(ACCEPT_AGAIN).await;
}

/// Refused connections since they were last told about.
#[derive(Default)]
struct Refusals {
    count: u64,
    told: Option<Instant>,
}

impl Refusals {
    fn count(&mut self) {
        self.count += 1;
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            tracing::warn!(connections = self.count, "closed: limits.connections are open already");
            *self = Self {
                count: 0,
                told: Some(Instant::now()),
            };
        }
    }
}
