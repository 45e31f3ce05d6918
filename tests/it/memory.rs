//! Memory is bounded, whatever the length of a stream: the real program, and the most it ever had resident.

use std::io::{Read, Write};
use std::process::{Child, Stdio};

use rand::Rng;

use crate::support::{Home, resident_peak};
use crate::world::rng;

const STREAM: u64 = 2 << 30;
/// Budget of 64 MiB for bytes in flight, catalog, code, threads, and what the allocator keeps.
const RESIDENT_MAX: u64 = 200 << 20;

#[test]
fn a_long_stream_goes_in_and_comes_out_in_bounded_memory() {
    let home = Home::new();
    let mut child = home
        .command(&["put", "long"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut peak = 0;
    let mut data = rng(1);
    each_part(|_, part| {
        data.fill_bytes(part);
        input.write_all(part).unwrap();
        peak = peak.max(resident_peak(child.id()));
    });
    assert_eq!(name_of(&child), "cairn\n", "it started anew, and is called so");
    drop(input);
    finish(&mut child, &mut peak);
    assert!(peak <= RESIDENT_MAX, "put had {} MiB resident", peak >> 20);

    let mut child = home.command(&["get", "long"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut peak = 0;
    let mut data = rng(1);
    let mut expected = Vec::new();
    each_part(|at, part| {
        output.read_exact(part).unwrap();
        expected.resize(part.len(), 0);
        data.fill_bytes(&mut expected);
        assert!(
            part == expected.as_slice(),
            "what comes out differs in the mebibyte at {at}"
        );
        peak = peak.max(resident_peak(child.id()));
    });
    assert_eq!(output.read(&mut [0]).unwrap(), 0, "more came out than went in");
    finish(&mut child, &mut peak);
    assert!(peak <= RESIDENT_MAX, "get had {} MiB resident", peak >> 20);
}

fn each_part(mut work: impl FnMut(u64, &mut [u8])) {
    let mut part = vec![0; 1 << 20];
    for at in (0..STREAM).step_by(part.len()) {
        work(at, &mut part);
    }
}

/// What the system calls the process.
fn name_of(child: &Child) -> String {
    std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap()
}

/// Looks at the peak until the process ends, well.
fn finish(child: &mut Child, peak: &mut u64) {
    let status = loop {
        *peak = (*peak).max(resident_peak(child.id()));
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::yield_now(),
        }
    };
    assert!(status.success(), "{status}");
    assert!(*peak > 0, "this system does not tell the peak");
}
