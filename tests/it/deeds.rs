//! What a user does with the program, at random, and what the store may hold afterwards: for tests that stop the program
//! or the machine in the middle.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::support::Home;
use crate::world::{edited, noise, rng};

type Contents = Option<Arc<Vec<u8>>>;

/// One call of the program.
#[derive(Clone)]
pub(crate) enum Deed {
    Put(String, Arc<Vec<u8>>),
    Remove(String),
    Reclaim,
}

/// Deeds, and what their ends say about the store.
pub(crate) struct Deeds {
    rng: ChaCha8Rng,
    may_be: BTreeMap<String, Vec<Contents>>,
    earlier: Vec<Arc<Vec<u8>>>,
    /// How many were acknowledged.
    pub(crate) acknowledged: usize,
}

impl Deeds {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: rng(seed),
            may_be: BTreeMap::new(),
            earlier: Vec::new(),
            acknowledged: 0,
        }
    }

    pub(crate) fn rng(&mut self) -> &mut ChaCha8Rng {
        &mut self.rng
    }

    pub(crate) fn next(&mut self) -> Deed {
        let name = format!("object {}", self.rng.random_range(0..10));
        match self.rng.random_range(0..100) {
            0..65 => Deed::Put(name, self.contents()),
            65..85 if self.is_there(&name) => Deed::Remove(name),
            85.. => Deed::Reclaim,
            _ => Deed::Put(name, self.contents()),
        }
    }

    fn is_there(&self, name: &str) -> bool {
        self.may_be.get(name).is_some_and(|may_be| !may_be.contains(&None))
    }

    fn contents(&mut self) -> Arc<Vec<u8>> {
        let bytes = match self.rng.random_range(0..10) {
            0..3 if !self.earlier.is_empty() => {
                let index = self.rng.random_range(0..self.earlier.len());
                let earlier = self.earlier[index].clone();
                edited(&mut self.rng, &earlier)
            }
            0..7 => {
                let len = self.rng.random_range(0..100 << 10);
                noise(&mut self.rng, len)
            }
            _ => {
                let len = self.rng.random_range(1 << 20..6 << 20);
                noise(&mut self.rng, len)
            }
        };
        let bytes = Arc::new(bytes);
        self.earlier.push(bytes.clone());
        if self.earlier.len() > 6 {
            self.earlier.remove(0);
        }
        bytes
    }

    /// It was done, or nobody knows.
    pub(crate) fn told(&mut self, deed: &Deed, acknowledged: bool) {
        self.acknowledged += usize::from(acknowledged);
        let (name, wrote) = match deed {
            Deed::Put(name, bytes) => (name, Some(bytes.clone())),
            Deed::Remove(name) => (name, None),
            Deed::Reclaim => return,
        };
        let may_be = self.may_be.entry(name.clone()).or_insert_with(|| vec![None]);
        if acknowledged {
            may_be.clear();
        }
        may_be.push(wrote);
    }

    /// Reads everything; from here on it is known.
    pub(crate) fn check(&mut self, home: &Home, what: &str) {
        let names = home.names();
        for name in &names {
            assert!(self.may_be.contains_key(name), "{what}: {name:?} was never put");
        }
        for (name, may_be) in &mut self.may_be {
            let found = names.contains(name).then(|| Arc::new(home.get(name)));
            let is = found
                .as_ref()
                .map_or("absent".to_owned(), |bytes| format!("{} bytes", bytes.len()));
            assert!(
                may_be.contains(&found),
                "{what}: {name:?} is {is}, and not one of {} that it may be",
                may_be.len()
            );
            *may_be = vec![found];
        }
    }

    /// The store is whole, counts right and can be made known anew; then everything is read once more.
    pub(crate) fn check_all(&mut self, home: &Home, what: &str) {
        self.check(home, what);
        home.run(&["gc"]).ok();
        home.run(&["scrub"]).ok();
        let counted = |home: &Home| home.run(&["status", "-o", "json"]).json()["repositories"].clone();
        let before = counted(home);
        home.run(&["rebuild"]).ok();
        assert_eq!(counted(home), before, "{what}: a rebuild counts otherwise");
        self.check(home, what);
    }
}

impl Deed {
    /// Begins it. What it says goes to `said`.
    pub(crate) fn start(&self, home: &Home, said: &Path) -> Child {
        let mut command = self.command(home);
        let said = std::fs::File::create(said).unwrap();
        command.stdout(Stdio::null()).stderr(said).spawn().unwrap()
    }

    fn command(&self, home: &Home) -> Command {
        match self {
            Deed::Put(name, bytes) => {
                let file = home.file("input", bytes);
                home.command(&["put", name, file.to_str().unwrap()])
            }
            Deed::Remove(name) => home.command(&["rm", name]),
            Deed::Reclaim => home.command(&["gc"]),
        }
    }
}
