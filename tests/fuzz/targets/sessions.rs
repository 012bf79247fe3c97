//! libFuzzer's entry to `targets::sessions`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::sessions::run(bytes));
