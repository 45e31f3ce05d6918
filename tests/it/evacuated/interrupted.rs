//! Any operation on either store may fail or be the last: the source stays whole, and the next run comes to its end.

use super::*;
use cairn_agent::testkit::faulty::{Fault, Step};

/// A history shorter than [`fill`]: it is gone through once for each operation.
async fn fill_little(repository: &Repository) {
    put(repository, "large", 1, 2300 << 10).await.unwrap();
    put(repository, "small", 2, 9 << 10).await.unwrap();
    repository.copy("large", "copy", PutOptions::default()).await.unwrap();
}

struct Scene {
    agent: Agent,
    source: Faulty,
    from: Place,
    target: Faulty,
    to: Place,
    store: Store,
    repository: Repository,
}

impl Scene {
    async fn new() -> Self {
        let ((source, from), (target, to)) = (faulty(), faulty());
        let agent = Agent::with_catalog();
        let (store, repository) = agent.open(&from).await.unwrap();
        fill_little(&repository).await;
        source.order(None);
        target.order(None);
        Self {
            agent,
            source,
            from,
            target,
            to,
            store,
            repository,
        }
    }

    /// After a fault: the source is what it was, and the next run, in this process or in the next, completes.
    async fn recover(mut self, number: usize, contents: &BTreeMap<String, Vec<u8>>, what: &str) {
        self.source.order(None);
        self.target.order(None);
        match number % 3 {
            0 => {}
            restart => {
                self.store.close().await;
                drop((self.repository, self.store));
                if restart == 2 {
                    self.agent.forget();
                }
                (self.store, self.repository) = self.agent.open(&self.from).await.unwrap();
            }
        }
        assert_eq!(&self::contents(&self.repository).await, contents, "{what}");
        let report = evacuate(&self.store, &self.to)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(report.verdict(), Verdict::Complete, "{what}: {report:#?}");
        let before = see(&self.repository).await;
        assert_same(&self.to, &before, what).await;
        self.store.close().await;
    }
}

async fn contents(repository: &Repository) -> BTreeMap<String, Vec<u8>> {
    let seen = see(repository).await;
    seen.objects
        .into_iter()
        .map(|(name, (_, bytes))| (name, bytes))
        .collect()
}

/// Each operation of these kinds meets the fault, in a run of its own.
async fn meet(fault: impl Fn(usize) -> Fault, kinds: &[Kind], at: impl Fn(&Scene) -> &Faulty) {
    let (mut numbers, contents) = {
        let scene = Scene::new().await;
        evacuate(&scene.store, &scene.to).await.unwrap();
        let journal = at(&scene).journal();
        let began = journal
            .iter()
            .filter(|event| event.step == Step::Began && kinds.contains(&event.kind));
        let numbers: Vec<_> = began.map(|event| event.operation).collect();
        (numbers, self::contents(&scene.repository).await)
    };
    assert!(numbers.len() > 8, "{numbers:?}");
    numbers.sort_unstable();
    for number in numbers {
        let scene = Scene::new().await;
        let fault = fault(number);
        at(&scene).order(Some(fault));
        let what = format!("{fault:?}");
        if let Ok(report) = evacuate(&scene.store, &scene.to).await {
            assert_eq!(report.verdict(), Verdict::Complete, "{what}: {report:#?}");
        }
        scene.recover(number, &contents, &what).await;
    }
}

const ALL: &[Kind] = &[Kind::Put, Kind::Get, Kind::Delete, Kind::List];

fn target(scene: &Scene) -> &Faulty {
    &scene.target
}

fn source(scene: &Scene) -> &Faulty {
    &scene.source
}

#[tokio::test(flavor = "multi_thread")]
async fn any_operation_at_the_target_may_be_refused() {
    meet(Fault::Refuse, ALL, target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_operation_at_the_target_may_be_the_last() {
    meet(Fault::Freeze, ALL, target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_answer_to_a_put_may_be_lost() {
    meet(Fault::LoseAnswer, &[Kind::Put], target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_put_may_be_torn() {
    meet(Fault::Tear, &[Kind::Put], target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_operation_at_the_source_may_be_refused() {
    meet(Fault::Refuse, ALL, source).await;
}

/// What cannot be read at all is told as lost, by a run that cannot give its target a keyring either: the source's is the
/// last that is read of it.
#[tokio::test(flavor = "multi_thread")]
async fn any_operation_at_the_source_may_be_the_last_for_a_while() {
    meet(Fault::Freeze, ALL, source).await;
}
