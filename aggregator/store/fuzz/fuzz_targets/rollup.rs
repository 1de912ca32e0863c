#![no_main]

#[path = "../look.rs"]
mod look;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| look::look(look::KINDS[5].1, bytes));
