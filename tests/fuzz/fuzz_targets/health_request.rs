#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bots_ctl_fuzz::health_request::check(data));
