//! Who may make which call; what is told of each.

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Code;
use tower::Service;

use super::put::{get, put, whole};
use super::world::{World, anyone, caller_with, eventually, reason};
use crate::engine::Reason;
use crate::service::calls::{CALLS, authorize};
use crate::service::proto::StatRequest;
use crate::service::proto::data_path_client::DataPathClient;
use crate::service::{AgentSettings, Observer, Role, Transport, proto, routes};

#[test]
fn every_call_of_the_contract_takes_a_role() {
    let contract = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let files = contract.file.iter().filter(|file| file.package() == "cairn.v1");
    let of_contract: BTreeSet<String> = files
        .flat_map(|file| &file.service)
        .flat_map(|service| {
            let methods = service.method.iter();
            methods.map(|method| format!("{}/{}", service.name(), method.name()))
        })
        .collect();
    let of_table: BTreeSet<String> = CALLS.iter().map(|call| call.name.to_owned()).collect();
    assert_eq!(of_contract, of_table);
    assert!(CALLS.iter().all(|call| !call.roles.is_empty()));
}

#[test]
fn a_caller_needs_every_role_of_a_call_and_no_other() {
    for call in CALLS {
        let all: Vec<Role> = call.roles.to_vec();
        assert!(authorize(Some(&caller_with(&all)), call).is_ok(), "{}", call.name);
        for missing in &all {
            let rest: Vec<Role> = Role::ALL.into_iter().filter(|role| role != missing).collect();
            let refused = authorize(Some(&caller_with(&rest)), call).unwrap_err();
            assert_eq!(refused.reason(), Reason::PermissionDenied, "{}", call.name);
        }
        assert!(authorize(None, call).is_err(), "{}", call.name);
    }
}

#[test]
fn keys_and_removal_stay_off_plaintext() {
    let mut caller = anyone();
    caller.transport = Transport::Plaintext;
    let refused = CALLS.iter().filter(|call| authorize(Some(&caller), call).is_err());
    let refused: Vec<_> = refused.map(|call| call.name).collect();
    assert_eq!(
        refused,
        [
            "Keys/Load",
            "Keys/Unload",
            "Keys/List",
            "Keys/Rotate",
            "Repositories/Delete"
        ]
    );
}

/// The status of a call without a body.
async fn bare_call(world: &World, path: &str) -> Option<Code> {
    let request = axum::http::Request::post(path).header("content-type", "application/grpc");
    let mut request = request.body(tonic::body::Body::empty()).unwrap();
    request.extensions_mut().insert(caller_with(&[]));
    let response = routes(world.agent.clone()).call(request).await.unwrap();
    tonic::Status::from_header_map(response.headers()).map(|status| status.code())
}

#[tokio::test]
async fn the_table_is_asked_on_the_way_in() {
    let world = World::new("service gate").await;
    for call in CALLS {
        let path = format!("/cairn.v1.{}", call.name);
        assert_eq!(bare_call(&world, &path).await, Some(Code::PermissionDenied), "{path}");
    }
    let unknown = bare_call(&world, "/cairn.v1.DataPath/Nonsense").await;
    assert_eq!(unknown, Some(Code::Unimplemented));
}

#[tokio::test]
async fn a_request_of_nobody_known_is_refused() {
    let world = World::new("service nobody").await;
    let mut client = DataPathClient::new(world.connect_as(None));
    assert_eq!(
        reason(client.stat(StatRequest::default()).await),
        Reason::PermissionDenied
    );
}

#[derive(Default)]
struct Recorded {
    calls: Mutex<Vec<(&'static str, Code)>>,
    bytes: Mutex<(u64, u64)>,
}

impl Observer for Recorded {
    fn call_ended(&self, call: &'static str, code: Code, seconds: f64) {
        assert!(seconds > 0.0);
        self.calls.lock().push((call, code));
    }

    fn received(&self, bytes: u64) {
        self.bytes.lock().0 += bytes;
    }

    fn sent(&self, bytes: u64) {
        self.bytes.lock().1 += bytes;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_is_told_once_when_it_has_ended() {
    let recorded = Arc::new(Recorded::default());
    let settings = AgentSettings {
        observer: recorded.clone(),
        ..AgentSettings::default()
    };
    let world = World::with("service observed", settings).await;
    put(&world, "a", &[1; 300_000]).await.unwrap();
    get(&world, whole("a")).await.unwrap();
    get(&world, whole("b")).await.unwrap_err();
    let reading = world.data_path().get(whole("a")).await.unwrap();
    drop(reading);
    eventually(|| recorded.calls.lock().len() == 4).await;
    let calls = recorded.calls.lock().clone();
    assert_eq!(
        calls[..3],
        [
            ("DataPath/Put", Code::Ok),
            ("DataPath/Get", Code::Ok),
            ("DataPath/Get", Code::NotFound)
        ]
    );
    assert_eq!(recorded.bytes.lock().0, 300_000);
    assert!(recorded.bytes.lock().1 >= 300_000);
}
