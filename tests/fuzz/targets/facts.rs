//! libFuzzer's entry to `targets::facts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::facts::run(bytes));
