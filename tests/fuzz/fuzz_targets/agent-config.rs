#![no_main]

#[path = "../look.rs"]
mod look;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (name, look) = look::TARGETS[4];
    assert_eq!(name, "agent-config");
    look(bytes);
});
