//! What the callers of a store were told, and so what a crash may leave.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cairn_agent::engine::{Precondition, PutOptions, Reason, Repository, Result};
use cairn_agent::testkit::faulty::Timeline;

use crate::world::{noise, rng};

/// An object, or that there is none.
pub(crate) type Contents = Option<Arc<Vec<u8>>>;

/// A write as its caller saw it.
#[derive(Clone)]
pub(crate) struct Act {
    pub(crate) name: String,
    /// What the object is if the write happens.
    pub(crate) wrote: Contents,
    /// Names a put that may be repeated.
    pub(crate) put_id: Option<[u8; 16]>,
    begun: usize,
    ended: Option<usize>,
    acknowledged: bool,
}

/// Every write of a history. Names are written one after the other, different names at the same time.
#[derive(Clone)]
pub(crate) struct Callers {
    timeline: Timeline,
    acts: Arc<Mutex<Vec<Act>>>,
}

impl Callers {
    pub(crate) fn on(timeline: &Timeline) -> Self {
        Self {
            timeline: timeline.clone(),
            acts: Arc::default(),
        }
    }

    pub(crate) async fn put(&self, repository: &Repository, name: &str, seed: u64, len: usize) -> Result<()> {
        let bytes = Arc::new(noise(&mut rng(seed), len));
        let act = self.begin(name, Some(bytes.clone()), true);
        let options = PutOptions {
            put_id: self.acts.lock().unwrap()[act].put_id,
            ..PutOptions::default()
        };
        let result = repository.put(name, bytes.as_slice(), options).await;
        self.end(act, result.map(drop))
    }

    /// Whatever `from` is now becomes `to`; nobody else writes `from` meanwhile.
    pub(crate) async fn copy(&self, repository: &Repository, from: &str, to: &str) -> Result<()> {
        let source = self.at(usize::MAX).may_be(from);
        assert!(source.len() == 1, "{from:?} is not known for certain");
        let act = self.begin(to, source[0].clone(), false);
        let result = repository.copy(from, to, PutOptions::default()).await;
        self.end(act, result.map(drop))
    }

    pub(crate) async fn delete(&self, repository: &Repository, name: &str) -> Result<()> {
        let act = self.begin(name, None, false);
        let result = repository.delete(name, Precondition::None).await;
        self.end(act, result.map(drop))
    }

    fn begin(&self, name: &str, wrote: Contents, repeatable: bool) -> usize {
        let mut acts = self.acts.lock().unwrap();
        let number = acts.len();
        let mut put_id = [0xac; 16];
        put_id[..8].copy_from_slice(&(number as u64).to_le_bytes());
        acts.push(Act {
            name: name.to_owned(),
            wrote,
            put_id: repeatable.then_some(put_id),
            begun: self.timeline.now(),
            ended: None,
            acknowledged: false,
        });
        number
    }

    fn end(&self, act: usize, result: Result<()>) -> Result<()> {
        let mut acts = self.acts.lock().unwrap();
        acts[act].ended = Some(self.timeline.now());
        acts[act].acknowledged = result.is_ok();
        result
    }

    /// The moments at which somebody was told something.
    pub(crate) fn moments(&self) -> Vec<usize> {
        self.acts
            .lock()
            .unwrap()
            .iter()
            .filter_map(|act| act.ended)
            .map(|at| at + 1)
            .collect()
    }

    /// The same history so far, to go on in another way.
    pub(crate) fn fork(&self) -> Self {
        Self {
            timeline: self.timeline.clone(),
            acts: Arc::new(Mutex::new(self.acts.lock().unwrap().clone())),
        }
    }

    /// What was told before a moment.
    pub(crate) fn at(&self, moment: usize) -> Told {
        let acts = self.acts.lock().unwrap();
        let begun: Vec<&Act> = acts.iter().filter(|act| act.begun < moment).collect();
        let mut told = Told::default();
        for act in &begun {
            told.may_be.entry(act.name.clone()).or_insert_with(|| vec![None]);
            if act.ended.is_none_or(|ended| ended >= moment) && act.put_id.is_some() {
                told.unanswered.push((*act).clone());
            }
        }
        for (name, may_be) in &mut told.may_be {
            let acts: Vec<_> = begun.iter().filter(|act| act.name == *name).collect();
            // Whatever began after another write had ended, and was acknowledged, is what that one can no longer be.
            let newest = acts
                .iter()
                .filter(|act| act.is_acknowledged(moment))
                .map(|act| act.begun)
                .max();
            if newest.is_some() {
                may_be.clear();
            }
            let possible = acts
                .iter()
                .filter(|act| newest.is_none_or(|newest| act.ended_by(moment) >= newest));
            may_be.extend(possible.map(|act| act.wrote.clone()));
        }
        told
    }
}

impl Act {
    fn ended_by(&self, moment: usize) -> usize {
        self.ended.filter(|ended| *ended < moment).unwrap_or(usize::MAX)
    }

    fn is_acknowledged(&self, moment: usize) -> bool {
        self.acknowledged && self.ended_by(moment) < moment
    }
}

/// What each object may be.
#[derive(Clone, Default)]
pub(crate) struct Told {
    may_be: BTreeMap<String, Vec<Contents>>,
    /// Puts that their callers may repeat.
    pub(crate) unanswered: Vec<Act>,
}

impl Told {
    pub(crate) fn may_be(&self, name: &str) -> Vec<Contents> {
        self.may_be.get(name).cloned().unwrap_or_else(|| vec![None])
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.may_be.keys()
    }

    /// Fails if the objects are not what these callers were told.
    #[track_caller]
    pub(crate) fn check(&self, found: &BTreeMap<String, Arc<Vec<u8>>>, what: &str) {
        for name in self.names().chain(found.keys()) {
            let object = found.get(name).cloned();
            let is = object.as_ref().map_or("absent".to_owned(), |bytes| {
                format!("{} bytes of something else", bytes.len())
            });
            assert!(self.may_be(name).contains(&object), "{what}: {name:?} is {is}");
        }
    }
}

/// The one refusal that a history without faults knows.
#[track_caller]
pub(crate) fn fenced(result: Result<()>) {
    assert_eq!(result.unwrap_err().reason(), Reason::Fenced);
}
