//! Parses `bots.ini` exactly as Bots does.
//!
//! Bots uses Python's `configparser.RawConfigParser` with its defaults, so the rules here are those of Python 3.11,
//! including its pitfalls: a line with a deeper indent than its key continues the value, comments are on separate
//! lines, keys are lower-cased, every section inherits the keys of `[DEFAULT]`, and white space is what Python, not
//! Rust, considers white space. `tests/it/bots_ini.rs` compares this module with the real parser.
//!
//! It works on text. Files, encodings and the meaning of keys are left to the caller.

mod edit;
#[cfg(test)]
mod tests;

use std::iter;

use indexmap::IndexMap;
use memchr::memchr2;
use thiserror::Error;

pub use edit::{EditError, remove_section, set_value};

/// The section whose keys all other sections inherit. It does not count as a section.
const DEFAULT: &str = "DEFAULT";

/// The contents of a `bots.ini` that Bots would accept.
#[derive(Debug, Clone, Default)]
pub struct BotsIni {
    /// In order of first appearance, with `[DEFAULT]` as one of them.
    sections: IndexMap<String, IniSection>,
}

/// A value and its location, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IniValue<'a> {
    /// The value; the lines of a longer one are joined by `\n`.
    pub value: &'a str,
    /// The line of the key, counted from 1.
    pub line: usize,
}

/// One line that keeps Bots from starting. The caller knows the file's name and
/// prints `{path}:{line}: {message}`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// The error and the remedy; never the text of a value.
    pub message: String,
}

#[derive(Debug, Clone)]
struct IniSection {
    name: String,
    line: usize,
    /// In order of first appearance.
    settings: IndexMap<String, IniSetting>,
}

#[derive(Debug, Clone)]
struct IniSetting {
    key: String,
    value: String,
    line: usize,
    /// The last line that adds text to the value; `line` if there is only one.
    end: usize,
}

impl BotsIni {
    /// Reads the text of a `bots.ini`.
    ///
    /// # Errors
    ///
    /// Every faulty line in order. Python gives up at the first duplicate or
    /// missing header; we read on, so that one correction round is enough.
    pub fn parse(text: &str) -> Result<Self, Vec<ParseError>> {
        let mut reader = IniParser::default();
        for (index, line) in lines(text).enumerate() {
            reader.read_line(index + 1, line);
        }
        reader.finish()
    }

    /// The value of `key`, in any case, from the section or else from `[DEFAULT]`.
    /// A section that does not exist inherits nothing.
    pub fn get(&self, section: &str, key: &str) -> Option<IniValue<'_>> {
        let key = key.to_lowercase();
        self.section(section)?.setting(&key).or_else(|| self.section(DEFAULT)?.setting(&key)).map(IniSetting::entry)
    }

    /// Whether the section exists. `[DEFAULT]` does not count, as in Python.
    pub fn has_section(&self, section: &str) -> bool {
        section != DEFAULT && self.sections.contains_key(section)
    }

    /// The line of the section's header, for `[DEFAULT]` that of its first one.
    pub fn section_line(&self, section: &str) -> Option<usize> {
        Some(self.section(section)?.line)
    }

    /// The names of the sections in the order of the file, without `[DEFAULT]`.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        let names = self.sections.keys().map(String::as_str);
        names.filter(|name| *name != DEFAULT)
    }

    /// The keys a section has or inherits and their values, in Python's order:
    /// those of `[DEFAULT]` first, overridden in place. Nothing for a section
    /// that does not exist.
    pub fn items(&self, section: &str) -> impl Iterator<Item = (&str, &str)> {
        let own = self.section(section);
        let defaults = own.and_then(|_| self.section(DEFAULT));
        let inherited = settings(defaults).map(move |lent| own.and_then(|own| own.setting(&lent.key)).unwrap_or(lent));
        let added = settings(own).filter(move |own| defaults.is_none_or(|lent| lent.setting(&own.key).is_none()));
        inherited.chain(added).map(IniSetting::pair)
    }

    fn section(&self, name: &str) -> Option<&IniSection> {
        self.sections.get(name)
    }
}

impl IniSection {
    fn setting(&self, key: &str) -> Option<&IniSetting> {
        self.settings.get(key)
    }

    /// The last line with content: of the last value, else the header.
    fn end(&self) -> usize {
        self.settings.last().map_or(self.line, |(_, last)| last.end)
    }
}

fn settings(section: Option<&IniSection>) -> impl Iterator<Item = &IniSetting> {
    section.into_iter().flat_map(|section| section.settings.values())
}

impl IniSetting {
    fn pair(&self) -> (&str, &str) {
        (&self.key, &self.value)
    }

    fn entry(&self) -> IniValue<'_> {
        IniValue { value: &self.value, line: self.line }
    }
}

/// Reads line by line. Faults do not change how the next lines are understood.
#[derive(Default)]
struct IniParser {
    ini: BotsIni,
    faults: Vec<ParseError>,
    /// The section being read, by index; none before the first header.
    section: Option<usize>,
    /// Whether the section's last setting may still grow.
    open: bool,
    /// A line indented deeper than this continues the open setting.
    indent: usize,
}

impl IniParser {
    fn read_line(&mut self, number: usize, line: &str) {
        let content = strip(line);
        if is_comment(content) {
            return;
        }
        if content.is_empty() {
            // Part of the value if more of it follows, else stripped in the end.
            if let Some(setting) = self.open_setting() {
                setting.value.push('\n');
            }
            return;
        }
        let indent = indentation(line).chars().count();
        if indent > self.indent
            && let Some(setting) = self.open_setting()
        {
            setting.value.push('\n');
            setting.value.push_str(content);
            setting.end = number;
            return;
        }
        self.indent = indent;
        match header(content) {
            Some(name) => self.read_header(number, name),
            None => self.read_setting(number, content),
        }
    }

    fn open_setting(&mut self) -> Option<&mut IniSetting> {
        let section = self.section.filter(|_| self.open)?;
        self.ini.sections[section].settings.last_mut().map(|(_, setting)| setting)
    }

    fn read_header(&mut self, number: usize, name: &str) {
        self.open = false;
        let known = self.ini.sections.get_index_of(name);
        if let Some(index) = known.filter(|_| name != DEFAULT) {
            let first = self.ini.sections[index].line;
            self.fault(number, duplicate_section(name, first));
        }
        self.section = known.or_else(|| {
            let section = IniSection { name: name.to_owned(), line: number, settings: IndexMap::new() };
            Some(self.ini.sections.insert_full(name.to_owned(), section).0)
        });
    }

    fn read_setting(&mut self, number: usize, content: &str) {
        let Some(section) = self.section else {
            return self.missing_header(number, content);
        };
        let Some((key, value)) = content.split_once(['=', ':']) else {
            return self.fault(number, NO_DELIMITER.to_owned());
        };
        let key = strip(key).to_lowercase();
        // Python lets nothing continue a value without a key.
        self.open = !key.is_empty();
        if key.is_empty() {
            return self.fault(number, NO_KEY.to_owned());
        }
        let section = &mut self.ini.sections[section];
        if let Some(first) = section.setting(&key) {
            let message = duplicate_key(&key, &section.name, first.line);
            return self.fault(number, message);
        }
        let setting = IniSetting { key: key.clone(), value: strip(value).to_owned(), line: number, end: number };
        section.settings.insert(key, setting);
    }

    /// Said once: every line up to the first header would be the same fault.
    fn missing_header(&mut self, number: usize, content: &str) {
        if self.faults.is_empty() {
            let byte_order_mark = content.starts_with('\u{feff}');
            let message = if byte_order_mark { BOM } else { NO_HEADER };
            self.fault(number, message.to_owned());
        }
    }

    fn fault(&mut self, line: usize, message: String) {
        self.faults.push(ParseError { line, message });
    }

    fn finish(mut self) -> Result<BotsIni, Vec<ParseError>> {
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        let sections = self.ini.sections.values_mut();
        for setting in sections.flat_map(|section| section.settings.values_mut()) {
            let stripped = setting.value.trim_end_matches(is_space).len();
            setting.value.truncate(stripped);
        }
        Ok(self.ini)
    }
}

const NO_HEADER: &str = "this line is outside any section: put a [section] header above it";
const BOM: &str = "the file starts with a byte order mark, which hides the first [section] header: \
     save it as UTF-8 without BOM";
const NO_DELIMITER: &str = "this line has no delimiter: write 'key = value', or indent the line to \
     continue the value above it";
const NO_KEY: &str = "this line has no key: write one before the delimiter";

fn duplicate_section(name: &str, first: usize) -> String {
    let name = name.escape_debug();
    format!("section [{name}] is defined twice: merge it with the section in line {first}")
}

fn duplicate_key(key: &str, section: &str, first: usize) -> String {
    let (key, section) = (key.escape_debug(), section.escape_debug());
    format!("'{key}' in [{section}] is set twice: remove this line or line {first}")
}

/// The lines as Python's text files split them: only `\n`, `\r\n` and a lone `\r` end a line. Each line keeps its end.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    iter::from_fn(move || {
        let (line, after) = rest.split_at(line_length(rest));
        rest = after;
        (!line.is_empty()).then_some(line)
    })
}

fn line_length(text: &str) -> usize {
    match memchr2(b'\r', b'\n', text.as_bytes()) {
        Some(end) if text[end..].starts_with("\r\n") => end + 2,
        Some(end) => end + 1,
        None => text.len(),
    }
}

/// The name in a header. It extends to the last bracket; text after that is ignored, and an empty pair of brackets is
/// not a header.
fn header(content: &str) -> Option<&str> {
    let (name, _ignored) = content.strip_prefix('[')?.rsplit_once(']')?;
    (!name.is_empty()).then_some(name)
}

fn is_comment(content: &str) -> bool {
    content.starts_with(['#', ';'])
}

fn indentation(line: &str) -> &str {
    &line[..line.len() - line.trim_start_matches(is_space).len()]
}

fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.isspace`: four separator controls more than in Rust.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

/// `getboolean`: none for a word that would make Bots fail.
pub fn parse_boolean(value: &str) -> Option<bool> {
    match value.to_lowercase().as_str() {
        "1" | "yes" | "true" | "on" => Some(true),
        "0" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

/// `getint`, which is Python's `int`: with a sign, single underscores between digits, digits of any script. `None` also
/// for values that do not fit an `i64`.
pub fn parse_integer(value: &str) -> Option<i64> {
    // Unlike everywhere else, the separator controls are not white space here.
    let value = value.trim();
    let digits = value.strip_prefix(['+', '-']).unwrap_or(value);
    let mut ascii = value[..value.len() - digits.len()].to_owned();
    for group in digits.split('_') {
        if group.is_empty() {
            return None;
        }
        for c in group.chars() {
            ascii.push(ascii_digit(c)?);
        }
    }
    ascii.parse().ok()
}

fn ascii_digit(c: char) -> Option<char> {
    let position = ZEROS.partition_point(|zero| *zero <= c);
    let zero = ZEROS[..position].last()?;
    char::from_digit(u32::from(c) - u32::from(*zero), 10)
}

/// The zero of every run of decimal digits in Unicode 15.1: Python 3.13 knows all of them, 3.11 all but two.
#[rustfmt::skip]
const ZEROS: [char; 68] = [
    '\u{30}', '\u{660}', '\u{6f0}', '\u{7c0}', '\u{966}', '\u{9e6}', '\u{a66}',
    '\u{ae6}', '\u{b66}', '\u{be6}', '\u{c66}', '\u{ce6}', '\u{d66}', '\u{de6}',
    '\u{e50}', '\u{ed0}', '\u{f20}', '\u{1040}', '\u{1090}', '\u{17e0}', '\u{1810}',
    '\u{1946}', '\u{19d0}', '\u{1a80}', '\u{1a90}', '\u{1b50}', '\u{1bb0}', '\u{1c40}',
    '\u{1c50}', '\u{a620}', '\u{a8d0}', '\u{a900}', '\u{a9d0}', '\u{a9f0}', '\u{aa50}',
    '\u{abf0}', '\u{ff10}', '\u{104a0}', '\u{10d30}', '\u{11066}', '\u{110f0}', '\u{11136}',
    '\u{111d0}', '\u{112f0}', '\u{11450}', '\u{114d0}', '\u{11650}', '\u{116c0}', '\u{11730}',
    '\u{118e0}', '\u{11950}', '\u{11c50}', '\u{11d50}', '\u{11da0}', '\u{11f50}', '\u{16a60}', '\u{16ac0}',
    '\u{16b50}', '\u{1d7ce}', '\u{1d7d8}', '\u{1d7e2}', '\u{1d7ec}', '\u{1d7f6}', '\u{1e140}',
    '\u{1e2f0}', '\u{1e4f0}', '\u{1e950}', '\u{1fbf0}',
];
