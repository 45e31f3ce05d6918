//! Agents that break off, lie or forget: whatever they answer, a command does not call it success unless it is.

use std::collections::VecDeque;
use std::fs;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tonic::{Request, Response, Status, Streaming};

use cairn_agent::engine::{Error, Reason};
use cairn_agent::service::errors;
use cairn_agent::service::proto::data_path_server::{DataPath, DataPathServer};
use cairn_agent::service::proto::get_response::Part as Got;
use cairn_agent::service::proto::put_request::Part as Sent;
use cairn_agent::service::proto::put_response::Part as Said;
use cairn_agent::service::proto::{self, GetData, GetEnd, GetHeader, ObjectInfo, PutAccepted, PutHeader, PutResult};

use super::pair::interrupt;
use crate::support::{Home, Run, eventually, random_bytes};

type Answer<T> = Result<Response<T>, Status>;
/// The messages of a read.
type Read = Vec<Result<Got, Status>>;

/// Answers what it was told to, whatever is asked.
#[derive(Clone, Default)]
struct Strange {
    /// Whether reads go on without anything coming.
    hangs: bool,
    gets: Arc<Mutex<VecDeque<Read>>>,
    puts: Arc<Mutex<VecDeque<End>>>,
    /// What was put: the header and how many bytes before the end.
    seen: Arc<Mutex<Vec<(PutHeader, u64)>>>,
}

/// What becomes of a put.
#[derive(Clone)]
enum End {
    /// Refused before any data.
    Refused(Reason),
    /// All data is taken, and then this.
    Fails(Reason),
    /// All data is taken, and then nothing more is said.
    Silence,
    Stored,
}

impl Strange {
    /// Starts it; its address.
    async fn listen(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = tonic::service::Routes::new(DataPathServer::new(self.clone())).prepare();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = TowerToHyperService::new(routes.clone());
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        format!("http://{address}")
    }

    /// The runs of `get` that these answers make, in a place of its own.
    async fn get(&self, answers: Read, code: i32, parts: &'static [&'static str]) {
        self.gets.lock().unwrap().push_back(answers);
        let address = self.listen().await;
        let run = move || {
            let home = Home::new();
            let target = home.path("target");
            let target = target.to_str().unwrap();
            home.run(&["get", "object", target, "--agent", &address])
                .fails(code, parts);
            assert_eq!(
                fs::read_dir(home.root()).unwrap().count(),
                0,
                "something was left behind"
            );
        };
        tokio::task::spawn_blocking(run).await.unwrap();
    }
}

fn header(length: u64) -> Result<Got, Status> {
    let object = ObjectInfo {
        name: "object".to_owned(),
        bytes: length,
        ..ObjectInfo::default()
    };
    Ok(Got::Header(GetHeader {
        object: Some(object),
        offset: 0,
        length,
    }))
}

fn data(offset: u64, bytes: &'static [u8]) -> Result<Got, Status> {
    Ok(Got::Data(GetData {
        offset,
        data: bytes.into(),
    }))
}

fn end(of: &[u8]) -> Result<Got, Status> {
    let crc32c = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, of) as u32;
    Ok(Got::End(GetEnd { crc32c }))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_incomplete_or_changed_is_no_file() {
    let strange = Strange::default();
    let lost = || errors::status(&Error::new(Reason::DataLoss, "a pack is gone"));
    strange
        .get(vec![header(4), data(0, b"half")], 69, &["incomplete"])
        .await;
    strange
        .get(
            vec![header(8), data(0, b"half"), end(b"half")],
            69,
            &["incomplete", "4 bytes"],
        )
        .await;
    strange
        .get(vec![header(8), data(0, b"half"), Err(lost())], 65, &["a pack is gone"])
        .await;
    strange
        .get(
            vec![header(8), data(0, b"half"), data(5, b"hal")],
            1,
            &["makes no sense"],
        )
        .await;
    strange
        .get(
            vec![header(8), data(0, b"half"), data(0, b"half")],
            1,
            &["makes no sense"],
        )
        .await;
    strange
        .get(vec![header(4), data(0, b"longer")], 1, &["makes no sense"])
        .await;
    strange
        .get(
            vec![header(4), data(0, b"half"), end(b"HALF")],
            65,
            &["arrived changed"],
        )
        .await;
    strange
        .get(vec![data(0, b"half"), end(b"half")], 1, &["makes no sense"])
        .await;
    strange.get(vec![], 1, &["makes no sense"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_get_leaves_no_file() {
    let strange = Strange {
        hangs: true,
        ..Strange::default()
    };
    strange
        .gets
        .lock()
        .unwrap()
        .push_back(vec![header(8), data(0, b"half")]);
    let address = strange.listen().await;
    let run = move || {
        let home = Home::new();
        let mut command = home.command(&["get", "object", "target", "--agent", &address]);
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        eventually("a partial file", || fs::read_dir(home.root()).unwrap().next().map(drop));
        interrupt(&child);
        Run::from_output(child.wait_with_output().unwrap()).fails(130, &["interrupted"]);
        assert_eq!(
            fs::read_dir(home.root()).unwrap().count(),
            0,
            "something was left behind"
        );
    };
    tokio::task::spawn_blocking(run).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_put_once_more_when_nobody_knows_whether_it_was() {
    let bytes = random_bytes(1, 1_000_000);
    for (ends, code, attempts) in [
        (vec![End::Stored], 0, 1),
        (vec![End::Fails(Reason::OutcomeUnknown), End::Stored], 0, 2),
        (vec![End::Silence, End::Stored], 0, 2),
        (vec![End::Silence, End::Silence, End::Stored], 69, 2),
        (vec![End::Fails(Reason::NoCapacity), End::Stored], 75, 1),
        (vec![End::Refused(Reason::ObjectExists), End::Stored], 1, 1),
        (vec![End::Refused(Reason::BackendUnavailable), End::Stored], 69, 1),
    ] {
        let strange = Strange::default();
        strange.puts.lock().unwrap().extend(ends);
        let address = strange.listen().await;
        let bytes = bytes.clone();
        let run = move || {
            let home = Home::new();
            let file = home.file("file", &bytes);
            let run = home.run(&["put", "object", file.to_str().unwrap(), "--agent", &address]);
            assert_eq!(run.code(), Some(code), "{}", run.stderr());
        };
        tokio::task::spawn_blocking(run).await.unwrap();
        let seen = strange.seen.lock().unwrap();
        assert_eq!(seen.len(), attempts);
        assert_eq!(seen[0].0.put_id.len(), 16);
        assert!(seen.iter().all(|(header, _)| header.put_id == seen[0].0.put_id));
        let refused = code == 1 || (code == 69 && attempts == 1);
        let wanted = if refused { 0 } else { 1_000_000 };
        assert!(seen.iter().all(|(_, bytes)| *bytes == wanted), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_is_put_only_once() {
    let strange = Strange::default();
    strange.puts.lock().unwrap().extend([End::Silence, End::Stored]);
    let address = strange.listen().await;
    let run = move || {
        let home = Home::new();
        home.run_with_input(&["put", "object", "--agent", &address], b"bytes")
            .fails(69, &["without its result"]);
    };
    tokio::task::spawn_blocking(run).await.unwrap();
    assert_eq!(strange.seen.lock().unwrap().len(), 1);
}

impl Strange {
    async fn take(&self, mut messages: Streaming<proto::PutRequest>) -> Vec<Result<proto::PutResponse, Status>> {
        let Some(Sent::Header(header)) = messages.message().await.unwrap().unwrap().part else {
            panic!("no header");
        };
        let name = header.name.clone();
        let index = {
            let mut seen = self.seen.lock().unwrap();
            seen.push((header, 0));
            seen.len() - 1
        };
        let end = self.puts.lock().unwrap().pop_front().unwrap();
        let failed = |reason| Err(errors::status(&Error::new(reason, "as it was told")));
        if let End::Refused(reason) = end {
            return vec![failed(reason)];
        }
        while let Some(message) = messages.message().await.unwrap() {
            match message.part.unwrap() {
                Sent::Data(data) => self.seen.lock().unwrap()[index].1 += data.len() as u64,
                Sent::Finish(finish) => {
                    assert_eq!(finish.size, Some(self.seen.lock().unwrap()[index].1));
                    break;
                }
                Sent::Header(_) => panic!("a second header"),
            }
        }
        match end {
            End::Refused(_) | End::Silence => Vec::new(),
            End::Fails(reason) => vec![failed(reason)],
            End::Stored => vec![said(Said::Result(PutResult {
                object: Some(ObjectInfo {
                    name,
                    ..ObjectInfo::default()
                }),
                ..PutResult::default()
            }))],
        }
    }
}

fn said(part: Said) -> Result<proto::PutResponse, Status> {
    Ok(proto::PutResponse { part: Some(part) })
}

#[tonic::async_trait]
impl DataPath for Strange {
    type PutStream = BoxStream<'static, Result<proto::PutResponse, Status>>;
    type GetStream = BoxStream<'static, Result<proto::GetResponse, Status>>;

    async fn put(&self, request: Request<Streaming<proto::PutRequest>>) -> Answer<Self::PutStream> {
        let strange = self.clone();
        let refused = matches!(self.puts.lock().unwrap().front(), Some(End::Refused(_)));
        let accepted = said(Said::Accepted(PutAccepted {
            max_frame_bytes: 100_000,
            ..PutAccepted::default()
        }));
        let first = stream::iter((!refused).then_some(accepted));
        let rest = stream::once(async move { strange.take(request.into_inner()).await }).flat_map(stream::iter);
        Ok(Response::new(first.chain(rest).boxed()))
    }

    async fn get(&self, _: Request<proto::GetRequest>) -> Answer<Self::GetStream> {
        let answers = self.gets.lock().unwrap().pop_front().unwrap();
        let messages = answers
            .into_iter()
            .map(|answer| answer.map(|part| proto::GetResponse { part: Some(part) }));
        let messages = stream::iter(messages.collect::<Vec<_>>());
        Ok(Response::new(match self.hangs {
            true => messages.chain(stream::pending()).boxed(),
            false => messages.boxed(),
        }))
    }

    async fn stat(&self, _: Request<proto::StatRequest>) -> Answer<proto::StatResponse> {
        Err(Status::unimplemented(""))
    }

    async fn list(&self, _: Request<proto::ListRequest>) -> Answer<proto::ListResponse> {
        Err(Status::unimplemented(""))
    }

    async fn delete(&self, _: Request<proto::DeleteRequest>) -> Answer<proto::DeleteResponse> {
        Err(Status::unimplemented(""))
    }

    async fn copy(&self, _: Request<proto::CopyRequest>) -> Answer<proto::CopyResponse> {
        Err(Status::unimplemented(""))
    }

    async fn verify(&self, _: Request<proto::VerifyRequest>) -> Answer<proto::VerifyResponse> {
        Err(Status::unimplemented(""))
    }

    async fn list_damaged(&self, _: Request<proto::ListDamagedRequest>) -> Answer<proto::ListDamagedResponse> {
        Err(Status::unimplemented(""))
    }
}
