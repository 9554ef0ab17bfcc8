#![no_main]

#[path = "../../tests/fuzzed/mod.rs"]
#[allow(dead_code)]
mod fuzzed;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzed::log(data));
