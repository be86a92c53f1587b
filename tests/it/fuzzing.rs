//! Runs the fuzz targets on their corpora, so that the invariants hold for these inputs in every test run.
//!
//! `BOTS_CTL_TEST_CORPUS=target/fuzz/corpus` uses the findings of a fuzzer run instead of the few stored inputs.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use crate::support::fuzzing::corpus;
use std::path::Path;
use std::{env, fs};

type Check = fn(&[u8]);

const TARGETS: [(&str, Check); 7] = [
    ("bots_ini", targets::bots_ini::check),
    ("configuration", targets::configuration::check),
    ("fnmatch", targets::fnmatch::check),
    ("health_request", targets::health_request::check),
    ("log_lines", targets::log_lines::check),
    ("settings_json", targets::settings_json::check),
    ("xmlrpc", targets::xmlrpc::check),
];

#[apply(test)]
fn corpora_satisfy_fuzz_invariants() {
    for (target, check) in TARGETS {
        let inputs = corpus(target);
        assert!(inputs.len() >= 5, "{target} has too few");
        for (name, input) in inputs {
            // Printed if it fails.
            println!("{name}");
            check(&input);
        }
    }
}

/// Each has a program, a dictionary and a corpus.
#[apply(test)]
fn every_fuzz_target_has_program_and_dictionary() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let read = |name: &str| fs::read_to_string(place.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let (manifest, script) = (read("Cargo.toml"), read("run.sh"));
    for (target, _) in TARGETS {
        read(&format!("dictionaries/{target}.dict"));
        assert!(read(&format!("fuzz_targets/{target}.rs")).contains(&format!("{target}::check")));
        assert!(manifest.contains(&format!("name = \"{target}\"")) && script.contains(target), "{target}");
    }
    let programs = fs::read_dir(place.join("fuzz_targets")).expect("it is there");
    assert_eq!(programs.count(), TARGETS.len());
}
