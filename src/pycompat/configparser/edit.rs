//! Edits the text of a `bots.ini` and leaves the rest unchanged.
//!
//! An edit changes the lines of one setting or one section; comments, order, spacing and line endings stay. Indentation
//! is significant in this format and some values cannot be represented, so each result is parsed again and returned
//! only if it has the requested change and is otherwise equal.

use indexmap::IndexMap;
use thiserror::Error;

use super::{BotsIni, DEFAULT, IniSection, IniSetting, ParseError, indentation, is_comment, is_space, lines, strip};

/// Why a text was not changed.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum EditError {
    /// Bots could not read the text before the change either.
    #[error("cannot edit a file with errors: correct {} first", list(.0))]
    Unreadable(Vec<ParseError>),
    /// The format cannot represent this name or value: it has white space at an end, for example, or a line that would
    /// be parsed as a comment.
    #[error(
        "cannot write '{}' of [{}]: the format cannot express it",
        key.escape_debug(),
        section.escape_debug()
    )]
    Unwritable {
        /// The section asked for.
        section: String,
        /// The key asked for.
        key: String,
    },
    /// The rest of the text would change its meaning.
    #[error("cannot remove [{}]: the lines after it would become part of another section", section.escape_debug())]
    Irremovable {
        /// The section asked for.
        section: String,
    },
}

/// Sets `key` of `section`, which may be `DEFAULT`, and returns the new text.
/// A missing key goes to the end of its section, a missing section to the end
/// of the text. A key that has the value already is left alone.
///
/// # Errors
///
/// If the text has faults, or if the format cannot express key or value.
pub fn set_value(text: &str, section: &str, key: &str, value: &str) -> Result<String, EditError> {
    let before = BotsIni::parse(text).map_err(EditError::Unreadable)?;
    let found = before.section(section);
    let known = found.and_then(|section| section.setting(&key.to_lowercase()));
    let edited = match (found, known) {
        (_, Some(known)) if known.value == value => return Ok(text.to_owned()),
        (_, Some(known)) => replace(text, known, value),
        (Some(section), None) => insert(text, section, key, value),
        (None, _) => append(text, section, key, value),
    };
    let wanted = with_value(&before, section, key, value);
    if parses_to(&edited, &wanted) {
        return Ok(edited);
    }
    Err(EditError::Unwritable { section: section.to_owned(), key: key.to_owned() })
}

/// Removes a section, from its header to its last value, and the following empty lines. Comments around it stay, since
/// they may belong to its neighbours. No change if the section does not exist; `[DEFAULT]` does not count, as in
/// Python.
///
/// # Errors
///
/// If the text has faults, or if the rest would change.
pub fn remove_section(text: &str, section: &str) -> Result<String, EditError> {
    let mut ini = BotsIni::parse(text).map_err(EditError::Unreadable)?;
    let removable = Some(section).filter(|name| *name != DEFAULT);
    let Some(gone) = removable.and_then(|name| ini.sections.shift_remove(name)) else {
        return Ok(text.to_owned());
    };
    let edited = delete_section(text, &gone, str::to_owned);
    if parses_to(&edited, &ini) {
        return Ok(edited);
    }
    // The next header was indented and has become part of the value before.
    let edited = delete_section(text, &gone, |header| header.trim_start_matches(is_space).to_owned());
    if parses_to(&edited, &ini) {
        return Ok(edited);
    }
    Err(EditError::Irremovable { section: section.to_owned() })
}

fn list(faults: &[ParseError]) -> String {
    let faults = faults.iter().map(|fault| format!("line {}", fault.line));
    faults.collect::<Vec<_>>().join(", ")
}

/// Whether a text has these contents, wherever its lines are.
fn parses_to(text: &str, wanted: &BotsIni) -> bool {
    BotsIni::parse(text).is_ok_and(|found| contents(&found) == contents(wanted))
}

fn contents<'a>(ini: &'a BotsIni) -> Vec<(&'a str, Vec<(&'a str, &'a str)>)> {
    let pairs = |it: &'a IniSection| it.settings.values().map(IniSetting::pair).collect();
    let sections = ini.sections.values();
    sections.map(|it| (it.name.as_str(), pairs(it))).collect()
}

fn with_value(before: &BotsIni, section: &str, key: &str, value: &str) -> BotsIni {
    let mut ini = before.clone();
    let key = key.to_lowercase();
    let made = || IniSection { name: section.to_owned(), line: 0, settings: IndexMap::new() };
    let settings = &mut ini.sections.entry(section.to_owned()).or_insert_with(made).settings;
    let made = || IniSetting { key: key.clone(), value: String::new(), line: 0, end: 0 };
    value.clone_into(&mut settings.entry(key.clone()).or_insert_with(made).value);
    ini
}

/// Writes a new value behind the old key. Comments within the old one stay.
fn replace(text: &str, known: &IniSetting, value: &str) -> String {
    let mut edited = String::with_capacity(text.len() + value.len());
    for (number, line) in (1..).zip(lines(text)) {
        if number == known.line {
            let end = line_end(line);
            let written = render_setting(&before_value(line), indentation(line), value, eol(text, line));
            edited.extend([&written, end]);
        } else if number < known.line || number > known.end || is_comment(strip(line)) {
            edited.push_str(line);
        }
    }
    edited
}

/// Writes a new key behind the last one of its section.
fn insert(text: &str, section: &IniSection, key: &str, value: &str) -> String {
    let mut edited = String::with_capacity(text.len() + key.len() + value.len());
    let indent = insertion_indent(text, section);
    for (number, line) in (1..).zip(lines(text)) {
        edited.push_str(line);
        if number == section.end() {
            let eol = eol(text, line);
            if line_end(line).is_empty() {
                edited.push_str(eol);
            }
            let written = render_setting(&format!("{indent}{key} = "), indent, value, eol);
            edited.extend([&written, eol]);
        }
    }
    edited
}

/// As deep as the section's last key. Without one, as deep as the header that
/// follows: were it deeper than the new key, it would be read as a part of it.
fn insertion_indent<'a>(text: &'a str, section: &IniSection) -> &'a str {
    let model = match section.settings.last() {
        Some((_, last)) => lines(text).nth(last.line - 1),
        None => lines(text).skip(section.line).find(|line| has_content(line)),
    };
    model.map_or("", indentation)
}

fn append(text: &str, section: &str, key: &str, value: &str) -> String {
    let mut edited = text.to_owned();
    let last = lines(text).last().unwrap_or_default();
    let eol = eol(text, last);
    if line_end(last).is_empty() && !last.is_empty() {
        edited.push_str(eol);
    }
    if !strip(last).is_empty() {
        edited.push_str(eol);
    }
    let written = render_setting(&format!("{key} = "), "", value, eol);
    edited.extend(["[", section, "]", eol, &written, eol]);
    edited
}

fn delete_section(text: &str, gone: &IniSection, rewrite_next: impl Fn(&str) -> String) -> String {
    let mut unchanged = lines(text).take(gone.line - 1).collect::<String>();
    let mut rest = lines(text).skip(gone.end()).skip_while(|line| strip(line).is_empty());
    for line in rest.by_ref() {
        if has_content(line) {
            unchanged.push_str(&rewrite_next(line));
            break;
        }
        unchanged.push_str(line);
    }
    unchanged.extend(rest);
    unchanged
}

/// A setting without its last line end. Further lines of the value are indented
/// deeper than the key.
fn render_setting(before_value: &str, indent: &str, value: &str, eol: &str) -> String {
    let mut parts = value.split('\n');
    let first = parts.next().unwrap_or_default();
    let mut written = format!("{before_value}{first}");
    if first.is_empty() {
        written.truncate(before_value.trim_end_matches(is_space).len());
    }
    for part in parts {
        written.push_str(eol);
        if !part.is_empty() {
            written.extend([indent, "\t", part]);
        }
    }
    written
}

/// The key's line up to its value, with the author's spacing. Behind an empty
/// value there may be none, then it is as before the delimiter.
fn before_value(line: &str) -> String {
    let delimiter = line.find(['=', ':']).map_or(line.len(), |at| at + 1);
    let (head, tail) = line.split_at(delimiter);
    if !strip(tail).is_empty() {
        return format!("{head}{}", indentation(tail));
    }
    let spaced = head.trim_end_matches(['=', ':']).ends_with(is_space);
    format!("{head}{}", if spaced { " " } else { "" })
}

fn has_content(line: &str) -> bool {
    let content = strip(line);
    !content.is_empty() && !is_comment(content)
}

fn line_end(line: &str) -> &str {
    &line[line.trim_end_matches(['\r', '\n']).len()..]
}

/// The line end to write next to `line`: its own, else the text's first.
fn eol<'a>(text: &'a str, line: &'a str) -> &'a str {
    let first = lines(text).next().unwrap_or_default();
    [line_end(line), line_end(first)].into_iter().find(|end| !end.is_empty()).unwrap_or("\n")
}
