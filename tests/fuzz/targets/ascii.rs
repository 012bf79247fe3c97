//! libFuzzer's entry to `targets::ascii`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::ascii::run(bytes));
