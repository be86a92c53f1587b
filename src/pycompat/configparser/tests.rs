//! The rules that a reader should know without Python at hand. `tests/it/bots_ini.rs` has the full comparison with
//! Python's parser.

use super::*;

fn read(text: &str) -> BotsIni {
    BotsIni::parse(text).expect("the text is valid")
}

fn faults(text: &str) -> Vec<(usize, String)> {
    let faults = BotsIni::parse(text).expect_err("the text is faulty");
    let pair = |fault: ParseError| (fault.line, fault.to_string());
    faults.into_iter().map(pair).collect()
}

fn value<'a>(ini: &'a BotsIni, section: &str, key: &str) -> Option<&'a str> {
    ini.get(section, key).map(|entry| entry.value)
}

/// Compared with each other, these keys would take minutes.
#[test]
fn section_may_have_200000_keys() {
    let text: String = (0..200_000).map(|number| format!("key{number} = {number}\n")).collect();
    let ini = BotsIni::parse(&format!("[s]\n{text}")).expect("it is plain");
    assert_eq!(ini.get("s", "key199999"), Some(IniValue { value: "199999", line: 200_001 }));
    assert_eq!(ini.items("s").count(), 200_000);
}

#[test]
fn keys_ignore_case_and_sections_do_not() {
    let ini = read("[Paths]\nRoot = /srv\n");
    assert_eq!(value(&ini, "Paths", "ROOT"), Some("/srv"));
    assert_eq!(value(&ini, "paths", "root"), None);
    assert!(ini.has_section("Paths") && !ini.has_section("paths"));
}

#[test]
fn entries_and_sections_have_line_numbers() {
    let ini = read("# head\n\n[a]\r\none = 1\r\n  more\r[b]\rtwo = 2");
    assert_eq!(ini.section_line("a"), Some(3));
    assert_eq!(ini.section_line("b"), Some(6));
    assert_eq!(ini.section_line("c"), None);
    assert_eq!(ini.get("b", "two"), Some(IniValue { value: "2", line: 7 }));
}

#[test]
fn first_delimiter_ends_the_key() {
    let ini = read("[a]\nurl = http://host:80/?x=1\npair: x=y\n");
    assert_eq!(value(&ini, "a", "url"), Some("http://host:80/?x=1"));
    assert_eq!(value(&ini, "a", "pair"), Some("x=y"));
}

#[test]
fn indented_lines_continue_a_value() {
    let ini = read("[a]\nk = one\n\n  two = 2\n# comment\n  three # kept\n\nl = 1\n");
    assert_eq!(value(&ini, "a", "k"), Some("one\n\ntwo = 2\nthree # kept"));
    assert_eq!(value(&ini, "a", "two"), None);
    assert_eq!(value(&ini, "a", "l"), Some("1"));
}

#[test]
fn default_section_provides_keys_and_is_not_listed() {
    let ini = read("[DEFAULT]\nroot = /\nlevel = 1\n[a]\nown = x\nlevel = 2\n");
    let items: Vec<_> = ini.items("a").collect();
    assert_eq!(items, [("root", "/"), ("level", "2"), ("own", "x")]);
    assert_eq!(ini.get("a", "root").map(|entry| entry.line), Some(2));
    assert_eq!(ini.sections().collect::<Vec<_>>(), ["a"]);
    assert!(!ini.has_section("DEFAULT"));
    assert_eq!(value(&ini, "DEFAULT", "level"), Some("1"));
    assert_eq!(value(&ini, "missing", "root"), None);
    assert_eq!(ini.items("missing").count(), 0);
}

#[test]
fn all_parse_errors_are_reported() {
    let lines = faults("[a]\nlonely\n= 1\nk = 1\nK = 2\n[a]\n").into_iter();
    assert_eq!(lines.map(|(line, _)| line).collect::<Vec<_>>(), [2, 3, 5, 6]);
}

#[test]
fn duplicate_error_names_first_line() {
    let expected = "'k' in [a] is set twice: remove this line or line 2";
    assert_eq!(faults("[a]\nk = 1\n\nK = 2\n"), [(4, expected.into())]);
    let expected = "section [a] is defined twice: merge it with the section in line 1";
    assert_eq!(faults("[a]\n[b]\n[a]\n"), [(3, expected.into())]);
}

#[test]
fn missing_header_is_reported_once() {
    assert_eq!(faults("# x\nk = 1\nl = 2\n"), [(2, NO_HEADER.into())]);
    assert_eq!(faults("\u{feff}[a]\nk = 1\n"), [(1, BOM.into())]);
}

#[test]
fn errors_show_no_values_or_control_characters() {
    for (_, message) in faults("[\x1b]\nsecret\n=secret\nk\x07=secret\nk\x07=secret\n[\x1b]\n") {
        assert!(!message.contains("secret"), "{message}");
        assert!(!message.contains(char::is_control), "{message}");
    }
}

#[test]
fn booleans_match_words_of_python() {
    for word in ["1", "yes", "True", "ON"] {
        assert_eq!(parse_boolean(word), Some(true), "{word}");
    }
    for word in ["0", "no", "False", "OFF"] {
        assert_eq!(parse_boolean(word), Some(false), "{word}");
    }
    for word in ["", "y", " yes", "2", "enabled"] {
        assert_eq!(parse_boolean(word), None, "{word}");
    }
}

#[test]
fn integers_match_those_of_python() {
    for (text, number) in [("8080", 8080), (" -1\n", -1), ("+1_000", 1000), ("٠٤٢", 42)] {
        assert_eq!(parse_integer(text), Some(number), "{text}");
    }
    assert_eq!(parse_integer("-9223372036854775808"), Some(i64::MIN));
    for text in ["", "-", "1__0", "_1", "1_", "0x10", "1.0", "- 1", "9223372036854775808"] {
        assert_eq!(parse_integer(text), None, "{text}");
    }
}

fn set(text: &str, section: &str, key: &str, value: &str) -> String {
    set_value(text, section, key, value).expect("the value can be written")
}

#[test]
fn set_value_replaces_in_place() {
    let text = "# top\n[a]\nOne :  1\ntwo = 2\n";
    assert_eq!(set(text, "a", "one", "x"), "# top\n[a]\nOne :  x\ntwo = 2\n");
    assert_eq!(set(text, "a", "two", ""), "# top\n[a]\nOne :  1\ntwo =\n");
    assert_eq!(set("[a]\nk =\nl=", "a", "k", "x"), "[a]\nk = x\nl=");
    assert_eq!(set("[a]\nk =\nl=", "a", "l", "x"), "[a]\nk =\nl=x");
}

#[test]
fn set_value_replaces_continuation_lines_but_keeps_comments() {
    let text = "[a]\r\nk = 1\r\n# why\r\n  2\r\n\r\n  3\r\n\r\nl = 4\r\n";
    let expected = "[a]\r\nk = x\r\n# why\r\n\r\nl = 4\r\n";
    assert_eq!(set(text, "a", "k", "x"), expected);
}

#[test]
fn set_value_indents_further_lines() {
    assert_eq!(set("[a]\n  k = 1", "a", "k", "x\n\ny"), "[a]\n  k = x\n\n  \ty");
}

#[test]
fn set_value_keeps_an_equal_value_as_it_is_written() {
    let text = "[a]\nk = 1\n# why\n      2\n";
    assert_eq!(set(text, "a", "K", "1\n2"), text);
}

#[test]
fn set_value_adds_a_missing_key_after_the_last() {
    let text = "[a]\nk = 1\n  2\n\n# about b\n[b]\n";
    assert_eq!(set(text, "a", "New", "x"), "[a]\nk = 1\n  2\nNew = x\n\n# about b\n[b]\n");
    assert_eq!(set(text, "b", "new", "x"), format!("{text}new = x\n"));
    assert_eq!(set("[a]\r\nk = 1", "a", "l", ""), "[a]\r\nk = 1\r\nl =\r\n");
}

#[test]
fn set_value_overrides_default_section() {
    let text = "[DEFAULT]\nk = 1\n[a]\n";
    assert_eq!(set(text, "a", "k", "1"), "[DEFAULT]\nk = 1\n[a]\nk = 1\n");
    assert_eq!(set(text, "DEFAULT", "k", "2"), "[DEFAULT]\nk = 2\n[a]\n");
}

#[test]
fn set_value_does_not_swallow_an_indented_header() {
    assert_eq!(set("[a]\n  [b]\n", "a", "k", "1"), "[a]\n  k = 1\n  [b]\n");
}

#[test]
fn set_value_adds_a_missing_section_at_the_end() {
    assert_eq!(set("", "a", "k", "1"), "[a]\nk = 1\n");
    assert_eq!(set("[a]", "b", "k", "1"), "[a]\n\n[b]\nk = 1\n");
    assert_eq!(set("[a]\r\n", "b", "k", "1"), "[a]\r\n\r\n[b]\r\nk = 1\r\n");
    assert_eq!(set("[a]\n\n", "b", "k", "1"), "[a]\n\n[b]\nk = 1\n");
}

#[test]
fn set_value_rejects_unwritable_values() {
    for (key, value) in [("k", " x"), ("k", "x\n# y"), ("k", "x\r"), ("a=b", "x"), ("", "x")] {
        let refused = set_value("[a]\nk = 1\n", "a", key, value);
        assert!(matches!(refused, Err(EditError::Unwritable { .. })), "{key:?} {value:?}");
    }
    let error = set_value("[a]\n", "a", "k", "x ").expect_err("unwritable");
    assert_eq!(error.to_string(), "cannot write 'k' of [a]: the format cannot express it");
}

#[test]
fn edits_reject_text_with_errors() {
    let error = set_value("[a]\nlonely\n=\n", "a", "k", "x").expect_err("unreadable");
    let expected = "cannot edit a file with errors: correct line 2, line 3 first";
    assert_eq!(error.to_string(), expected);
    assert_eq!(remove_section("[a]\nlonely\n=\n", "a"), Err(error));
}

fn remove(text: &str, section: &str) -> String {
    remove_section(text, section).expect("the text is valid")
}

#[test]
fn remove_section_keeps_neighbours() {
    let text = "[a]\nk = 1\n\n[b]\n# within\nk = 2\n  3\n\n# about c\n[c]\nk = 4\n";
    let expected = "[a]\nk = 1\n\n# about c\n[c]\nk = 4\n";
    assert_eq!(remove(text, "b"), expected);
    assert_eq!(remove(text, "missing"), text);
    assert_eq!(remove("[DEFAULT]\nk = 1\n", "DEFAULT"), "[DEFAULT]\nk = 1\n");
}

#[test]
fn remove_section_keeps_next_header_out_of_previous_value() {
    let text = "[a]\nk = 1\n[b]\n  [c]\n    k = 2\n";
    assert_eq!(remove(text, "b"), "[a]\nk = 1\n[c]\n    k = 2\n");
    let text = "  [a]\n  [b]\n  [c]\n";
    assert_eq!(remove(text, "b"), "  [a]\n  [c]\n");
}
