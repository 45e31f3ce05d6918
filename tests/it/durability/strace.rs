//! A trace of system calls, read into what decides about durability: names, writes, syncs, and the answer.

use std::collections::HashMap;

/// The calls that are traced. A `?` lets strace go on where an architecture has no such call.
pub(super) const CALLS: &str = "trace=?open,openat,?creat,write,pwrite64,writev,pwritev,pwritev2,copy_file_range,\
    ftruncate,fsync,fdatasync,?rename,renameat,renameat2,?mkdir,mkdirat";

/// What a system call did. Failed calls did nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A file was opened that may not have existed before.
    Create(String),
    MakeDirectory(String),
    Write(String),
    /// fsync or fdatasync, of a file or of a directory, by whatever descriptor.
    Sync(String),
    Rename {
        from: String,
        to: String,
    },
    /// Something was written to standard output.
    Answer,
}

/// An action with the lines of the trace where its call began and returned. Calls of several threads overlap: one
/// happened before another only if it had returned when the other began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) action: Action,
    pub(super) began: usize,
    pub(super) ended: usize,
}

/// Reads what `strace -f -y -s 0 -o FILE` wrote. Panics on a line it does not understand: a claim about a trace that was
/// read in part would be worth nothing.
pub(super) fn parse(trace: &str) -> Vec<Event> {
    let mut events = Vec::new();
    let mut unfinished = HashMap::new();
    for (ended, line) in trace.lines().enumerate() {
        let (thread, text) = line.split_once(' ').unwrap_or_else(|| unreadable(line));
        let text = text.trim_start();
        if text.starts_with("+++") || text.starts_with("---") {
            continue;
        }
        if let Some(beginning) = text.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, (ended, beginning.trim_end()));
            continue;
        }
        let (began, call) = match text.strip_prefix("<... ") {
            Some(rest) => {
                let (_, end) = rest.split_once(" resumed>").unwrap_or_else(|| unreadable(line));
                let (began, beginning) = unfinished.remove(thread).unwrap_or_else(|| unreadable(line));
                (began, format!("{beginning}{end}"))
            }
            None => (ended, text.to_owned()),
        };
        let call = Call::parse(&call).unwrap_or_else(|| unreadable(line));
        events.extend(call.action().map(|action| Event { action, began, ended }));
    }
    events
}

fn unreadable<T>(line: &str) -> T {
    panic!("not understood in the trace: {line}")
}

/// `name(arguments) = result`
struct Call<'a> {
    name: &'a str,
    arguments: Vec<&'a str>,
    result: &'a str,
}

impl<'a> Call<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (call, result) = text.rsplit_once(" = ")?;
        let (name, arguments) = call.trim_end().strip_suffix(')')?.split_once('(')?;
        Some(Self {
            name,
            arguments: split(arguments),
            result: result.trim_start(),
        })
    }

    fn action(&self) -> Option<Action> {
        // `?` is a call that the end of the process cut off.
        if self.result.starts_with(['-', '?']) {
            return None;
        }
        match self.name {
            "open" | "openat" => self.flags().contains("O_CREAT").then(|| Action::Create(self.opened())),
            "creat" => Some(Action::Create(self.opened())),
            "mkdir" | "mkdirat" => Some(Action::MakeDirectory(self.paths().remove(0))),
            "rename" | "renameat" | "renameat2" => {
                let [from, to] = self.paths().try_into().unwrap_or_else(|_| unreadable(self.name));
                Some(Action::Rename { from, to })
            }
            "fsync" | "fdatasync" => Some(Action::Sync(self.descriptor(0).1)),
            "copy_file_range" => Some(Action::Write(self.descriptor(2).1)),
            _ => Some(match self.descriptor(0) {
                (1, _) => Action::Answer,
                (_, path) => Action::Write(path),
            }),
        }
    }

    fn flags(&self) -> &str {
        self.arguments
            .iter()
            .find(|argument| argument.starts_with("O_"))
            .unwrap_or(&"")
    }

    fn opened(&self) -> String {
        descriptor(self.result).1
    }

    fn descriptor(&self, index: usize) -> (u32, String) {
        descriptor(self.arguments.get(index).unwrap_or_else(|| unreadable(self.name)))
    }

    /// The paths among the arguments, each below the directory whose descriptor stands before it, if one does.
    fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        for (index, argument) in self.arguments.iter().enumerate() {
            let Some(path) = argument.strip_prefix('"').and_then(|path| path.strip_suffix('"')) else {
                continue;
            };
            let directory = index.checked_sub(1).map(|before| self.arguments[before]);
            let directory = directory.and_then(|directory| directory.split_once('<'));
            paths.push(match directory {
                Some((_, directory)) if !path.starts_with('/') => {
                    format!("{}/{path}", directory.trim_end_matches('>'))
                }
                _ => path.to_owned(),
            });
        }
        paths
    }
}

/// `5</some/file>`
fn descriptor(text: &str) -> (u32, String) {
    let (number, path) = text.split_once('<').unwrap_or_else(|| unreadable(text));
    let path = path.trim_end().strip_suffix('>').unwrap_or_else(|| unreadable(text));
    (number.parse().unwrap_or_else(|_| unreadable(text)), path.to_owned())
}

/// Splits arguments at the commas that are in no path and no structure.
fn split(arguments: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut depth, mut quoted) = (0, 0, false);
    for (at, byte) in arguments.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'<' | b'[' | b'{' if !quoted => depth += 1,
            b'>' | b']' | b'}' if !quoted => depth -= 1,
            b',' if !quoted && depth == 0 => {
                parts.push(arguments[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(arguments[start..].trim());
    parts
}

mod tests {
    use super::Action::*;
    use super::*;

    fn actions(trace: &str) -> Vec<Action> {
        parse(trace).into_iter().map(|event| event.action).collect()
    }

    fn at(path: &str) -> String {
        path.to_owned()
    }

    #[test]
    fn each_call_is_read_as_what_it_does() {
        let trace = r#"
7  mkdir("/s/packs", 0777)               = 0
7  openat(AT_FDCWD</tmp>, "/s/packs/a#1", O_RDWR|O_CREAT|O_EXCL|O_CLOEXEC, 0666) = 9</s/packs/a#1>
7  write(9</s/packs/a#1>, ""..., 8192)   = 8192
7  writev(9</s/packs/a#1>, [{iov_base=""..., iov_len=5}, {iov_base=""..., iov_len=3}], 2) = 8
7  fdatasync(9</s/packs/a#1>)            = 0
7  rename("/s/packs/a#1", "/s/packs/a")  = 0
7  openat(AT_FDCWD</tmp>, "/s/packs", O_RDONLY|O_CLOEXEC) = 9</s/packs>
7  fsync(9</s/packs>)                    = 0
7  write(1<pipe:[61930]>, ""..., 12)     = 12
7  +++ exited with 0 +++
"#;
        let expected = [
            MakeDirectory(at("/s/packs")),
            Create(at("/s/packs/a#1")),
            Write(at("/s/packs/a#1")),
            Write(at("/s/packs/a#1")),
            Sync(at("/s/packs/a#1")),
            Rename {
                from: at("/s/packs/a#1"),
                to: at("/s/packs/a"),
            },
            Sync(at("/s/packs")),
            Answer,
        ];
        assert_eq!(actions(trace.trim()), expected);
    }

    #[test]
    fn a_call_cut_in_two_spans_both_lines() {
        let trace = r#"7  fsync(9</s/a#1> <unfinished ...>
8  write(10</s/b#2>, ""..., 4 <unfinished ...>
7  <... fsync resumed>)                  = 0
8  <... write resumed>)                  = 4"#;
        let expected = [
            Event {
                action: Sync(at("/s/a#1")),
                began: 0,
                ended: 2,
            },
            Event {
                action: Write(at("/s/b#2")),
                began: 1,
                ended: 3,
            },
        ];
        assert_eq!(parse(trace), expected);
    }

    #[test]
    fn relative_paths_are_below_their_directory() {
        let trace = r#"7  renameat(4</s>, "a#1", AT_FDCWD</tmp>, "b") = 0"#;
        assert_eq!(
            actions(trace),
            [Rename {
                from: at("/s/a#1"),
                to: at("/tmp/b")
            }]
        );
    }

    #[test]
    fn failed_and_interrupted_calls_did_nothing() {
        let trace = r#"7  mkdir("/s", 0777) = -1 EEXIST (File exists)
7  fsync(9</s>) = -1 EIO (Input/output error)
7  fsync(9</s>) = ?
7  --- SIGCHLD {si_signo=SIGCHLD, si_code=CLD_EXITED} ---"#;
        assert_eq!(actions(trace), []);
    }

    #[test]
    #[should_panic(expected = "not understood in the trace")]
    fn what_is_not_understood_is_not_passed_over() {
        parse("7  fsync(9</s>");
    }
}
