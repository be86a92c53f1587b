//! The tests of a plugin: input files and expected output files, which Bots calls an acceptance test.
//!
//! `tests/CASE/in/CHANNEL` has the files for an incoming channel, `tests/CASE/out/CHANNEL` the expected files of an
//! outgoing one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::Error;
use crate::fs::{atomic, regular};
use crate::model::counted;

/// The directory of tests in a plugin.
pub const TESTS: &str = "tests";

/// The file with the other expectations of a case.
const EXPECTED: &str = "expected.toml";

/// Maximum number of reported differences per file.
const MAX_DIFFERENCES: usize = 5;

/// Files of channels: their contents by channel and name.
pub type ChannelFiles = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// A test case.
#[derive(Debug)]
pub struct Case {
    pub name: String,
    pub inputs: ChannelFiles,
    outputs: ChannelFiles,
    expected: Expected,
}

/// The other expectations of a case.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expected {
    /// The number of files that must fail.
    #[serde(default)]
    errors: usize,
    /// Beginnings of lines and segments that differ between runs.
    #[serde(default)]
    ignore: Vec<String>,
}

/// The result of a case.
#[derive(Debug)]
pub struct CaseResult {
    pub name: String,
    /// The differences from its expectations.
    pub differences: Vec<String>,
    pub seconds: f64,
}

/// The outcome of a run.
#[derive(Debug, Default)]
pub struct RunOutput {
    pub outputs: ChannelFiles,
    /// The files that failed, with their reasons.
    pub errors: Vec<String>,
}

/// The cases of a plugin, sorted by name.
///
/// # Errors
/// If there is none, or one cannot be read.
pub fn read_cases(plugin: &Path) -> Result<Vec<Case>, Error> {
    let directory = plugin.join(TESTS);
    let mut cases = Vec::new();
    for name in directories(&directory) {
        let place = directory.join(&name);
        let file = place.join(EXPECTED);
        let expected = match file.exists() {
            false => Expected::default(),
            true => {
                let text = regular::read_to_string(&file);
                let text = text.map_err(|error| atomic::describe_io_error("read", &file, &error))?;
                toml::from_str(&text).map_err(|error| Error::toml(&file, &text, &error))?
            }
        };
        let (inputs, outputs) = (channel_files(&place.join("in"))?, channel_files(&place.join("out"))?);
        cases.push(Case { name, inputs, outputs, expected });
    }
    if cases.is_empty() {
        let text = "there is no test: each is a directory in it, with in/CHANNEL/FILE and out/CHANNEL/FILE";
        return Err(Error::fault(format!("{}: {text}", directory.display())));
    }
    Ok(cases)
}

fn directories(place: &Path) -> Vec<String> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

/// The files of each directory in a directory.
fn channel_files(place: &Path) -> Result<ChannelFiles, Error> {
    directories(place).into_iter().map(|name| Ok((name.clone(), files_in(&place.join(&name))?))).collect()
}

/// The files in a directory by name.
///
/// # Errors
/// When one cannot be read.
pub fn files_in(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let mut files = BTreeMap::new();
    let entries = fs::read_dir(directory).map_err(|error| atomic::describe_io_error("read", directory, &error))?;
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let content = regular::read(&path).map_err(|error| atomic::describe_io_error("read", &path, &error))?;
        files.insert(name, content);
    }
    Ok(files)
}

impl Case {
    /// The differences between a run and the expectations of the case.
    #[must_use]
    pub fn differences(&self, found: &RunOutput) -> Vec<String> {
        let mut differences = Vec::new();
        if found.errors.len() != self.expected.errors {
            let (expected, number) = (self.expected.errors, found.errors.len());
            differences.push(format!("{} failed, {expected} expected", counted(number, "file")));
            differences.extend(found.errors.iter().map(|error| format!("  {error}")));
        }
        let empty = BTreeMap::new();
        let channels: BTreeSet<&String> = self.outputs.keys().chain(found.outputs.keys()).collect();
        for channel in channels {
            let expected = self.outputs.get(channel).unwrap_or(&empty);
            let outputs = found.outputs.get(channel).unwrap_or(&empty);
            let names: BTreeSet<&String> = expected.keys().chain(outputs.keys()).collect();
            for name in names {
                let place = format!("{channel}/{name}");
                match (expected.get(name), outputs.get(name)) {
                    (Some(_), None) => differences.push(format!("{place}: it was not made")),
                    (None, Some(_)) => differences.push(format!("{place}: it was not expected")),
                    (Some(one), Some(other)) => differences.extend(self.compare(&place, one, other)),
                    (None, None) => {}
                }
            }
        }
        differences
    }

    fn compare(&self, place: &str, expected: &[u8], found: &[u8]) -> Vec<String> {
        let (one, other) = (self.records(expected), self.records(found));
        let mut differences = Vec::new();
        for number in 0..one.len().max(other.len()) {
            let (expected, found) = (one.get(number), other.get(number));
            if expected != found {
                let shown =
                    |record: Option<&String>| record.map_or("nothing".to_owned(), |record| format!("{record:?}"));
                differences.push(format!(
                    "{place}:{}: expected {}, found {}",
                    number + 1,
                    shown(expected),
                    shown(found)
                ));
            }
        }
        let more = differences.len().saturating_sub(MAX_DIFFERENCES);
        differences.truncate(MAX_DIFFERENCES);
        if more > 0 {
            differences.push(format!("{place}: {more} more"));
        }
        differences
    }

    /// The lines and segments to compare: those of EDIFACT and X12 may be on one line.
    fn records(&self, content: &[u8]) -> Vec<String> {
        let text = String::from_utf8(content.to_vec());
        // Latin-1, in which each byte is a character.
        let text = text.unwrap_or_else(|error| error.into_bytes().into_iter().map(char::from).collect());
        let records = text.split_inclusive(['\n', '\'', '~']);
        let is_compared =
            |record: &&str| !self.expected.ignore.iter().any(|start| record.trim_start().starts_with(start));
        records.filter(is_compared).map(str::to_owned).collect()
    }
}

/// The results in the format of JUnit.
#[must_use]
pub fn junit(results: &[CaseResult]) -> String {
    let failures = results.iter().filter(|result| !result.differences.is_empty()).count();
    let seconds: f64 = results.iter().map(|result| result.seconds).sum();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"plugin\" tests=\"{}\" failures=\"{failures}\" \
         time=\"{seconds:.3}\">\n",
        results.len()
    );
    for result in results {
        let _ = write!(text, "  <testcase name=\"{}\" time=\"{:.3}\"", escaped(&result.name), result.seconds);
        if result.differences.is_empty() {
            text.push_str("/>\n");
        } else {
            let message = escaped(&result.differences.join("\n"));
            let _ = write!(text, ">\n    <failure>{message}</failure>\n  </testcase>\n");
        }
    }
    text + "</testsuite>\n"
}

/// Text for XML, without control characters.
fn escaped(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c });
    let shown: String = shown.collect();
    shown.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(content: &str) -> ChannelFiles {
        [("out".to_owned(), [("x".to_owned(), content.as_bytes().to_vec())].into())].into()
    }

    fn case(content: &str) -> Case {
        let expected = Expected { errors: 0, ignore: vec!["UNB+".to_owned()] };
        Case { name: "a <case>".to_owned(), inputs: ChannelFiles::new(), outputs: files(content), expected }
    }

    #[test]
    fn a_difference_names_channel_file_and_record() {
        let case = case("UNB+1'BGM+2'UNT+3'");
        let found = |content: &str| RunOutput { outputs: files(content), errors: Vec::new() };
        assert_eq!(case.differences(&found("UNB+9'BGM+2'UNT+3'")), [""; 0]);
        assert_eq!(
            case.differences(&found("UNB+1'BGM+7'")),
            ["out/x:1: expected \"BGM+2'\", found \"BGM+7'\"", "out/x:2: expected \"UNT+3'\", found nothing"]
        );
        let failed = RunOutput { errors: vec!["x.edi: why".to_owned()], ..RunOutput::default() };
        assert_eq!(case.differences(&failed), ["1 file failed, 0 expected", "  x.edi: why", "out/x: it was not made"]);
    }

    #[test]
    fn junit_report_escapes_xml() {
        let result = |differences: &[&str]| CaseResult {
            name: "a <case>".to_owned(),
            differences: differences.iter().map(|text| (*text).to_owned()).collect(),
            seconds: 0.5,
        };
        let text = junit(&[result(&[]), result(&["expected \"\u{1}\" & more"])]);
        assert!(text.contains("tests=\"2\" failures=\"1\" time=\"1.000\""), "{text}");
        assert!(text.contains("  <testcase name=\"a &lt;case&gt;\" time=\"0.500\"/>\n"), "{text}");
        assert!(text.contains("<failure>expected &quot;\u{fffd}&quot; &amp; more</failure>"), "{text}");
    }
}
