//! The allocator, told once and for all how many arenas to have and when to give memory back.
//!
//! glibc takes large buffers from the system one by one, until the first of them is freed: from then on it keeps their like in
//! arenas, one for each thread, where they leave gaps. Sixty-four clients of an agent with a budget of 64 MiB then hold
//! over 300 MiB resident; with a threshold that does not move, half of that. One long `put` held between 82 and 144 MiB,
//! then 79 to 93. Slabs and packs are used again anyway, so few buffers are asked for anew. Of arenas glibc makes eight a
//! processor, and what a thread has freed in one is of no use to the others: with one a processor, the most that a reclaim of
//! a million chunks had resident was 137 MiB instead of 361. A threshold that is fixed also fixes, at 128 KiB, how much may lie
//! free at the end of an arena before it goes back to the system, and reads then ask for the same pages again and again: a get of
//! 2 GiB took 209,000 to 266,000 page faults; with 16 MiB it takes 26,000 to 28,000, and 15 % less processor time. Slabs and packs are
//! asked for as huge pages, where the system gives such to who asks: a put of a gibibyte that does not compress then takes 5,000 to 8,000
//! page faults instead of 35,000 to 48,000, and a fifth less time on a disk.
//!
//! glibc reads its settings when the process starts, so the process starts anew, once.

use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt;

/// Where glibc looks for its settings, and one of those that this program makes.
const VARIABLE: &str = "GLIBC_TUNABLES";
const OURS: &str = "mmap_threshold";

/// The settings for so many processors.
fn settings(processors: usize) -> String {
    /// Buffers of this length and more are the system's.
    const THRESHOLD: &str = "glibc.malloc.mmap_threshold=524288";
    /// Bytes that may lie free at the end of an arena.
    const TRIM: &str = "glibc.malloc.trim_threshold=16777216";
    /// How many arenas there may be.
    const ARENAS: &str = "glibc.malloc.arena_max";
    /// Memory of the system is advised to be huge pages.
    const HUGE_PAGES: &str = "glibc.malloc.hugetlb=1";
    format!("{ARENAS}={processors}:{THRESHOLD}:{TRIM}:{HUGE_PAGES}")
}

/// Replaces this process by the same program with the same arguments and the settings made, unless somebody has made them.
/// Returns if that has happened already, or cannot be.
pub(crate) fn settle() {
    let given = std::env::var(VARIABLE).unwrap_or_default();
    if given.contains(OURS) {
        // The system calls a process after the file it was started from, which was `/proc/self/exe`.
        let _ = rustix::thread::set_name(c"cairn");
        return;
    }
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let mut settings = settings(processors);
    if !given.is_empty() {
        settings.push(':');
        settings.push_str(&given);
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "cairn".into());
    let error = std::process::Command::new("/proc/self/exe")
        .arg0(name)
        .args(arguments)
        .env(VARIABLE, settings)
        .exec();
    // It only costs memory.
    tracing::debug!(%error, "the allocator stays as it is");
}
