//! libFuzzer's entry to `targets::packets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::packets::run(bytes));
