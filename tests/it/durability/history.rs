//! Questions to a trace: from when on something would survive a power cut.

use super::strace::{Action, Event};

/// A moment that has passed, and one that begins: lines of a trace.
pub(super) fn before(what: &str, durable: usize, event: usize) -> Result<(), String> {
    let late =
        format!("{what} is durable from line {durable} of the trace on, too late for what begins on line {event}");
    if durable < event { Ok(()) } else { Err(late) }
}

/// What one process did, in the order of the ends of its system calls.
pub(super) struct History(pub(super) Vec<Event>);

impl History {
    /// When the process began to print its result.
    pub(super) fn answer(&self) -> Result<usize, String> {
        let answer = self.0.iter().find(|event| event.action == Action::Answer);
        answer
            .map(|event| event.began)
            .ok_or_else(|| "nothing was printed".to_owned())
    }

    pub(super) fn renames(&self, path: &str) -> bool {
        self.renamings(path).next().is_some()
    }

    fn renamings(&self, path: &str) -> impl Iterator<Item = (&str, &Event)> {
        self.0.iter().filter_map(move |event| match &event.action {
            Action::Rename { from, to } if to == path => Some((from.as_str(), event)),
            _ => None,
        })
    }

    /// When `path` began to get its name.
    pub(super) fn published(&self, path: &str) -> Result<usize, String> {
        let (_, event) = self
            .renamings(path)
            .next()
            .ok_or_else(|| format!("{path} was not renamed into place"))?;
        Ok(event.began)
    }

    /// From when on `path` survives a power cut, by whichever way it came.
    pub(super) fn durable(&self, path: &str) -> Result<usize, String> {
        if self.renames(path) {
            self.put_durably(path)
        } else {
            self.created_durably(path)
        }
    }

    /// From when on `path` survives a power cut, if every write of it went under a staging name and was synced before
    /// the file got its own name.
    pub(super) fn put_durably(&self, path: &str) -> Result<usize, String> {
        let mut durable = Err(format!("{path} was not renamed into place"));
        for (staging, renamed) in self.renamings(path) {
            if !staging
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with(['#', '.']))
            {
                return Err(format!("{path} came from {staging}, which is no staging name of it"));
            }
            let contents = self.synced_after(staging, self.last_write(staging, renamed.began)?)?;
            before(staging, contents, renamed.began)?;
            durable = Ok(self.synced_after(parent(path), renamed.ended)?);
        }
        if self
            .0
            .iter()
            .any(|event| event.action == Action::Write(path.to_owned()))
        {
            return Err(format!("{path} was written under its own name"));
        }
        durable
    }

    /// From when on `path` survives a power cut, for a file that was created under its own name.
    fn created_durably(&self, path: &str) -> Result<usize, String> {
        let contents = self.synced_after(path, self.last_write(path, usize::MAX)?)?;
        let name = self.synced_after(parent(path), self.created(path)?)?;
        Ok(contents.max(name))
    }

    /// When `path` was there, whole or not.
    pub(super) fn created(&self, path: &str) -> Result<usize, String> {
        let mut creations = self
            .0
            .iter()
            .filter(|event| event.action == Action::Create(path.to_owned()));
        creations
            .next()
            .map(|event| event.ended)
            .ok_or_else(|| format!("{path} was not created"))
    }

    /// Files created in a folder of the store, whatever their names.
    pub(super) fn created_in(&self, store: &str, folder: &str) -> Vec<String> {
        let in_folder = |path: &&String| path.strip_prefix(store).is_some_and(|path| path.contains(folder));
        let creations = self.0.iter().filter_map(|event| match &event.action {
            Action::Create(path) => Some(path),
            _ => None,
        });
        creations.filter(in_folder).cloned().collect()
    }

    /// From when on the way to `path` survives a power cut: each directory on it that was made on the way.
    pub(super) fn directories_durably(&self, path: &str) -> Result<usize, String> {
        let mut durable = 0;
        let mut directory = parent(path);
        while directory != "/" {
            if let Some(made) = self.made(directory) {
                durable = durable.max(self.synced_after(parent(directory), made)?);
            }
            directory = parent(directory);
        }
        Ok(durable)
    }

    fn made(&self, directory: &str) -> Option<usize> {
        let made = self.0.iter().find(|event| match &event.action {
            Action::MakeDirectory(path) => path.trim_end_matches('/') == directory,
            _ => false,
        });
        made.map(|event| event.ended)
    }

    /// When the last write of `path` returned that began before `limit`.
    fn last_write(&self, path: &str, limit: usize) -> Result<usize, String> {
        let writes = self
            .0
            .iter()
            .filter(|event| event.began < limit && event.action == Action::Write(path.to_owned()));
        writes
            .map(|event| event.ended)
            .max()
            .ok_or_else(|| format!("{path} was never written"))
    }

    /// When the first fsync of `path` returned that began after `moment`.
    fn synced_after(&self, path: &str, moment: usize) -> Result<usize, String> {
        let syncs = self
            .0
            .iter()
            .filter(|event| event.began > moment && event.action == Action::Sync(path.to_owned()));
        let first = syncs.map(|event| event.ended).min();
        first.ok_or_else(|| format!("{path} was not synced after line {moment} of the trace"))
    }
}

fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}

/// The claims bite: histories that a wrong program would have.
mod the_claims_bite {
    use super::super::strace;
    use super::*;

    const GOOD: &str = r#"7 openat(AT_FDCWD</>, "/s/a#1", O_RDWR|O_CREAT|O_EXCL, 0666) = 9</s/a#1>
7 write(9</s/a#1>, ""..., 4) = 4
7 fsync(9</s/a#1>) = 0
7 rename("/s/a#1", "/s/a") = 0
7 fsync(9</s>) = 0
7 write(1<pipe:[1]>, ""..., 4) = 4"#;

    /// The outcome with the lines in another order.
    fn outcome(order: &[usize]) -> Result<(), String> {
        let lines: Vec<_> = GOOD.lines().collect();
        let trace: Vec<_> = order.iter().map(|&line| lines[line]).collect();
        check(&trace.join("\n"))
    }

    fn check(trace: &str) -> Result<(), String> {
        let history = History(strace::parse(trace));
        before("/s/a", history.put_durably("/s/a")?, history.answer()?)
    }

    #[test]
    fn the_right_order_is_accepted() {
        outcome(&[0, 1, 2, 3, 4, 5]).unwrap();
    }

    #[test]
    fn any_other_order_is_not() {
        outcome(&[0, 2, 1, 3, 4, 5]).expect_err("written after the sync");
        outcome(&[0, 1, 3, 2, 4, 5]).expect_err("renamed before the sync");
        outcome(&[0, 1, 2, 4, 3, 5]).expect_err("the directory synced before the rename");
        outcome(&[0, 1, 2, 3, 5, 4]).expect_err("answered before the directory was synced");
        outcome(&[0, 1, 2, 3, 5]).expect_err("the directory never synced");
        outcome(&[0, 1, 3, 4, 5]).expect_err("the file never synced");
        outcome(&[0, 1, 2, 4, 5]).expect_err("never renamed");
    }

    #[test]
    fn what_is_still_running_has_not_happened() {
        let trace = GOOD.replace("7 fsync(9</s>) = 0", "8 fsync(9</s> <unfinished ...>");
        check(&format!("{trace}\n8 <... fsync resumed>) = 0")).expect_err("answered while the directory was synced");
        let trace = GOOD.replace("7 fsync(9</s/a#1>) = 0\n", "");
        let trace = trace.replace("7 rename", "8 fsync(9</s/a#1> <unfinished ...>\n7 rename");
        check(&format!("{trace}\n8 <... fsync resumed>) = 0")).expect_err("renamed while the file was synced");
    }

    #[test]
    fn another_file_is_no_staging_name() {
        check(&GOOD.replace("a#1", "b")).expect_err("it came from elsewhere");
        check(&GOOD.replace("7 rename", "7 write(9</s/a>, \"\"..., 4) = 4\n7 rename")).expect_err("written in place");
    }
}
