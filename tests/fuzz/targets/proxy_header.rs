//! libFuzzer's entry to `targets::proxy_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::proxy_header::run(bytes));
