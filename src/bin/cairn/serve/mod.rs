//! `cairn serve`: the agent. Configuration in, sockets bound, store opened, calls answered, an orderly end.

mod keys;
mod signals;

use std::path::PathBuf;
use std::sync::Arc;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use cairn_agent::codec::Secret;
use cairn_agent::config::serve::{self, KeySource, ServeFlags, Settings};
use cairn_agent::engine::Store;
use cairn_agent::http::metrics::Metrics;
use cairn_agent::http::{self, HttpState, Phase, Render};
use cairn_agent::service::server::{
    self, Access, BindError, Certificates, Listener, Pool, ServerOptions, TlsError, bind_http,
};
use cairn_agent::service::{self, Agent, AgentSettings, KeyProvider};

use crate::failure::{Failure, UNAVAILABLE};
use crate::session::GlobalFlags;
use crate::telemetry;

use self::keys::KeyFiles;
use self::signals::Signals;

/// Threads of the async runtime follow those that compute, within bounds: it moves frames and waits.
const RUNTIME_THREADS: (usize, usize) = (2, 8);
/// Threads for what blocks, the file system above all. More would wait for the same disk, and each keeps memory of its own.
const BLOCKING_THREADS: usize = 32;

/// Run the agent: answer gRPC calls until told to stop
#[derive(Args)]
pub(crate) struct Serve {
    /// The configuration file; docs/cairn.toml is a commented sample
    #[arg(long, value_name = "FILE", env = "CAIRN_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Check the configuration, with keys and certificates, and start nothing
    #[arg(long)]
    check_config: bool,
    /// Where to serve gRPC: unix:///path, http://host:port or https://host:port; can be repeated [default:
    /// http://127.0.0.1:7420]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Where to serve metrics and health, or off [default: 127.0.0.1:7421]
    #[arg(long, value_name = "HOST:PORT")]
    http: Option<String>,
    /// Certificates, in PEM, of those who sign clients: with it every client needs a certificate
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The agent's certificate, in PEM
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The agent's private key, in PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

impl Serve {
    pub(crate) fn run(mut self, flags: GlobalFlags, matches: &ArgMatches) -> Result<(), Failure> {
        let check = self.check_config;
        self.forget_a_client(matches);
        let configuration = self.configuration(flags)?;
        if check {
            return check_files(&configuration);
        }
        crate::allocator::settle();
        telemetry::init_service(&configuration.log)?;
        let (least, most) = RUNTIME_THREADS;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(configuration.threads.get().clamp(least, most))
            .max_blocking_threads(BLOCKING_THREADS)
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("the operating system gives no threads: {error}")))?;
        let served = runtime.block_on(serve(configuration));
        // Everything that matters has ended; a thread that waits for a file system must not hold up the end.
        runtime.shutdown_background();
        served
    }

    /// Clients of an agent have flags of the same names, with an environment of their own.
    fn forget_a_client(&mut self, matches: &ArgMatches) {
        for (id, flag) in [
            ("tls_ca", &mut self.tls_ca),
            ("tls_cert", &mut self.tls_cert),
            ("tls_key", &mut self.tls_key),
        ] {
            if matches.value_source(id) != Some(ValueSource::CommandLine) {
                *flag = None;
            }
        }
    }

    fn configuration(self, flags: GlobalFlags) -> Result<serve::Serve, Failure> {
        let places = ServeFlags {
            config: self.config.clone(),
            place: flags.place(),
        };
        Ok(serve::Serve::resolve(places, std::env::vars_os(), |settings| {
            self.lay_over(settings);
        })?)
    }

    fn lay_over(self, settings: &mut Settings) {
        if !self.listen.is_empty() {
            settings.add_flag("--listen", "listen.grpc", self.listen);
        }
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let single = [
            ("--http", "listen.http", self.http),
            ("--tls-ca", "tls.ca", self.tls_ca.map(text)),
            ("--tls-cert", "tls.cert", self.tls_cert.map(text)),
            ("--tls-key", "tls.key", self.tls_key.map(text)),
        ];
        for (flag, key, value) in single {
            if let Some(value) = value {
                settings.add_flag(flag, key, value);
            }
        }
    }
}

/// What starting would read and could find wrong.
fn check_files(configuration: &serve::Serve) -> Result<(), Failure> {
    use std::io::Write;
    configuration.store_options()?;
    certificates(configuration)?;
    writeln!(std::io::stdout(), "ok").map_err(Failure::output)
}

fn certificates(configuration: &serve::Serve) -> Result<Option<Arc<Certificates>>, TlsError> {
    configuration.tls.clone().map(Certificates::load).transpose()
}

/// Where the agent is reached.
struct Sockets {
    grpc: Vec<Listener>,
    http: Option<TcpListener>,
}

impl Sockets {
    async fn bind(configuration: &serve::Serve, tls: Option<&Arc<Certificates>>) -> Result<Self, BindError> {
        let mut grpc = Vec::new();
        for address in &configuration.grpc {
            grpc.push(Listener::bind(address, tls).await?);
        }
        let http = match &configuration.http {
            Some(host) => Some(bind_http(host).await?),
            None => None,
        };
        Ok(Self { grpc, http })
    }
}

async fn serve(configuration: serve::Serve) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let tls = certificates(&configuration)?;
    let sockets = Sockets::bind(&configuration, tls.as_ref()).await?;
    let state = HttpState::new();
    let metrics = Arc::new(Metrics::new());
    let http = sockets.http.as_ref().and_then(|listener| listener.local_addr().ok());
    let mut tasks = JoinSet::new();
    tasks.spawn(state.clone().beat());
    if let Some(listener) = sockets.http {
        tasks.spawn(http::serve(listener, state.clone()));
    }
    if let Some(certificates) = tls {
        tasks.spawn(certificates.follow());
    }
    let store = tokio::select! {
        opened = open(&configuration, &mut tasks) => opened?,
        _ = signals.first() => return Ok(()),
    };
    let watched = store.clone();
    tasks.spawn(async move { watched.monitor().await });
    state.set_metrics(rendering(&metrics, &store));
    let agent = Agent::new(store.clone(), agent_settings(&configuration, &metrics));
    tasks.spawn(agent.clone().keep_scrubbing());
    tasks.spawn(agent.clone().keep_reclaiming());
    // In this order: whoever reads that the agent serves finds it ready.
    state.enter(Phase::Serving);
    tell_start(&configuration, &sockets.grpc, http);
    if !Secret::memory_is_locked() {
        tracing::warn!(
            "the system does not allow to lock memory: keys may be swapped out; raise the limit (ulimit -l)"
        );
    }
    let ended = answer(&configuration, sockets.grpc, &agent, metrics, async {
        let ended = end(&mut signals, &mut tasks).await;
        state.enter(Phase::Ending);
        agent.shutting_down();
        ended
    })
    .await;
    agent.close().await;
    store.close().await;
    tasks.shutdown().await;
    tracing::info!("stopped");
    ended
}

async fn open(configuration: &serve::Serve, tasks: &mut JoinSet<()>) -> Result<Store, Failure> {
    let KeySource::File(path) = &configuration.keys else {
        return Ok(Store::open_or_empty(configuration.store_options_with(Vec::new())?).await?);
    };
    let (files, keks) = KeyFiles::read(path.clone()).await?;
    let store = Store::open_or_empty(configuration.store_options_with(keks)?).await?;
    tasks.spawn(files.follow(store.clone()));
    Ok(store)
}

fn rendering(metrics: &Arc<Metrics>, store: &Store) -> Render {
    let (metrics, store) = (metrics.clone(), store.clone());
    Arc::new(move || {
        let text = metrics.render(&store);
        Box::pin(async { text })
    })
}

fn agent_settings(configuration: &serve::Serve, metrics: &Arc<Metrics>) -> AgentSettings {
    AgentSettings {
        stream_idle: configuration.limits.stream_idle,
        streams_max: configuration.limits.streams,
        key_provider: match configuration.keys {
            KeySource::File(_) => KeyProvider::File,
            KeySource::Core => KeyProvider::Core,
        },
        scrubs: configuration.scrubs,
        reclaims: configuration.reclaims,
        observer: metrics.clone(),
    }
}

/// Answers calls until `end` is ready and they have ended or had their time; what `end` gave.
async fn answer<T>(
    configuration: &serve::Serve,
    listeners: Vec<Listener>,
    agent: &Arc<Agent>,
    metrics: Arc<Metrics>,
    end: impl Future<Output = T>,
) -> T {
    let options = ServerOptions {
        access: Access::new(configuration.clients.clone()),
        limits: configuration.limits,
        pool: Pool::beside(configuration.budget_bytes),
        metrics,
    };
    let (told, why) = tokio::sync::oneshot::channel();
    let end = async {
        let _ = told.send(end.await);
    };
    let dropped = server::serve(service::routes(agent.clone()), listeners, options, end).await;
    if dropped > 0 {
        tracing::warn!(connections = dropped, "closed before their calls had ended");
    }
    why.await.expect("the server ends after what it waits for")
}

/// Returns when the process is to end: told so by a signal, or because one of its own tasks is gone.
async fn end(signals: &mut Signals, tasks: &mut JoinSet<()>) -> Result<(), Failure> {
    tokio::select! {
        number = signals.first() => {
            tracing::info!(signal = number, "stopping: calls under way may end, new ones are refused");
            Ok(())
        }
        Some(_) = tasks.join_next() => {
            tracing::error!("stopping: a task of this process ended, which is a defect");
            Err(Failure::failed("a defect of this program ended the agent; please report it"))
        }
    }
}

fn tell_start(configuration: &serve::Serve, listeners: &[Listener], http: Option<std::net::SocketAddr>) {
    let grpc: Vec<_> = listeners
        .iter()
        .map(|listener| listener.address().to_string())
        .collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        grpc = grpc.join(","),
        http = http.map_or("off".to_owned(), |address| address.to_string()),
        store = %configuration.place.location,
        budget_bytes = configuration.budget_bytes,
        threads = configuration.threads,
        "serving"
    );
}

impl From<TlsError> for Failure {
    fn from(error: TlsError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        match error.is_in_use() {
            true => Self::new(UNAVAILABLE, error.to_string()),
            false => Self::usage(error.to_string()),
        }
    }
}
