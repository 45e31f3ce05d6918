//! What a crash leaves of a store, at any moment of a recorded history.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::journal::{Event, Kind, Step};

/// A put or a deletion that had begun and not ended.
#[derive(Debug, Clone)]
pub struct Change {
    operation: usize,
    /// The object.
    pub path: String,
    /// Its bytes; none for a deletion.
    pub payload: Option<Bytes>,
}

/// A store between two events.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Everything that ended before is before this moment.
    pub at: usize,
    /// What is there for certain.
    pub objects: BTreeMap<String, Bytes>,
    /// What may have happened or not.
    pub in_flight: Vec<Change>,
    /// What was deleted: a volume may bring it back when the power fails.
    pub deleted: BTreeMap<String, Bytes>,
}

impl Image {
    /// The states of a store after each of these events that changed something. No fault was ordered meanwhile.
    pub fn all(events: &[Event]) -> Vec<Self> {
        let mut image = Self::default();
        let mut images = Vec::new();
        for event in events
            .iter()
            .filter(|event| matches!(event.kind, Kind::Put | Kind::Delete))
        {
            image.at = event.at + 1;
            image.follow(event);
            images.push(image.clone());
        }
        images
    }

    fn follow(&mut self, event: &Event) {
        if event.step == Step::Began {
            self.in_flight.push(Change {
                operation: event.operation,
                path: event.path.clone(),
                payload: event.payload.clone(),
            });
            return;
        }
        let index = self
            .in_flight
            .iter()
            .position(|change| change.operation == event.operation);
        let change = self.in_flight.remove(index.expect("what ends has begun"));
        if event.step == Step::Done {
            self.apply(&change);
        }
    }

    fn apply(&mut self, change: &Change) {
        match &change.payload {
            Some(payload) => drop(self.objects.insert(change.path.clone(), payload.clone())),
            None => self.deleted.extend(self.objects.remove_entry(&change.path)),
        }
    }

    /// What the crash may leave: every choice among the changes in flight, or with many of them all, none and each.
    pub fn outcomes(&self) -> Vec<BTreeMap<String, Bytes>> {
        let changes = self.in_flight.len();
        let every = (1usize << changes.min(usize::BITS as usize - 1)) - 1;
        let choices: Vec<usize> = match changes {
            0..=3 => (0..=every).collect(),
            _ => [0, every].into_iter().chain((0..changes).map(|bit| 1 << bit)).collect(),
        };
        choices.into_iter().map(|choice| self.with(choice)).collect()
    }

    fn with(&self, choice: usize) -> BTreeMap<String, Bytes> {
        let mut image = self.clone();
        for (bit, change) in self.in_flight.iter().enumerate() {
            if choice >> bit & 1 == 1 {
                image.apply(change);
            }
        }
        image.objects
    }
}

/// A store in memory that holds these objects.
pub async fn store_of(objects: &BTreeMap<String, Bytes>) -> Arc<dyn ObjectStore> {
    let store = InMemory::new();
    for (path, bytes) in objects {
        let stored = store.put(&Path::from(path.as_str()), bytes.clone().into()).await;
        stored.expect("memory takes everything");
    }
    Arc::new(store)
}
