//! Calls on objects that move no data.

use std::collections::{BTreeSet, HashMap};

use super::put::{get, put, whole};
use super::world::{World, reason};
use crate::engine::Reason;
use crate::service::proto::precondition::Condition;
use crate::service::proto::{
    CopyRequest, DeleteOutcome, DeleteRequest, ListRequest, Precondition, StatRequest, VerifyRequest,
};

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_every_object_once() {
    let world = World::new("service pages").await;
    for index in 0..7 {
        put(&world, &format!("object-{index}"), b"x").await.unwrap();
    }
    put(&world, "other", b"x").await.unwrap();
    let mut request = ListRequest {
        prefix: "object-".to_owned(),
        page_size: 3,
        ..ListRequest::default()
    };
    let (mut seen, mut count) = (BTreeSet::new(), 0);
    loop {
        let page = world.data_path().list(request.clone()).await.unwrap().into_inner();
        assert!(page.objects.len() <= 3);
        count += page.objects.len();
        seen.extend(page.objects.into_iter().map(|object| object.name));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!((count, seen.len()), (7, 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_beyond_their_bounds_are_refused() {
    let world = World::new("service page bounds").await;
    let large = ListRequest {
        page_size: 10_001,
        ..ListRequest::default()
    };
    let strange = ListRequest {
        page_token: vec![1; 15].into(),
        ..ListRequest::default()
    };
    for request in [large, strange] {
        assert_eq!(reason(world.data_path().list(request).await), Reason::InvalidArgument);
    }
}

fn delete(names: &[&str], condition: Option<Condition>) -> DeleteRequest {
    DeleteRequest {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        precondition: condition.map(|condition| Precondition {
            condition: Some(condition),
        }),
        ..DeleteRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_name_of_a_delete_has_a_result() {
    let world = World::new("service deletes").await;
    let version = put(&world, "a", b"x").await.unwrap().object.unwrap().version;
    put(&world, "b", b"x").await.unwrap();
    let stale = delete(&["a"], Some(Condition::IfVersion(version + 99)));
    let results = world.data_path().delete(stale).await.unwrap().into_inner().results;
    assert_eq!(results[0].outcome(), DeleteOutcome::Failed);
    assert_eq!(results[0].reason, "VERSION_MISMATCH");
    let several = delete(&["a", "nothing", "", "b"], None);
    let results = world.data_path().delete(several).await.unwrap().into_inner().results;
    let outcomes: Vec<_> = results.iter().map(|result| result.outcome()).collect();
    use DeleteOutcome::{Deleted, Failed, NotFound};
    assert_eq!(outcomes, [Deleted, NotFound, Failed, Deleted]);
    assert_eq!(results[2].reason, "INVALID_NAME");
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_beyond_their_bounds_are_refused() {
    let world = World::new("service delete bounds").await;
    let many = vec!["a"; 1001];
    let conditional = delete(&["a", "b"], Some(Condition::IfVersion(1)));
    for request in [delete(&many, None), conditional] {
        assert_eq!(reason(world.data_path().delete(request).await), Reason::InvalidArgument);
    }
    let no_condition = delete(&["a", "b"], Some(Condition::CreateOnly(false)));
    assert!(world.data_path().delete(no_condition).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_objects_of_their_own() {
    let world = World::new("service copies").await;
    put(&world, "a", &[3; 200_000]).await.unwrap();
    let copy = CopyRequest {
        from: "a".to_owned(),
        to: "b".to_owned(),
        metadata: HashMap::from([("kind".to_owned(), "copy".to_owned())]),
        precondition: Some(Precondition {
            condition: Some(Condition::CreateOnly(true)),
        }),
        ..CopyRequest::default()
    };
    let made = world.data_path().copy(copy.clone()).await.unwrap().into_inner();
    assert_eq!(made.object.unwrap().metadata["kind"], "copy");
    assert_eq!(reason(world.data_path().copy(copy).await), Reason::ObjectExists);
    world.data_path().delete(delete(&["a"], None)).await.unwrap();
    assert_eq!(get(&world, whole("b")).await.unwrap().0, [3; 200_000]);
    let missing = CopyRequest {
        from: "a".to_owned(),
        to: "c".to_owned(),
        ..CopyRequest::default()
    };
    assert_eq!(reason(world.data_path().copy(missing).await), Reason::ObjectNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intact_object_is_found_intact() {
    let world = World::new("service verify").await;
    let object = put(&world, "a", &[4; 500_000]).await.unwrap().object.unwrap();
    let named = |name: &str| VerifyRequest {
        name: name.to_owned(),
        ..VerifyRequest::default()
    };
    let verified = world.data_path().verify(named("a")).await.unwrap().into_inner();
    assert_eq!(verified.object.as_ref(), Some(&object));
    let stated = StatRequest {
        name: "a".to_owned(),
        ..StatRequest::default()
    };
    let stated = world.data_path().stat(stated).await.unwrap().into_inner();
    assert_eq!(stated.object, Some(object));
    assert_eq!(
        reason(world.data_path().verify(named("b")).await),
        Reason::ObjectNotFound
    );
}
