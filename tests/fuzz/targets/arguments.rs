//! libFuzzer's entry to `targets::arguments`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::arguments::run(bytes));
