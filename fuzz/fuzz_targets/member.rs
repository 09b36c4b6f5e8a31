#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dirtymap_fuzz::member::run(bytes));
