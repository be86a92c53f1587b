#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| bots_ctl_fuzz::xmlrpc::check(data));
