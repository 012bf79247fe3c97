//! libFuzzer's entry to `targets::lines`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::lines::run(bytes));
