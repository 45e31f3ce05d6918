//! What does the network service cost: a stream put, put again and got by one client over a Unix socket, against the same
//! done in the process?
//!
//! Client and agent share this process and its cores, each with a runtime of its own, as they would share a machine.
//! Data, and where packs go, as in the bench `engine`: random and text-like bytes, a directory in memory. Objects of 4 KiB
//! go to the temporary directory, which should be on a disk: what they wait for is part of the question.

#[path = "../src/bin/cairn/allocator.rs"]
mod allocator;
mod callers;
mod streams;

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_agent::backend::Location;
use cairn_agent::catalog;
use cairn_agent::config::serve::{Address, Limits};
use cairn_agent::engine::{ByteRange, NewRepository, PutOptions, Repository, Store, StoreOptions};
use cairn_agent::service::proto::data_path_client::DataPathClient;
use cairn_agent::service::proto::{GetRequest, PutHeader, PutRequest};
use cairn_agent::service::proto::{get_response, put_request, put_response};
use cairn_agent::service::server::{Access, Listener, Pool, ServerOptions, serve};
use cairn_agent::service::{Agent, AgentSettings, routes};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use callers::by_callers;
use streams::{STREAM_LEN, directory, random, text};

const REPOSITORY: &str = "default";
/// What the contract advises.
const FRAME_LEN: usize = 256 << 10;

/// A store in a directory of its own, with an agent that serves it.
struct Place {
    repository: Repository,
    client: DataPathClient<Channel>,
    end: Option<oneshot::Sender<()>>,
    serving: Option<tokio::task::JoinHandle<usize>>,
    _directory: tempfile::TempDir,
}

impl Place {
    fn new(directory: tempfile::TempDir, runtimes: &Runtimes) -> Self {
        let mut options = StoreOptions::in_memory("bench").expect("random bytes");
        options.location = Location::Directory(directory.path().join("store"));
        options.catalog = catalog::Location::Directory(directory.path().join("catalog"));
        let socket = directory.path().join("socket");
        let (end, ended) = oneshot::channel();
        let (repository, serving) = runtimes.agent.block_on(async {
            let new = NewRepository::named(REPOSITORY).expect("a name");
            let store = Store::open_or_create(options, new).await.expect("a store");
            let repository = store.repository(REPOSITORY).await.expect("the repository");
            let listener = Listener::bind(&Address::Unix(socket.clone()), None)
                .await
                .expect("a socket");
            let server = ServerOptions {
                access: Access::new(Vec::new()),
                limits: Limits::default(),
                pool: Pool::beside(store.budget_bytes()),
                metrics: Arc::default(),
            };
            let routes = routes(Agent::new(store, AgentSettings::default()));
            let serving = serve(routes, vec![listener], server, async {
                let _ = ended.await;
            });
            (repository, tokio::spawn(serving))
        });
        Self {
            repository,
            client: runtimes.client.block_on(connect(&socket)),
            end: Some(end),
            serving: Some(serving),
            _directory: directory,
        }
    }

    /// Who asks this way, and where.
    fn asker<'a>(&self, way: Way, runtimes: &'a Runtimes) -> (&'a Runtime, Asker) {
        match way {
            Way::InTheProcess => (&runtimes.agent, Asker::Near(self.repository.clone())),
            Way::OverASocket => (&runtimes.client, Asker::Far(self.client.clone())),
        }
    }

    fn end(mut self, runtimes: &Runtimes) {
        drop(self.client);
        drop(self.end.take());
        if let Some(serving) = self.serving.take() {
            runtimes.agent.block_on(serving).expect("the agent ends");
        }
        runtimes.agent.block_on(self.repository.close());
    }
}

async fn connect(socket: &Path) -> DataPathClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
        .expect("an address")
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20);
    let channel = endpoint.connect().await.expect("the agent");
    DataPathClient::new(channel).max_decoding_message_size(2 << 20)
}

/// How an agent is asked.
#[derive(Clone, Copy)]
enum Way {
    InTheProcess,
    OverASocket,
}

impl Way {
    const ALL: [Self; 2] = [Self::InTheProcess, Self::OverASocket];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InTheProcess => "in the process",
            Self::OverASocket => "over a socket",
        })
    }
}

/// Who asks.
#[derive(Clone)]
enum Asker {
    Near(Repository),
    Far(DataPathClient<Channel>),
}

impl Asker {
    async fn put(&mut self, name: &str, data: &Bytes) {
        match self {
            Self::Near(repository) => put(repository, name, data).await,
            Self::Far(client) => put_remote(client, name, data).await,
        }
    }

    async fn get(&mut self, name: &str) {
        match self {
            Self::Near(repository) => get(repository, name).await,
            Self::Far(client) => get_remote(client, name).await,
        }
    }
}

/// A put in the process.
async fn put(repository: &Repository, name: &str, data: &[u8]) {
    repository.put(name, data, PutOptions::default()).await.expect("a put");
}

/// A put through the agent.
async fn put_remote(client: &mut DataPathClient<Channel>, name: &str, data: &Bytes) {
    let (sender, requests) = mpsc::channel(4);
    let header = PutHeader {
        name: name.to_owned(),
        ..PutHeader::default()
    };
    let data = data.clone();
    let send = async move {
        let message = |part| PutRequest { part: Some(part) };
        sender
            .send(message(put_request::Part::Header(header)))
            .await
            .expect("taken");
        for at in (0..data.len()).step_by(FRAME_LEN) {
            let frame = data.slice(at..data.len().min(at + FRAME_LEN));
            sender
                .send(message(put_request::Part::Data(frame)))
                .await
                .expect("taken");
        }
        let finish = put_request::Part::Finish(Default::default());
        sender.send(message(finish)).await.expect("taken");
    };
    let receive = async {
        let mut answers = client
            .put(ReceiverStream::new(requests))
            .await
            .expect("accepted")
            .into_inner();
        loop {
            let answer = answers.message().await.expect("no failure").expect("a result");
            if let Some(put_response::Part::Result(_)) = answer.part {
                break;
            }
        }
    };
    tokio::join!(send, receive);
}

async fn get(repository: &Repository, name: &str) {
    let mut reader = repository.get(name, ByteRange::All).await.expect("the object");
    while let Some(bytes) = reader.next().await.expect("its bytes") {
        std::hint::black_box(&bytes);
    }
}

async fn get_remote(client: &mut DataPathClient<Channel>, name: &str) {
    let request = GetRequest {
        name: name.to_owned(),
        ..GetRequest::default()
    };
    let mut answers = client.get(request).await.expect("the object").into_inner();
    let mut ended = false;
    while let Some(answer) = answers.message().await.expect("its bytes") {
        ended |= matches!(answer.part, Some(get_response::Part::End(_)));
    }
    assert!(ended, "a read has an end");
}

/// The agent's, with a thread for each core, and the client's, with one.
struct Runtimes {
    agent: Runtime,
    client: Runtime,
}

impl Runtimes {
    fn new() -> Self {
        let runtime = |name: &str, threads| {
            tokio::runtime::Builder::new_multi_thread()
                .thread_name(name)
                .worker_threads(threads)
                .enable_all()
                .build()
                .expect("a runtime")
        };
        let all = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self {
            agent: runtime("agent", all),
            client: runtime("client", 1),
        }
    }
}

fn timed(runtime: &Runtime, work: impl Future) -> Duration {
    let start = Instant::now();
    runtime.block_on(work);
    start.elapsed()
}

fn streams(c: &mut Criterion) {
    let runtimes = Runtimes::new();
    let mut group = c.benchmark_group("grpc");
    group.throughput(Throughput::Bytes(STREAM_LEN as u64)).sample_size(10);
    for (kind, data) in [("random", random()), ("text", text())] {
        let data = Bytes::from(data);
        for way in Way::ALL {
            // Each put of new data needs a store that has not seen it.
            let once = || {
                let place = Place::new(directory(), &runtimes);
                let (runtime, mut asker) = place.asker(way, &runtimes);
                let time = timed(runtime, asker.put("a", &data));
                drop(asker);
                place.end(&runtimes);
                time
            };
            group.bench_function(BenchmarkId::new("put", format!("{kind}, {way}")), |b| {
                b.iter_custom(|rounds| (0..rounds).map(|_| once()).sum())
            });
        }
        let place = Place::new(directory(), &runtimes);
        runtimes.agent.block_on(put(&place.repository, "a", &data));
        for way in Way::ALL {
            let (runtime, mut asker) = place.asker(way, &runtimes);
            group.bench_function(BenchmarkId::new("put again", format!("{kind}, {way}")), |b| {
                b.iter_custom(|rounds| (0..rounds).map(|_| timed(runtime, asker.put("b", &data))).sum())
            });
            group.bench_function(BenchmarkId::new("get", format!("{kind}, {way}")), |b| {
                b.iter_custom(|rounds| (0..rounds).map(|_| timed(runtime, asker.get("a"))).sum())
            });
        }
        place.end(&runtimes);
    }
    group.finish();
}

/// Objects of 4 KiB that do not compress, by one caller, and by many at once over one connection.
fn small_objects(c: &mut Criterion) {
    const OBJECTS: u64 = 10_000;
    let runtimes = Runtimes::new();
    let mut group = c.benchmark_group("grpc small");
    group.sample_size(10);
    for way in Way::ALL {
        let directory = tempfile::tempdir().expect("a directory for the store");
        let place = Place::new(directory, &runtimes);
        let (runtime, asker) = place.asker(way, &runtimes);
        runtime.block_on(put_small(asker.clone(), 64, 0..OBJECTS));
        let (mut next_put, mut next_get) = (OBJECTS, 0);
        for (callers, turns) in [(1, 200), (64, 6_400)] {
            group.throughput(Throughput::Elements(turns));
            group.bench_function(BenchmarkId::new("put", format!("{way}, callers: {callers}")), |b| {
                b.iter_custom(|rounds| {
                    let first = next_put;
                    next_put += rounds * turns;
                    timed(runtime, put_small(asker.clone(), callers, first..next_put))
                })
            });
            group.bench_function(BenchmarkId::new("get", format!("{way}, callers: {callers}")), |b| {
                b.iter_custom(|rounds| {
                    let first = next_get;
                    next_get += rounds * turns;
                    timed(runtime, get_small(asker.clone(), callers, first..next_get, OBJECTS))
                })
            });
        }
        drop(asker);
        place.end(&runtimes);
    }
    group.finish();
}

async fn put_small(asker: Asker, callers: u64, numbers: Range<u64>) {
    let (first, turns) = (numbers.start, numbers.end - numbers.start);
    let put = move |turn| {
        let (mut asker, number) = (asker.clone(), first + turn);
        async move { asker.put(&name(number), &object(number)).await }
    };
    by_callers(callers, turns, put).await;
}

/// The objects of these turns, in an order that no pack has.
async fn get_small(asker: Asker, callers: u64, turns: Range<u64>, objects: u64) {
    /// Has no factor in common with a round number of objects.
    const STEP: u64 = 7_919;
    let first = turns.start;
    let get = move |turn| {
        let mut asker = asker.clone();
        async move { asker.get(&name((first + turn) * STEP % objects)).await }
    };
    by_callers(callers, turns.end - first, get).await;
}

fn name(number: u64) -> String {
    format!("object {number}")
}

fn object(number: u64) -> Bytes {
    let mut bytes = vec![0; 4 << 10];
    ChaCha8Rng::seed_from_u64(number).fill_bytes(&mut bytes);
    bytes.into()
}

criterion_group!(benches, streams, small_objects);

/// With the allocator as the program settles it.
fn main() {
    allocator::settle();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
