//! How much memory this process may use: the limit of its control group, or all there is.

use std::fs;
use std::path::{Path, PathBuf};

/// Where control groups are mounted, and the files about this process and machine.
pub(super) struct Machine {
    control_groups: PathBuf,
    own_groups: PathBuf,
    memory: PathBuf,
}

impl Machine {
    /// This one.
    pub(super) fn this() -> Self {
        Self {
            control_groups: "/sys/fs/cgroup".into(),
            own_groups: "/proc/self/cgroup".into(),
            memory: "/proc/meminfo".into(),
        }
    }

    /// Bytes this process may use; `None` if nothing tells.
    pub(super) fn memory_bytes(&self) -> Option<u64> {
        let groups = fs::read_to_string(&self.own_groups).unwrap_or_default();
        let limits = groups.lines().filter_map(|line| self.limit(line));
        limits.chain(self.total_bytes()).min()
    }

    /// The limit that one line of `/proc/self/cgroup` leads to: `0::/path` is the second version, `7:memory:/path` the first.
    fn limit(&self, line: &str) -> Option<u64> {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let (root, file) = match controllers {
            "" => (self.control_groups.clone(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (self.control_groups.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        // What holds for a group above holds here too. The path may be one that only the host sees; the root then shows
        // the container's own group.
        let own = root.join(path.trim_start_matches('/'));
        let above = own.ancestors().take_while(|group| group.starts_with(&root));
        above.filter_map(|group| number_in(&group.join(file))).min()
    }

    fn total_bytes(&self) -> Option<u64> {
        let text = fs::read_to_string(&self.memory).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    }
}

/// `max` is no number, and so no limit.
fn number_in(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn with(groups: &str, files: &[(&str, &str)]) -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            let root = place.0.path();
            fs::write(root.join("self"), groups).unwrap();
            fs::write(root.join("meminfo"), "MemFree: 5 kB\nMemTotal:       1000000 kB\n").unwrap();
            for (path, text) in files {
                let path = root.join("groups").join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            place
        }

        fn memory_bytes(&self) -> Option<u64> {
            let root = self.0.path();
            let machine = Machine {
                control_groups: root.join("groups"),
                own_groups: root.join("self"),
                memory: root.join("meminfo"),
            };
            machine.memory_bytes()
        }
    }

    const ALL: Option<u64> = Some(1_000_000 * 1024);

    #[test]
    fn the_lowest_limit_on_the_way_up_counts() {
        let place = Place::with(
            "0::/pod/agent\n",
            &[
                ("pod/agent/memory.max", "max\n"),
                ("pod/memory.max", "4194304\n"),
                ("memory.max", "8388608\n"),
            ],
        );
        assert_eq!(place.memory_bytes(), Some(4 << 20));
    }

    #[test]
    fn a_path_only_the_host_sees_leads_to_the_root() {
        let place = Place::with("0::/kubepods/x/y\n", &[("memory.max", "4194304\n")]);
        assert_eq!(place.memory_bytes(), Some(4 << 20));
    }

    #[test]
    fn the_first_version_is_understood() {
        let no_limit = ("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let place = Place::with(
            "9:cpu,cpuacct:/a\n3:memory:/a\n",
            &[no_limit, ("memory/a/memory.limit_in_bytes", "2097152\n")],
        );
        assert_eq!(place.memory_bytes(), Some(2 << 20));
        assert_eq!(Place::with("3:memory:/\n", &[no_limit]).memory_bytes(), ALL);
    }

    #[test]
    fn without_a_limit_the_machine_is_the_limit() {
        assert_eq!(Place::with("", &[]).memory_bytes(), ALL);
        assert_eq!(Place::with("0::/\n", &[("memory.max", "max\n")]).memory_bytes(), ALL);
    }
}
