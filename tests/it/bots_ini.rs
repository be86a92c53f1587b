//! `config::bots_ini` against the parser it imitates: Python's own.
//!
//! Every test asks one Python process about all of its cases. The oracle opens
//! each text as Bots opens its file, so line ends and white space are Python's
//! too. Random cases come from a seed that a failure prints; `random_text(seed)`
//! brings the text back. `BOTS_CTL_TEST_ROUNDS=20 tests/run.sh bots_ini::` compares twenty times as many.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, iter};

use crate::support::bots::package;
use crate::support::fuzzing::corpus;
use crate::support::sandbox::rounds;
use bots_ctl::pycompat::configparser::{BotsIni, EditError, parse_boolean, parse_integer, remove_section, set_value};
use serde_json::{Value, json};

/// Answers a JSON list of questions `[kind, argument, ...]` with a JSON list.
const ORACLE: &str = r#"
import configparser, io, json, sys, unicodedata

class Parser(configparser.RawConfigParser):
    def __init__(self):
        super().__init__()
        self.faults = []

    def _handle_error(self, exc, fpname, lineno, line):
        self.faults.append(lineno)
        return super()._handle_error(exc, fpname, lineno, line)

def read(parser, text):
    parser.read_file(io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))

def load(text):
    parser = Parser()
    read(parser, text)
    return parser

def contents(parser):
    sections = parser.sections()
    return {
        "sections": sections,
        "items": [parser.items(section) for section in sections],
        "defaults": parser.items("DEFAULT"),
    }

def parse(text):
    parser = Parser()
    try:
        read(parser, text)
    except configparser.Error as error:
        fatal = getattr(error, "lineno", None)
        lines = parser.faults + ([fatal] if fatal else [])
        name = type(error).__name__
        # From 3.13 on Python gathers its faults where this cannot see them; that there is one still counts.
        lines = sorted(set(lines)) if sys.version_info < (3, 13) else None
        return {"error": name, "faults": lines, "fatal": fatal}
    return contents(parser)

def set_value(text, section, key, value):
    parser = load(text)
    if section != "DEFAULT" and not parser.has_section(section):
        parser.add_section(section)
    parser.set(section, key, value)
    return contents(parser)

def remove_section(text, section):
    parser = load(text)
    parser.remove_section(section)
    return contents(parser)

values = load("[a]")

def convert(method, text):
    values.set("a", "key", text)
    try:
        return getattr(values, method)("a", "key")
    except ValueError:
        return None

def integer(text):
    number = convert("getint", text)
    fits = number is not None and -2**63 <= number < 2**63
    return number if fits else None

def digits():
    found = [(code, integer(chr(code))) for code in range(sys.maxunicode + 1)]
    return [pair for pair in found if pair[1] is not None]

def assigned(codes):
    return [code for code in codes if unicodedata.category(chr(code)) != "Cn"]

KINDS = {
    "assigned": assigned,
    "parse": parse,
    "set_value": set_value,
    "remove_section": remove_section,
    "boolean": lambda text: convert("getboolean", text),
    "integer": integer,
    "digits": digits,
}
with open(sys.argv[1], encoding="utf-8") as questions:
    json.dump([KINDS[kind](*args) for kind, *args in json.load(questions)], sys.stdout)
"#;

/// More than the seeds of one round.
const ROUND: usize = 100_000;

#[apply(test)]
fn fixtures_read_as_in_python() {
    let cases = read_files(&fixtures());
    assert!(cases.len() >= 25, "only {} fixtures found", cases.len());
    let valid = assert_texts_agree(&cases);
    assert!(valid >= 10 && cases.len() - valid >= 10, "{valid} valid");
}

#[apply(test)]
fn files_shipped_by_bots_read_as_in_python() {
    let shipped = ["config/bots.ini", "install/bots.ini"].map(|name| package().join(name));
    let cases = read_files(&shipped.into_iter().filter(|path| path.exists()).collect::<Vec<_>>());
    assert!(!cases.is_empty());
    assert_eq!(assert_texts_agree(&cases), cases.len());
}

#[apply(test)]
fn random_texts_read_as_in_python() {
    for round in (0..).step_by(ROUND).take(rounds(1)) {
        let cases: Vec<_> = (1..=8000).map(|seed| seeded_text(round + seed)).collect();
        let valid = assert_texts_agree(&cases);
        assert!(valid > 1500 && cases.len() - valid > 1500, "{valid} valid");
    }
}

/// What a fuzzer has found, too: `BOTS_CTL_TEST_CORPUS=target/fuzz/corpus tests/run.sh bots_ini::`
#[apply(test)]
fn fuzzer_corpus_reads_as_in_python() {
    let text = |bytes: &[u8]| bytes.split(|byte| *byte == 0xff).next().map(String::from_utf8_lossy).map(Into::into);
    let inputs = corpus("bots_ini").into_iter();
    let cases: Vec<Case> = inputs.filter_map(|(name, input)| Some((name, text(&input)?))).collect();
    assert_texts_agree(&cases);
}

#[apply(test)]
fn values_convert_to_booleans_as_in_python() {
    assert_values_agree("boolean", &random_values(1, BOOLEAN_PARTS), |text| json!(parse_boolean(text)));
}

#[apply(test)]
fn values_convert_to_integers_as_in_python() {
    assert_values_agree("integer", &random_values(2, INTEGER_PARTS), |text| json!(parse_integer(text)));
}

/// One entry of our table off, and a whole script would read differently.
#[apply(test)]
fn every_character_has_same_digit_value_as_in_python() {
    let digit = |c: char| Some((u32::from(c), parse_integer(&c.to_string())?));
    let ours: Vec<(u32, i64)> = ('\0'..=char::MAX).filter_map(digit).collect();
    // An older Python does not know the youngest digits at all.
    let codes: Vec<u32> = ours.iter().map(|(code, _)| *code).collect();
    let answers = ask_python(&[json!(["digits"]), json!(["assigned", codes])]);
    let known: Vec<u64> = answers[1].as_array().expect("a list").iter().filter_map(Value::as_u64).collect();
    let ours: Vec<_> = ours.into_iter().filter(|(code, _)| known.contains(&u64::from(*code))).collect();
    assert_eq!(answers[0], json!(ours));
}

/// Python reads the new value from the edited text and everything else as from
/// the old one, in the same order. Comments and line ends survive.
#[apply(test)]
fn set_value_changes_one_value_for_python() {
    for round in (0..).step_by(ROUND).take(rounds(1)) {
        set_values(&editable_texts(round)).assert_read_as_wanted(2000);
    }
}

fn set_values(texts: &[(u64, String, String)]) -> Edits {
    let mut edits = Edits::default();
    for (seed, name, text) in texts {
        let mut random = Random::new(seed ^ 0x5e7);
        for _ in 0..4 {
            let target = random_target(&mut random, text);
            let [section, key, value] = target.each_ref().map(String::as_str);
            let edit = format!("set {target:?} in {name}");
            match set_value(text, section, key, value) {
                Ok(edited) => {
                    assert_untouched(text, &edited, &edit);
                    edits.add(edit, &edited, json!(["set_value", text, section, key, value]));
                }
                Err(EditError::Unwritable { .. }) => {
                    let plain = [section, key, value].iter().all(|part| is_plain(part));
                    assert!(!plain, "could not {edit}:\n{text:?}");
                }
                Err(error) => panic!("{edit}: {error}\n{text:?}"),
            }
        }
    }
    edits
}

#[apply(test)]
fn remove_section_removes_one_section_for_python() {
    let mut edits = Edits::default();
    let texts = (0..).step_by(ROUND).take(rounds(1)).flat_map(editable_texts);
    for (seed, name, text) in texts {
        let mut random = Random::new(seed ^ 0xde1);
        let section = random_section(&mut random, &text);
        let edit = format!("remove {section:?} from {name}");
        let edited = remove_section(&text, &section).expect("valid texts lose any section");
        assert_untouched_comments_of_others(&text, &edited, &edit);
        edits.add(edit, &edited, json!(["remove_section", text, section]));
    }
    edits.assert_read_as_wanted(1000);
}

// The oracle.

fn ask_python(questions: &[Value]) -> Vec<Value> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("questions.json");
    let text = serde_json::to_vec(questions).expect("questions are JSON");
    fs::write(&file, text).expect("the questions can be written");
    let output = Command::new("python3")
        .args(["-I", "-c", ORACLE])
        .arg(&file)
        .output()
        .expect("these tests need python3 on the PATH");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the oracle failed:\n{complaint}");
    let answers: Vec<Value> = serde_json::from_slice(&output.stdout).expect("answers are JSON");
    assert_eq!(answers.len(), questions.len());
    answers
}

/// A name to print, and a text.
type Case = (String, String);

/// Compares what both parsers make of the texts; returns how many are valid.
fn assert_texts_agree(cases: &[Case]) -> usize {
    let questions: Vec<_> = cases.iter().map(|(_, text)| json!(["parse", text])).collect();
    let mut valid = 0;
    for ((name, text), python) in cases.iter().zip(ask_python(&questions)) {
        let ours = described(text, python["fatal"].as_u64());
        let (python, error) = without_error_class(python);
        let lines_unknown = python["faults"].is_null() && !error.is_null() && ours.get("faults").is_some();
        let ours = if lines_unknown { json!({"faults": null}) } else { ours };
        assert_eq!(ours, python, "{name} ({error}):\n{text}\nas a literal:\n{text:?}");
        valid += usize::from(error.is_null());
    }
    valid
}

fn without_error_class(mut python: Value) -> (Value, Value) {
    let answer = python.as_object_mut().expect("an object");
    answer.remove("fatal");
    let error = answer.remove("error").unwrap_or_default();
    (python, error)
}

/// Our reading in the oracle's terms. Where Python gives up we read on: lines
/// behind its last one are not compared.
fn described(text: &str, fatal: Option<u64>) -> Value {
    match BotsIni::parse(text) {
        Ok(ini) => contents(&ini),
        Err(faults) => {
            let lines = faults.iter().map(|fault| fault.line as u64);
            let seen = lines.take_while(|line| fatal.is_none_or(|last| *line <= last));
            json!({ "faults": seen.collect::<Vec<_>>() })
        }
    }
}

fn contents(ini: &BotsIni) -> Value {
    let items = |section| ini.items(section).collect::<Vec<_>>();
    for section in ini.sections() {
        for (key, value) in items(section) {
            let found = ini.get(section, key).map(|entry| entry.value);
            assert_eq!(found, Some(value), "get and items differ for {key:?}");
        }
    }
    json!({
        "sections": ini.sections().collect::<Vec<_>>(),
        "items": ini.sections().map(items).collect::<Vec<_>>(),
        "defaults": items("DEFAULT"),
    })
}

fn assert_values_agree(kind: &str, values: &[String], ours: impl Fn(&str) -> Value) {
    let questions: Vec<_> = values.iter().map(|value| json!([kind, value])).collect();
    let mut accepted = 0;
    for (value, python) in values.iter().zip(ask_python(&questions)) {
        assert_eq!(ours(value), python, "{kind} of {value:?}");
        accepted += usize::from(!python.is_null());
    }
    assert!(accepted > 100, "only {accepted} of these are a {kind}");
}

/// Edited texts, each with the question whose answer they must read as.
#[derive(Default)]
struct Edits {
    edited: Vec<Case>,
    questions: Vec<Value>,
}

impl Edits {
    fn add(&mut self, name: String, edited: &str, question: Value) {
        self.edited.push((name, edited.to_owned()));
        self.questions.push(question);
    }

    fn assert_read_as_wanted(mut self, at_least: usize) {
        let count = self.edited.len();
        assert!(count >= at_least, "only {count} edits were tried");
        let reread = self.edited.iter().map(|(_, text)| json!(["parse", text]));
        self.questions.extend(reread.collect::<Vec<_>>());
        let answers = ask_python(&self.questions);
        let (wanted, found) = answers.split_at(count);
        for (index, (name, edited)) in self.edited.iter().enumerate() {
            let question = &self.questions[index];
            let failure = format!("{name}\n{question}\nbecame\n{edited}\n{edited:?}");
            assert_eq!(found[index], wanted[index], "{failure}");
        }
    }
}

/// Comments are all there in order, and no kind of line end is new.
fn assert_untouched(text: &str, edited: &str, edit: &str) {
    let failure = || format!("{edit}:\n{text:?}\nbecame\n{edited:?}");
    assert_eq!(comments(text), comments(edited), "{}", failure());
    let ends = |text: &str| ["\r\n", "\r", "\n"].map(|end| only_ends_with(text, end));
    for (before, after) in ends(text).into_iter().zip(ends(edited)) {
        assert!(!before || after, "{}", failure());
    }
}

/// Whether the text has line ends, all of this kind.
fn only_ends_with(text: &str, end: &str) -> bool {
    let rest = text.replace(end, "");
    rest.len() < text.len() && !rest.contains(['\r', '\n'])
}

/// Comments disappear only from within the removed range: as one run.
fn assert_untouched_comments_of_others(text: &str, edited: &str, edit: &str) {
    let (before, after) = (comments(text), comments(edited));
    let ahead = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
    let behind = &after[ahead..];
    assert!(before.ends_with(behind), "{edit}:\n{text:?}\nbecame\n{edited:?}");
}

fn comments(text: &str) -> Vec<&str> {
    let lines = text.split(['\r', '\n']);
    lines.filter(|line| line.trim_start().starts_with(['#', ';'])).collect()
}

// Texts from files.

fn fixtures() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bots_ini");
    let entries = fs::read_dir(directory).expect("the fixtures are there");
    let paths = entries.map(|entry| entry.expect("a directory entry").path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|it| it == "ini")).collect();
    paths.sort();
    paths
}

fn read_files(paths: &[PathBuf]) -> Vec<Case> {
    let name = |path: &PathBuf| path.display().to_string();
    let read = |path| fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", name(path)));
    paths.iter().map(|path| (name(path), read(path))).collect()
}

/// Valid texts to edit: seed, name, text.
fn editable_texts(round: u64) -> Vec<(u64, String, String)> {
    let random = (10_001..=16_000).map(|seed| seeded_text(round + seed));
    let cases = read_files(&fixtures()).into_iter().chain(random);
    let valid = cases.filter(|(_, text)| BotsIni::parse(text).is_ok());
    let numbered = (round + 1..).zip(valid);
    numbered.map(|(seed, (name, text))| (seed, name, text)).collect()
}

// Random texts.

/// xorshift64*, enough to stir fragments.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.below(1);
        random
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).expect("31 bits fit") % limit
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

fn seeded_text(seed: u64) -> Case {
    (format!("seed {seed}"), random_text(seed))
}

/// Half of the texts are wild; the others repeat little, so that most are valid.
fn random_text(seed: u64) -> String {
    let mut random = Random::new(seed);
    let tame = random.one_in(2);
    let own_end = random.pick(&["\n", "\n", "\r\n", "\r"]);
    let mut text = String::new();
    if tame || !random.one_in(8) {
        text.extend([random.pick(INDENTS), random.pick(HEADERS), own_end]);
    }
    for number in 0..random.below(14) {
        text.push_str(random.pick(INDENTS));
        match random.below(if tame { 8 } else { 13 }) {
            0 => text.extend(["[s", &number.to_string(), "]"]),
            1..=3 => text.extend([random.pick(KEYS), &number.to_string(), random.pick(VALUES)]),
            4 => text.push_str("[DEFAULT]"),
            5..=7 => text.push_str(random.pick(FILLERS)),
            8 => text.extend([random.pick(KEYS), random.pick(VALUES)]),
            9 => text.push_str(random.pick(HEADERS)),
            _ => text.push_str(random.pick(SHARDS)),
        }
        text.push_str(random.pick(&["", "", "", " ", "\t", "\u{a0}", "\u{1f}"]));
        let stray = !tame && random.one_in(10);
        let end = if stray { random.pick(&["\r", "\n", "\r\n", ""]) } else { own_end };
        text.push_str(end);
    }
    text
}

#[rustfmt::skip]
const INDENTS: &[&str] = &[
    "", "", "", "", "", " ", "  ", "\t", "    ", "\u{a0}", "\u{2028} ", "\u{3000}", "\x0c", "\x1c ",
    "\u{85}",
];
#[rustfmt::skip]
const HEADERS: &[&str] = &[
    "[a]", "[b]", "[B]", "[ a ]", "[a]]", "[[a]", "[a] tail", "[a=b]", "[DEFAULT]",
    "[DEFAULT] ; tail", "[Ä]", "[\u{2028}]", "[#]", "[default]",
];
#[rustfmt::skip]
const KEYS: &[&str] = &[
    "k", "K", "key", "two words", "Ä", "ä", "ΟΔΟΣ", "İ", "ẞ", "a\u{a0}b", "k#", "k]", "[k",
    "\u{feff}k", "k\0", "\u{200b}", "ǅ", "k\u{2029}",
];
#[rustfmt::skip]
const VALUES: &[&str] = &[
    "=v", " = v", ": v", "\t:\tv", " =", "=", ":", " = = x", "=a:b=c", " = [x]", "=]",
    " = # no comment", " = ; neither", " = v ; still", " =\u{a0}v\u{a0}", "\u{2003}=\u{2003}v w",
    " = \"quoted\"", " = %(x)s", " = \u{1f}v\u{1c}w", "\x0b=\x0bv", " = ä\u{301}\u{feff}", " = \0",
];
#[rustfmt::skip]
const FILLERS: &[&str] = &[
    "", "", "", "# comment", "; comment", "#", ";k = v", "#[a]", "\u{a0}# behind a space",
    "\u{2028}", "\x1e",
];
#[rustfmt::skip]
const SHARDS: &[&str] = &[
    "lonely", "[", "]", "[]", "[a", "a]", "=", ":", "= v", ": v", " = ", "[]=v", "[]]", "[x]=y",
    "\u{feff}", "\u{feff}[a]", "\u{200b}", "\0", "[]k", "=[a]", "🦀", "continued text",
];

// Random edits.

/// Section, key and value, often ones the text has.
fn random_target(random: &mut Random, text: &str) -> [String; 3] {
    let section = random_section(random, text);
    let ini = BotsIni::parse(text).expect("a valid text");
    let keys: Vec<_> = ini.items(&section).map(|(key, _)| key).collect();
    let key = match random.below(6) {
        0 => random.pick(&["", "=", "a:b", "[k", "#k", " k", "k\n", "k\r", "Ä k", "new"]),
        1 | 2 => random.pick(&["new", "New", "NEW KEY", "other-1"]),
        _ if keys.is_empty() => "new",
        _ => random.pick(&keys),
    };
    let value = match random.below(3) {
        0 => random.pick(&["plain", "/srv/edi", "two words", "", "a=b:c", "sqlite:///x#y", "[x"]),
        1 => random.pick(&["one\ntwo", "one\n\ntwo\nthree", "\none", "one\n[two]", "one\nk = v", "ä\nö"]),
        _ => random.pick(&[
            " x",
            "x ",
            "x\n",
            "x\r\ny",
            "x\ry",
            "x\n# y",
            "# x",
            "\n",
            "x]",
            "x\n y",
            "\u{a0}",
            "x\u{2028}y",
        ]),
    };
    [section, key.to_owned(), value.to_owned()]
}

fn random_section(random: &mut Random, text: &str) -> String {
    let ini = BotsIni::parse(text).expect("a valid text");
    let mut sections: Vec<_> = ini.sections().collect();
    if sections.is_empty() || random.one_in(4) {
        sections = vec!["DEFAULT", "new", "new section", "[n]", "n\nm", "", " "];
    }
    random.pick(&sections).to_owned()
}

/// Certainly writable, in any section and under any key that is plain too.
fn is_plain(part: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-".contains(c);
    part.starts_with(plain) && part.chars().all(plain)
}

// Random values.

fn random_values(seed: u64, parts: &[&str]) -> Vec<String> {
    let mut random = Random::new(seed);
    let mut value = |_| {
        let count = random.below(5);
        iter::repeat_with(|| random.pick(parts)).take(count).collect::<String>()
    };
    let single = parts.iter().map(|part| (*part).to_owned());
    single.chain((0..3000).map(&mut value)).collect()
}

#[rustfmt::skip]
const BOOLEAN_PARTS: &[&str] = &[
    "1", "0", "yes", "no", "true", "false", "on", "off", "YES", "No", "tRuE", "FALSE", "On", "oFF",
    "", "", "", "", " ", "y", "n", "t", "2", "\u{212a}", "ſ", "ı", "İ", "ＯＮ", "o", "N", "e", "S",
];
#[rustfmt::skip]
const INTEGER_PARTS: &[&str] = &[
    "0", "1", "9", "42", "007", "_", "+", "-", " ", "\t", "\u{a0}", "\u{2028}", "\x1c", "\u{85}",
    "٣", "५", "９", "𝟘", "²", "½", "Ⅷ", "一", "x", "0x1", "1.0", "1e3", "9223372036854775807",
    "9223372036854775808", "\0", "−", "\n", "",
];
