#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dirtymap_fuzz::set_json::run(bytes));
