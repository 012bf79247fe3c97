//! libFuzzer's entry to `targets::listings`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::listings::run(bytes));
