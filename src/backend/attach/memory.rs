//! Contents in this process's memory, by name: for tests and for trying things out.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use object_store::memory::InMemory;
use parking_lot::Mutex;

use crate::backend::Backend;
use crate::backend::location::Location;

/// Contents stay for the life of the process, as a directory's would: detaching and attaching again finds them.
static STORES: LazyLock<Mutex<HashMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

pub(super) fn attach(name: &str) -> Backend {
    let store = STORES.lock().entry(name.to_owned()).or_default().clone();
    Backend::assemble(Location::Memory(name.to_owned()), store, None)
}
