//! libFuzzer's entry to `targets::charsets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::charsets::run(bytes));
