//! The C library's allocator, told once and for all to give large buffers back to the system.
//!
//! glibc takes large buffers from the system one by one, until the first of them is freed: from then on it keeps their like in
//! arenas, one for each thread, where they leave gaps. Sixty-four clients of an agent with a budget of 64 MiB then hold
//! over 300 MiB resident; with a threshold that does not move, half of that. One long `put` held between 82 and 144 MiB,
//! then 79 to 93. Slabs and packs are used again anyway, so few buffers are asked for anew. It is a tunable of the process
//! and read when that starts, so the process starts anew, once. musl's allocator does as wished.

/// Replaces this process by the same program with the same arguments and the tunable set, unless somebody has set it.
/// Returns if that has happened already, or cannot be.
#[cfg(target_env = "gnu")]
pub(crate) fn settle() {
    use std::os::unix::process::CommandExt;
    /// Buffers of this length and more are the system's.
    const THRESHOLD: &str = "glibc.malloc.mmap_threshold=524288";
    const VARIABLE: &str = "GLIBC_TUNABLES";
    let tunables = std::env::var(VARIABLE).unwrap_or_default();
    if tunables.contains("mmap_threshold") {
        // The system calls a process after the file it was started from, which was `/proc/self/exe`.
        let _ = rustix::thread::set_name(c"cairn");
        return;
    }
    let tunables = match tunables.as_str() {
        "" => THRESHOLD.to_owned(),
        others => format!("{others}:{THRESHOLD}"),
    };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "cairn".into());
    let error = std::process::Command::new("/proc/self/exe")
        .arg0(name)
        .args(arguments)
        .env(VARIABLE, tunables)
        .exec();
    // It only costs memory.
    tracing::debug!(%error, "the allocator stays as it is");
}

#[cfg(not(target_env = "gnu"))]
pub(crate) fn settle() {}
