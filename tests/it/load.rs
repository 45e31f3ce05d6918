//! Many clients at once, the end of the process under load, and a volume that fills up.
//!
//! The short form runs with every change; `scripts/load` runs the same with more data.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use cairn_agent::engine::Reason;
use cairn_agent::service::errors;
use cairn_agent::service::proto::agent_client::AgentClient;
use cairn_agent::service::proto::data_path_client::DataPathClient;
use cairn_agent::service::proto::{
    DeleteOutcome, DeleteRequest, GetRequest, GetStatusRequest, Mode, PutHeader, PutRequest, PutResult,
    WatchStatusRequest,
};
use cairn_agent::service::proto::{get_response, put_request, put_response};
use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::agent::Agent;
use crate::support::{Home, Volume, eventually, resident_peak};

const CLIENTS: u64 = 64;
const BUDGET: u64 = 64 << 20;
/// Beyond the budget: code, threads, catalog, what the network holds, what the allocator keeps.
const OVERHEAD: u64 = 128 << 20;
const FRAME: usize = 256 << 10;

/// MiB that each client puts.
fn mib_each() -> u64 {
    let given = std::env::var("CAIRN_LOAD_MIB").ok();
    given.map_or(8, |text| text.parse().expect("CAIRN_LOAD_MIB is a number of MiB"))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

async fn channel(socket: &Path) -> Channel {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
    endpoint.connect().await.unwrap()
}

async fn connect(socket: &Path) -> DataPathClient<Channel> {
    DataPathClient::new(channel(socket).await)
}

/// Puts `len` bytes that only `seed` decides.
async fn put(client: &mut DataPathClient<Channel>, name: &str, seed: u64, len: u64) -> Result<PutResult, Status> {
    let (sender, requests) = mpsc::channel(2);
    let header = PutHeader {
        name: name.to_owned(),
        ..PutHeader::default()
    };
    let send = async move {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut parts = vec![put_request::Part::Header(header)];
        let mut left = len;
        loop {
            for part in parts.drain(..) {
                // An agent that refuses stops reading; the answer says why.
                if sender.send(PutRequest { part: Some(part) }).await.is_err() {
                    return;
                }
            }
            if left == 0 {
                let finish = put_request::Part::Finish(Default::default());
                let _ = sender.send(PutRequest { part: Some(finish) }).await;
                return;
            }
            let mut data = vec![0; left.min(FRAME as u64) as usize];
            rng.fill_bytes(&mut data);
            left -= data.len() as u64;
            parts.push(put_request::Part::Data(Bytes::from(data)));
        }
    };
    let receive = async {
        let mut answers = client.put(ReceiverStream::new(requests)).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            if let Some(put_response::Part::Result(result)) = answer.part {
                return Ok(result);
            }
        }
        Err(Status::new(Code::Unavailable, "the stream ended without a result"))
    };
    tokio::join!(send, receive).1
}

/// Gets the object and compares it with what `seed` makes.
async fn check(client: &mut DataPathClient<Channel>, name: &str, seed: u64, len: u64) {
    let request = GetRequest {
        name: name.to_owned(),
        ..GetRequest::default()
    };
    let mut answers = client.get(request).await.unwrap().into_inner();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut at, mut ended) = (0, false);
    let mut made = Vec::new();
    let mut expected = vec![0; FRAME];
    while let Some(answer) = answers.message().await.unwrap() {
        match answer.part.unwrap() {
            get_response::Part::Header(header) => assert_eq!(header.length, len),
            get_response::Part::Data(frame) => {
                assert_eq!(frame.offset, at, "{name}");
                at += frame.data.len() as u64;
                while made.len() < frame.data.len() {
                    let next = (len - (at - frame.data.len() as u64) - made.len() as u64).min(FRAME as u64) as usize;
                    rng.fill_bytes(&mut expected[..next]);
                    made.extend_from_slice(&expected[..next]);
                }
                assert!(made[..frame.data.len()] == frame.data, "{name} differs before {at}");
                made.drain(..frame.data.len());
            }
            get_response::Part::End(_) => ended = true,
        }
    }
    assert!(ended && at == len, "{name} ended at {at} of {len}");
}

#[test]
fn memory_is_bounded_however_many_clients_there_are() {
    let home = Home::new();
    home.put("first", b"makes the store");
    let agent = Agent::start_with(&home, &[], |command| {
        command.env("CAIRN_BUDGET__BYTES", BUDGET.to_string());
    });
    let len = mib_each() << 20;
    runtime().block_on(async {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|seed| {
                let socket = agent.unix.clone();
                tokio::spawn(async move {
                    let mut client = connect(&socket).await;
                    let name = format!("object-{seed}");
                    let result = put(&mut client, &name, seed, len).await.unwrap();
                    assert_eq!(result.object.unwrap().bytes, len);
                    (client, name, seed)
                })
            })
            .collect();
        let mut readers = Vec::new();
        for client in clients {
            readers.push(client.await.unwrap());
        }
        println!(
            "{} MiB resident at most after the puts",
            resident_peak(agent.pid()) >> 20
        );
        let reading = readers
            .into_iter()
            .map(|(mut client, name, seed)| tokio::spawn(async move { check(&mut client, &name, seed, len).await }));
        for reader in reading.collect::<Vec<_>>() {
            reader.await.unwrap();
        }
    });
    let peak = resident_peak(agent.pid());
    println!(
        "{CLIENTS} clients of {} MiB: {} MiB resident at most",
        len >> 20,
        peak >> 20
    );
    assert!(peak <= BUDGET + OVERHEAD, "{} MiB resident", peak >> 20);
}

/// Clients that put objects of many sizes until the agent goes; what each was told is stored.
async fn put_until_it_ends(socket: std::path::PathBuf, client: u64) -> BTreeMap<String, (u64, u64)> {
    let mut acknowledged = BTreeMap::new();
    let mut data_path = connect(&socket).await;
    for round in 0.. {
        let (name, seed) = (format!("{client}/{}", round % 7), client << 32 | round);
        let len = [0, 100, 70_000, 3 << 20, 9 << 20][(seed % 5) as usize];
        // What is not acknowledged may be there or not.
        acknowledged.remove(&name);
        match put(&mut data_path, &name, seed, len).await {
            Ok(_) => acknowledged.insert(name, (seed, len)),
            Err(_) => break,
        };
    }
    acknowledged
}

fn nothing_acknowledged_is_lost(end: impl FnOnce(Agent)) {
    let home = Home::new();
    home.put("first", b"makes the store");
    let agent = Agent::start(&home, &[]);
    let runtime = runtime();
    let clients: Vec<_> = (0..6)
        .map(|client| runtime.spawn(put_until_it_ends(agent.unix.clone(), client)))
        .collect();
    // Once a good part has gone through, in the middle of the next.
    eventually("objects are put", || {
        let packs = home.store_files("/packs/");
        let lens = packs.iter().map(|pack| pack.metadata().map_or(0, |found| found.len()));
        (lens.sum::<u64>() > 48 << 20).then_some(())
    });
    end(agent);
    let acknowledged: Vec<_> = runtime.block_on(async {
        let mut all = Vec::new();
        for client in clients {
            all.extend(client.await.unwrap());
        }
        all
    });
    assert!(acknowledged.len() > 6, "{} were acknowledged", acknowledged.len());

    let agent = Agent::start(&home, &[]);
    runtime.block_on(async {
        let mut client = connect(&agent.unix).await;
        for (name, (seed, len)) in acknowledged {
            check(&mut client, &name, seed, len).await;
        }
    });
}

#[test]
fn an_orderly_end_under_load_loses_nothing() {
    nothing_acknowledged_is_lost(|mut agent| {
        agent.signal(Signal::TERM);
        let (code, log) = agent.wait();
        assert_eq!(code, Some(0), "{log}");
    });
}

#[test]
fn a_kill_under_load_loses_nothing() {
    nothing_acknowledged_is_lost(|mut agent| agent.kill());
}

/// The modes that a watcher was told, in order, without repeats.
async fn watch(socket: std::path::PathBuf, told: std::sync::Arc<std::sync::Mutex<Vec<Mode>>>) {
    let mut agent = AgentClient::new(channel(&socket).await);
    let mut statuses = agent.watch_status(WatchStatusRequest {}).await.unwrap().into_inner();
    while let Ok(Some(message)) = statuses.message().await {
        let status = message.status.unwrap();
        let capacity = status.capacity.unwrap();
        assert!(capacity.free_bytes <= capacity.total_bytes);
        let mode = status.mode();
        if mode == Mode::NoCapacity {
            let cause = &status.causes[0];
            assert_eq!((cause.code.as_str(), cause.mode()), ("FREE_BYTES", Mode::NoCapacity));
            assert!(cause.value < cause.threshold, "{cause:?}");
        }
        let mut told = told.lock().unwrap();
        if told.last() != Some(&mode) {
            told.push(mode);
        }
    }
}

#[test]
fn a_full_volume_is_told_refuses_puts_and_comes_back() {
    let Some(volume) = Volume::of_bytes(192 << 20) else {
        return;
    };
    let home = Home::with_store(&volume.path().join("store"));
    home.put("first", b"makes the store");
    let agent = Agent::start_with(&home, &[], |command| {
        command.env("CAIRN_BUDGET__BYTES", "32MiB");
    });
    let told: std::sync::Arc<std::sync::Mutex<Vec<Mode>>> = std::sync::Arc::default();
    let runtime = runtime();
    let watching = runtime.spawn(watch(agent.unix.clone(), std::sync::Arc::clone(&told)));
    let mode_is = |mode: Mode| {
        eventually(&format!("the mode {mode:?}"), || {
            (told.lock().unwrap().last() == Some(&mode)).then_some(())
        });
    };
    mode_is(Mode::Optimal);

    const LEN: u64 = 8 << 20;
    let mut stored = Vec::new();
    let refused = runtime.block_on(async {
        let mut client = connect(&agent.unix).await;
        let mut status = AgentClient::new(channel(&agent.unix).await);
        loop {
            // A watcher that is slow gets the newest state only: it is given the time to see each.
            let now = status.get_status(GetStatusRequest {}).await.unwrap().into_inner();
            let mode = now.status.unwrap().mode();
            eventually("the mode being told", || {
                told.lock().unwrap().contains(&mode).then_some(())
            });
            let name = format!("object-{}", stored.len());
            match put(&mut client, &name, stored.len() as u64, LEN).await {
                Ok(_) => stored.push(name),
                Err(status) => break status,
            }
        }
    });
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(errors::error(&refused).reason(), Reason::NoCapacity);
    mode_is(Mode::NoCapacity);

    runtime.block_on(async {
        let mut client = connect(&agent.unix).await;
        let again = put(&mut client, "again", 1, LEN).await.unwrap_err();
        assert_eq!(errors::error(&again).reason(), Reason::NoCapacity);
        check(&mut client, &stored[0], 0, LEN).await;
        let request = DeleteRequest {
            names: stored.clone(),
            ..DeleteRequest::default()
        };
        let results = client.delete(request).await.unwrap().into_inner().results;
        assert!(results.iter().all(|result| result.outcome() == DeleteOutcome::Deleted));
    });
    Home::new().run(&["gc", "--agent", &agent.unix_address()]).ok();
    mode_is(Mode::Optimal);
    runtime.block_on(async {
        let mut client = connect(&agent.unix).await;
        put(&mut client, "after", 1, LEN).await.unwrap();
        check(&mut client, "after", 1, LEN).await;
    });
    watching.abort();
    let told = told.lock().unwrap();
    let passed = [Mode::Optimal, Mode::LowCapacity, Mode::NoCapacity];
    assert!(told.windows(3).any(|modes| modes == passed), "{told:?}");
}
