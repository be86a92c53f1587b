//! Our file masks against Python's own: whatever is random here is the same in every run.
//!
//! `BOTS_CTL_TEST_ROUNDS=20 tests/run.sh fnmatch::` compares 1.2 million.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use bots_ctl::pycompat::fnmatch::FnMatch;

use crate::support::fuzzing::corpus;
use crate::support::sandbox::{python, rounds};

/// Reads pairs of mask and name, both in hex, one per line; prints whether each matches.
const ORACLE: &str = "
import fnmatch, os, sys, warnings
warnings.simplefilter('ignore')
for line in sys.stdin:
    mask, name = (bytes.fromhex(part) for part in line.rstrip('\\n').split(','))
    print(int(fnmatch.fnmatchcase(os.fsdecode(name), mask.decode())))
";

/// A generator that needs no crate: xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).expect("small")).expect("small")
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

fn ask(pairs: &[(String, Vec<u8>)]) -> Vec<bool> {
    let mut oracle = Command::new(python());
    oracle.args(["-X", "utf8", "-c", ORACLE]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut oracle = oracle.spawn().expect("Python runs");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let lines: String = pairs.iter().map(|(mask, name)| format!("{},{}\n", hex(mask.as_bytes()), hex(name))).collect();
    let mut input = oracle.stdin.take().expect("it is piped");
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = oracle.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("it reads all");
    String::from_utf8(output.stdout).expect("text").lines().map(|line| line == "1").collect()
}

#[apply(test)]
fn random_masks_match_as_in_python() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..rounds(1) {
        let matching = compare(&random_pairs(&mut random));
        assert!(matching > 2000, "{matching} of them match: too few to mean something");
    }
}

/// What a fuzzer has found, too: `BOTS_CTL_TEST_CORPUS=target/fuzz/corpus tests/run.sh fnmatch::`
#[apply(test)]
fn fuzzer_corpus_matches_as_in_python() {
    let pair = |(_, input): (String, Vec<u8>)| {
        let (length, rest) = input.split_first()?;
        let (mask, name) = rest.split_at(usize::from(*length).min(rest.len()));
        Some((String::from_utf8_lossy(mask).into_owned(), name.to_vec()))
    };
    compare(&corpus("fnmatch").into_iter().filter_map(pair).collect::<Vec<_>>());
}

fn random_pairs(random: &mut Random) -> Vec<(String, Vec<u8>)> {
    let in_masks =
        ["*", "?", "[", "]", "!", "-", "^", "\\", "a", "b", "c", "z", ".", "ü", "&&", "||", "~~", "[a-c]", "[!"];
    let in_names: [&[u8]; 14] =
        [b"a", b"b", b"c", b"z", b".", b"-", b"]", b"[", b"!", b"^", b"\\", "ü".as_bytes(), b"\xff", b"\xed\xa0\x80"];
    let mut pairs = Vec::new();
    for _ in 0..60_000 {
        let mask: String = (0..random.below(7)).map(|_| random.pick(&in_masks)).collect();
        let name: Vec<u8> = (0..random.below(4)).flat_map(|_| random.pick(&in_names)).copied().collect();
        pairs.push((mask, name));
    }
    pairs
}

/// Says how many of them match.
fn compare(pairs: &[(String, Vec<u8>)]) -> usize {
    let expected = ask(pairs);
    assert_eq!(expected.len(), pairs.len());
    let matching = expected.iter().filter(|matches| **matches).count();
    for ((mask, name), expected) in pairs.iter().zip(expected) {
        assert_eq!(FnMatch::new(mask).matches(OsStr::from_bytes(name)), expected, "{mask:?} {name:?}");
    }
    matching
}
