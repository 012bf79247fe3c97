//! libFuzzer's entry to `targets::globs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::globs::run(bytes));
