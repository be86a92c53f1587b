//! `bots.ini`: any text is parsed, or rejected with lines; an edit changes only the requested setting.
//!
//! The input is the text, followed by section, key and value to set, each after a byte 0xff.

use bots_ctl::pycompat::configparser::{
    BotsIni, EditError, ParseError, parse_boolean, parse_integer, remove_section, set_value,
};

const DEFAULT: &str = "DEFAULT";

/// Reads, sets and removes.
pub fn check(data: &[u8]) {
    let [text, section, key, value] = super::parts::<4>(data);
    let ini = match BotsIni::parse(&text) {
        Ok(ini) => ini,
        Err(faults) => return check_faults(&text, &faults),
    };
    check_reading(&ini);
    check_set(&text, &ini, &section, &key, &value);
    for name in ini.sections().take(2).chain([&*section]) {
        check_removal(&text, &ini, name);
    }
}

fn check_faults(text: &str, faults: &[ParseError]) {
    assert!(!faults.is_empty() && faults.is_sorted_by_key(|fault| fault.line));
    let lines = text.split(['\r', '\n']).count();
    for fault in faults {
        assert!((1..=lines).contains(&fault.line), "{fault:?}");
        assert!(!super::has_control(&fault.message), "{fault:?}");
    }
    let refused = |edit| matches!(edit, Err(EditError::Unreadable(same)) if same == faults);
    assert!(refused(set_value(text, "a", "b", "c")) && refused(remove_section(text, "a")));
}

fn check_reading(ini: &BotsIni) {
    for section in ini.sections() {
        assert!(ini.has_section(section) && ini.section_line(section).is_some());
        for (key, value) in ini.items(section) {
            assert_eq!(ini.get(section, key).map(|entry| entry.value), Some(value), "{key:?}");
            let _ = (parse_boolean(value), parse_integer(value));
        }
    }
}

fn check_set(text: &str, before: &BotsIni, section: &str, key: &str, value: &str) {
    let edited = match set_value(text, section, key, value) {
        Ok(edited) => edited,
        Err(EditError::Unwritable { .. }) => {
            return assert!(![section, key, value].iter().all(|part| is_plain(part)), "not writable");
        }
        Err(error) => panic!("{error}"),
    };
    let after = BotsIni::parse(&edited).expect("what was edited can be read");
    let own = |ini: &BotsIni, section: &str| ini.get(section, key).map(|entry| entry.value.to_owned());
    assert_eq!(own(&after, section).as_deref(), Some(value));
    let is_new = section != DEFAULT && !before.has_section(section);
    let sections = before.sections().chain(is_new.then_some(section));
    assert!(sections.eq(after.sections()));
    for other in before.sections().chain([DEFAULT]) {
        assert_eq!(others(before, other, key), others(&after, other, key), "{other:?}");
        let (old, new) = (own(before, other), own(&after, other));
        let may_follow = other == section || (section == DEFAULT && new.as_deref() == Some(value));
        assert!(old == new || may_follow, "{other:?}: {old:?} became {new:?}");
    }
    assert_eq!(comments(text), comments(&edited));
    assert_eq!(set_value(&edited, section, key, value).as_ref(), Ok(&edited), "nothing is left to do");
}

fn check_removal(text: &str, before: &BotsIni, section: &str) {
    let edited = remove_section(text, section).expect("each section can be removed");
    let after = BotsIni::parse(&edited).expect("what was edited can be read");
    assert!(!after.has_section(section));
    assert!(before.sections().filter(|name| *name != section).eq(after.sections()));
    for other in after.sections().chain([DEFAULT]) {
        assert!(before.items(other).eq(after.items(other)), "{other:?}");
    }
}

/// All but one.
fn others<'a>(ini: &'a BotsIni, section: &str, key: &str) -> Vec<(&'a str, &'a str)> {
    let key = key.to_lowercase();
    ini.items(section).filter(|(name, _)| *name != key).collect()
}

fn comments(text: &str) -> Vec<&str> {
    text.split(['\r', '\n']).filter(|line| line.trim_start().starts_with(['#', ';'])).collect()
}

/// Certainly writable.
fn is_plain(part: &str) -> bool {
    !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric())
}
