#![no_main]

use cairn_agent::testkit::fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::reclaims(data));
