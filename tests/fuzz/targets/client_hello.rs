//! libFuzzer's entry to `targets::client_hello`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::client_hello::run(bytes));
