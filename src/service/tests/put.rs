//! Objects go in whole or not at all, and come out as they went in.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::world::{World, impatient, reason};
use crate::engine::Reason;
use crate::service::proto::{
    GetRequest, PutFinish, PutHeader, PutRequest, PutResponse, PutResult, StatRequest, get_response, put_request,
    put_response,
};

pub(super) fn bytes(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.into()
}

fn sum(data: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, data) as u32
}

pub(super) fn header(name: &str) -> put_request::Part {
    put_request::Part::Header(named(name))
}

fn named(name: &str) -> PutHeader {
    PutHeader {
        name: name.to_owned(),
        ..PutHeader::default()
    }
}

pub(super) fn data(bytes: Bytes) -> put_request::Part {
    put_request::Part::Data(bytes)
}

pub(super) fn finish() -> put_request::Part {
    put_request::Part::Finish(PutFinish::default())
}

/// A put, message by message.
pub(super) struct Put {
    sender: Option<mpsc::Sender<PutRequest>>,
    answers: Streaming<PutResponse>,
}

impl Put {
    pub(super) async fn begin(world: &World) -> Self {
        let (sender, receiver) = mpsc::channel(4);
        let answers = world
            .data_path()
            .put(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Self {
            sender: Some(sender),
            answers,
        }
    }

    /// Sends a part; it may be refused meanwhile, which the next answer tells.
    pub(super) async fn send(&mut self, part: put_request::Part) {
        let sender = self.sender.as_ref().expect("still open");
        let _ = sender.send(PutRequest { part: Some(part) }).await;
    }

    fn half_close(&mut self) {
        self.sender = None;
    }

    pub(super) async fn answer(&mut self) -> Result<put_response::Part, Status> {
        let answer = self.answers.message().await?.expect("an answer or a refusal");
        Ok(answer.part.expect("a part"))
    }

    pub(super) async fn accepted(&mut self) {
        let answer = self.answer().await.unwrap();
        let put_response::Part::Accepted(accepted) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!((accepted.resume_offset, accepted.max_frame_bytes), (0, 1 << 20));
    }

    /// The result, past all progress, which is counted.
    async fn result(&mut self) -> Result<(PutResult, Vec<(u64, u64)>), Status> {
        let mut progress = Vec::new();
        loop {
            match self.answer().await? {
                put_response::Part::Progress(news) => progress.push((news.accepted_bytes, news.durable_bytes)),
                put_response::Part::Result(result) => return Ok((result, progress)),
                put_response::Part::Accepted(_) => panic!("accepted twice"),
            }
        }
    }
}

/// Puts an object in one go.
pub(super) async fn put(world: &World, name: &str, content: &[u8]) -> Result<PutResult, Status> {
    put_with(world, named(name), content).await
}

async fn put_with(world: &World, header: PutHeader, content: &[u8]) -> Result<PutResult, Status> {
    let mut put = Put::begin(world).await;
    put.send(put_request::Part::Header(header)).await;
    for frame in content.chunks(200_000) {
        put.send(data(Bytes::copy_from_slice(frame))).await;
    }
    put.send(finish()).await;
    put.result_after_accepted().await
}

impl Put {
    async fn result_after_accepted(&mut self) -> Result<PutResult, Status> {
        match self.answer().await? {
            put_response::Part::Accepted(_) => Ok(self.result().await?.0),
            other => panic!("{other:?}"),
        }
    }
}

/// What a get returns: the bytes, and the sum it ends with.
pub(super) async fn get(world: &World, request: GetRequest) -> Result<(Vec<u8>, Option<u32>), Status> {
    let mut parts = world.data_path().get(request).await?.into_inner();
    let (mut all, mut end, mut begin) = (Vec::new(), None, None);
    while let Some(message) = parts.message().await? {
        match message.part.expect("a part") {
            get_response::Part::Header(header) => begin = Some(header.offset),
            get_response::Part::Data(data) => {
                assert_eq!(data.offset, begin.expect("the header comes first") + all.len() as u64);
                assert!(data.data.len() <= 1 << 20);
                all.extend_from_slice(&data.data);
            }
            get_response::Part::End(sum) => end = Some(sum.crc32c),
        }
    }
    Ok((all, end))
}

async fn stat(world: &World, name: &str) -> Result<u64, Status> {
    let request = StatRequest {
        repository: "default".to_owned(),
        name: name.to_owned(),
    };
    Ok(world
        .data_path()
        .stat(request)
        .await?
        .into_inner()
        .object
        .unwrap()
        .bytes)
}

pub(super) fn whole(name: &str) -> GetRequest {
    GetRequest {
        name: name.to_owned(),
        ..GetRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_every_size_come_back_as_they_went_in() {
    let world = World::new("service sizes").await;
    for (seed, len) in [0, 1, 70_000, 1 << 20, (20 << 20) + 17].into_iter().enumerate() {
        let content = bytes(seed as u64, len);
        let name = format!("object-{len}");
        let mut put = Put::begin(&world).await;
        put.send(header(&name)).await;
        put.accepted().await;
        for frame in content.chunks(1 << 20) {
            put.send(data(content.slice_ref(frame))).await;
        }
        put.send(put_request::Part::Finish(PutFinish {
            size: Some(len as u64),
            crc32c: Some(sum(&content)),
        }))
        .await;
        let (result, progress) = put.result().await.unwrap();
        assert_eq!(result.object.unwrap().crc32c, sum(&content));
        assert!(progress.is_sorted(), "{progress:?}");
        assert!(progress.len() <= len >> 23, "at most one for every 8 MiB");
        let (back, end) = get(&world, whole(&name)).await.unwrap();
        assert!(back == content, "{name} differs");
        assert_eq!(end, Some(sum(&content)));
        assert_eq!(stat(&world, &name).await.unwrap(), len as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_ends_without_its_end_leaves_nothing() {
    let world = World::new("service aborted").await;
    let mut put = Put::begin(&world).await;
    put.send(header("a")).await;
    put.accepted().await;
    put.send(data(bytes(1, 1 << 20))).await;
    put.half_close();
    assert_eq!(reason(put.answer().await), Reason::InvalidArgument);
    assert_eq!(reason(stat(&world, "a").await), Reason::ObjectNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_out_of_order_or_too_large_refuse_the_put() {
    let world = World::new("service order").await;
    let large = bytes(2, (1 << 20) + 1);
    let cases = [
        vec![data(bytes(1, 10))],
        vec![finish()],
        vec![header("a"), header("a")],
        vec![header("a"), data(bytes(1, 10)), header("a")],
        vec![header("a"), data(large)],
        vec![header("a"), data(bytes(3, 2 << 20))],
    ];
    for parts in cases {
        let mut put = Put::begin(&world).await;
        for part in parts {
            put.send(part).await;
        }
        let refused = loop {
            match put.answer().await {
                Ok(put_response::Part::Accepted(_)) => {}
                other => break other,
            }
        };
        assert_eq!(reason(refused), Reason::InvalidArgument);
        assert_eq!(reason(stat(&world, "a").await), Reason::ObjectNotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_follows_the_end_is_never_stored() {
    let world = World::new("service beyond").await;
    let mut put = Put::begin(&world).await;
    for part in [header("a"), data(bytes(1, 10)), finish(), data(bytes(1, 10))] {
        put.send(part).await;
    }
    // Refused if it came in before the record was written; after that nobody looks at it.
    match put.result_after_accepted().await {
        Err(refused) => assert_eq!(reason(Err::<(), _>(refused)), Reason::InvalidArgument),
        Ok(_) => assert_eq!(stat(&world, "a").await.unwrap(), 10),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_does_not_match_refuses_the_put() {
    let world = World::new("service ends").await;
    let content = bytes(4, 100_000);
    let ends = [(Some(99_999), None), (None, Some(sum(&content) ^ 1))];
    for (size, crc32c) in ends {
        let mut put = Put::begin(&world).await;
        put.send(header("a")).await;
        put.send(data(content.clone())).await;
        put.send(put_request::Part::Finish(PutFinish { size, crc32c })).await;
        assert_eq!(reason(put.result_after_accepted().await), Reason::InvalidArgument);
        assert_eq!(reason(stat(&world, "a").await), Reason::ObjectNotFound);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_falls_silent_is_given_up() {
    let world = World::with("service silent", impatient()).await;
    let mut put = Put::begin(&world).await;
    put.send(header("a")).await;
    assert_eq!(reason(put.result_after_accepted().await), Reason::StreamIdle);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_put_id_returns_the_first_result() {
    let world = World::new("service put ids").await;
    let with_id = |put_id: &'static [u8], name: &str| PutHeader {
        put_id: Bytes::from_static(put_id),
        ..named(name)
    };
    let first = put_with(&world, with_id(&[7; 16], "a"), b"one").await.unwrap();
    let again = put_with(&world, with_id(&[7; 16], "a"), b"one").await.unwrap();
    assert_eq!(first.object, again.object);
    let reused = put_with(&world, with_id(&[7; 16], "b"), b"one").await;
    assert_eq!(reason(reused), Reason::PutIdReused);
    let short = put_with(&world, with_id(&[7; 15], "a"), b"one").await;
    assert_eq!(reason(short), Reason::InvalidArgument);
}
