//! The inputs of the fuzz targets.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// The inputs of a target with the names of their files.
pub fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let place = env::var_os("BOTS_CTL_TEST_CORPUS").map_or_else(|| PathBuf::from("tests/fuzz/corpus"), PathBuf::from);
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join(place).join(target);
    let files = fs::read_dir(&place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
    let read = |path: PathBuf| (path.display().to_string(), fs::read(&path).expect("readable"));
    files.map(|entry| read(entry.expect("an entry").path())).collect()
}
