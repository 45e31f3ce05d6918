//! What does the network service cost: a stream put, put again and got by one client over a Unix socket, against the same
//! done in the process?
//!
//! Client and agent share this process and its cores, each with a runtime of its own, as they would share a machine.
//! Data, and where packs go, as in the bench `engine`: random and text-like bytes, a directory in memory.

mod streams;

use std::num::NonZeroUsize;
use std::path::Path;
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
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

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
    fn new(agent: &Runtime, client: &Runtime) -> Self {
        let directory = directory();
        let mut options = StoreOptions::in_memory("bench").expect("random bytes");
        options.location = Location::Directory(directory.path().join("store"));
        options.catalog = catalog::Location::Directory(directory.path().join("catalog"));
        let socket = directory.path().join("socket");
        let (end, ended) = oneshot::channel();
        let (repository, serving) = agent.block_on(async {
            let new = NewRepository::named(REPOSITORY).expect("a name");
            let store = Store::open_or_create(options, new).await.expect("a store");
            let repository = store.repository(REPOSITORY).await.expect("the repository");
            let listener = Listener::bind(&Address::Unix(socket.clone()), None).await.expect("a socket");
            let server = ServerOptions {
                access: Access::new(Vec::new()),
                limits: Limits::default(),
                pool: Pool::beside(store.budget_bytes()),
            };
            let routes = routes(Agent::new(store, AgentSettings::default()));
            let serving = serve(routes, vec![listener], server, async {
                let _ = ended.await;
            });
            (repository, tokio::spawn(serving))
        });
        Self {
            repository,
            client: client.block_on(connect(&socket)),
            end: Some(end),
            serving: Some(serving),
            _directory: directory,
        }
    }

    fn end(mut self, agent: &Runtime) {
        drop(self.client);
        drop(self.end.take());
        if let Some(serving) = self.serving.take() {
            agent.block_on(serving).expect("the agent ends");
        }
        agent.block_on(self.repository.close());
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
        sender.send(message(put_request::Part::Header(header))).await.expect("taken");
        for at in (0..data.len()).step_by(FRAME_LEN) {
            let frame = data.slice(at..data.len().min(at + FRAME_LEN));
            sender.send(message(put_request::Part::Data(frame))).await.expect("taken");
        }
        let finish = put_request::Part::Finish(Default::default());
        sender.send(message(finish)).await.expect("taken");
    };
    let receive = async {
        let mut answers = client.put(ReceiverStream::new(requests)).await.expect("accepted").into_inner();
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

fn timed(runtime: &Runtime, work: impl Future<Output = ()>) -> Duration {
    let start = Instant::now();
    runtime.block_on(work);
    start.elapsed()
}

fn grpc(c: &mut Criterion) {
    let runtime = |threads| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let all = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let (agent, client) = (runtime(all), runtime(1));
    let mut group = c.benchmark_group("grpc");
    group.throughput(Throughput::Bytes(STREAM_LEN as u64)).sample_size(10);
    for (kind, data) in [("random", random()), ("text", text())] {
        let data = Bytes::from(data);
        // Each put of new data needs a store that has not seen it.
        let fresh = |work: &dyn Fn(&mut Place) -> Duration| {
            let mut place = Place::new(&agent, &client);
            let time = work(&mut place);
            place.end(&agent);
            time
        };
        group.bench_function(BenchmarkId::new("put", format!("{kind}, in the process")), |b| {
            b.iter_custom(|rounds| {
                let once = || fresh(&|place| timed(&agent, put(&place.repository, "a", &data)));
                (0..rounds).map(|_| once()).sum()
            })
        });
        group.bench_function(BenchmarkId::new("put", format!("{kind}, over a socket")), |b| {
            b.iter_custom(|rounds| {
                let once = || fresh(&|place| timed(&client, put_remote(&mut place.client, "a", &data)));
                (0..rounds).map(|_| once()).sum()
            })
        });
        let mut place = Place::new(&agent, &client);
        agent.block_on(put(&place.repository, "a", &data));
        group.bench_function(BenchmarkId::new("put again", format!("{kind}, in the process")), |b| {
            b.iter_custom(|rounds| {
                let once = |_| timed(&agent, put(&place.repository, "b", &data));
                (0..rounds).map(once).sum()
            })
        });
        group.bench_function(BenchmarkId::new("put again", format!("{kind}, over a socket")), |b| {
            b.iter_custom(|rounds| {
                let once = |_| timed(&client, put_remote(&mut place.client, "b", &data));
                (0..rounds).map(once).sum()
            })
        });
        group.bench_function(BenchmarkId::new("get", format!("{kind}, in the process")), |b| {
            b.iter_custom(|rounds| (0..rounds).map(|_| timed(&agent, get(&place.repository, "a"))).sum())
        });
        group.bench_function(BenchmarkId::new("get", format!("{kind}, over a socket")), |b| {
            b.iter_custom(|rounds| {
                let once = |_| timed(&client, get_remote(&mut place.client, "a"));
                (0..rounds).map(once).sum()
            })
        });
        place.end(&agent);
    }
    group.finish();
}

criterion_group!(benches, grpc);
criterion_main!(benches);
