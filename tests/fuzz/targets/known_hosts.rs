//! libFuzzer's entry to `targets::known_hosts`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::known_hosts::run(bytes));
