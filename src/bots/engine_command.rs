//! Command lines that start Bots's engine, as written by people and schedulers.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::engine_shim::NAME;

/// The engine's program in early versions of Bots, which schedulers may still name.
const OLD_NAME: &str = "bots-engine.py";

/// The engine as a module of Python.
const MODULE: &str = "bots.engine";

/// The variable with which Python finds the hook.
const HOOK_PATH: &str = "PYTHONPATH";

/// Whether this is the engine's old program name, with any path.
pub fn is_old_name(word: &OsStr) -> bool {
    name(word) == Some(OsStr::new(OLD_NAME))
}

/// Whether this is any Python interpreter.
pub fn is_python(word: &OsStr) -> bool {
    name(word).is_some_and(|name| name.to_string_lossy().starts_with("python"))
}

/// The command, with an old engine name replaced by the current one.
pub fn with_todays_name(command: Vec<OsString>) -> Vec<OsString> {
    let old = match command.as_slice() {
        [first, ..] if is_old_name(first) => 1,
        [first, second, ..] if is_python(first) && is_old_name(second) => 2,
        _ => return command,
    };
    std::iter::once(NAME.into()).chain(command.into_iter().skip(old)).collect()
}

/// The part of a command that disables the hook for an engine, which would then run without the lease.
pub fn bypass(command: &[OsString]) -> Option<String> {
    let text: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    let argv: Vec<&str> =
        text.iter().flat_map(|word| word.split(is_separator)).filter(|word| !word.is_empty()).collect();
    let engine = argv.iter().rposition(|word| is_engine(word))?;
    (0..engine).find_map(|at| bypass_at(argv[at], &argv[at + 1..engine]))
}

/// The option, if `word` with its arguments `rest` removes variables, or the hook, from a following engine.
fn bypass_at(word: &str, rest: &[&str]) -> Option<String> {
    if let Some(value) = word.strip_prefix(HOOK_PATH).and_then(|rest| rest.strip_prefix('=')) {
        return (!value.contains(HOOK_PATH)).then(|| word.to_owned());
    }
    let program = name(OsStr::new(word))?;
    let option = match program.to_str()? {
        "unset" => rest.first().filter(|variable| **variable == HOOK_PATH).map(|variable| (*variable).to_owned()),
        "env" => clearing_option(rest),
        _ if is_python(program) => isolating_option(rest).map(str::to_owned),
        _ => None,
    };
    option.map(|option| format!("{word} {option}"))
}

fn is_engine(word: &str) -> bool {
    name(OsStr::new(word)).is_some_and(|name| name == NAME || name == OLD_NAME) || word.contains(MODULE)
}

/// The option of `env` that removes all variables, or that of the hook.
fn clearing_option(rest: &[&str]) -> Option<String> {
    let mut words = rest.iter();
    while let Some(word) = words.next().filter(|word| word.starts_with('-') && **word != "--") {
        let is_long = word.starts_with("--");
        // Letters may be joined, up to one with a value.
        let flags = if is_long { "" } else { word.split(['u', 'C']).next().unwrap_or_default() };
        let is_clearing = *word == "-" || flags.contains('i') || is_long && "--ignore-environment".starts_with(word);
        if is_clearing || word.ends_with(HOOK_PATH) {
            return Some((*word).to_owned());
        }
        if ["--unset", "--chdir"].contains(word) || flags.len() + 1 == word.len() {
            let value = words.next().filter(|value| **value == HOOK_PATH);
            if let Some(value) = value {
                return Some(format!("{word} {value}"));
            }
        }
    }
    None
}

/// The option with which Python ignores variables or the hook. Options end with the command, module or script.
fn isolating_option<'a>(rest: &[&'a str]) -> Option<&'a str> {
    let mut words = rest.iter();
    while let Some(word) = words.next().filter(|word| word.starts_with('-') && !word.starts_with("--")) {
        let flags = word.split(['W', 'X', 'c', 'm']).next().unwrap_or_default();
        if flags.contains(['I', 'E', 'S']) {
            return Some(word);
        }
        match &word[flags.len()..] {
            "W" | "X" => drop(words.next()),
            value if value.starts_with(['c', 'm']) => return None,
            _ => {}
        }
    }
    None
}

/// Separators of words in a script.
fn is_separator(c: char) -> bool {
    c.is_whitespace() || ";&|()'\"`".contains(c)
}

fn name(word: &OsStr) -> Option<&OsStr> {
    Path::new(word).file_name()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn old_engine_name_is_replaced_only_as_program() {
        for old in ["bots-engine.py", "/usr/local/bin/bots-engine.py", "python2.7 /usr/bin/bots-engine.py"] {
            assert_eq!(
                with_todays_name(argv(&format!("{old} --new orders"))),
                argv("bots-engine --new orders"),
                "{old}"
            );
        }
        for other in ["bots-engine --new", "python3 x.py bots-engine.py", "echo bots-engine.py", "python3"] {
            assert_eq!(with_todays_name(argv(other)), argv(other), "{other}");
        }
    }

    #[test]
    fn bypass_finds_options_that_disable_the_hook() {
        for (command, said) in [
            ("python3 -I -m bots.engine", "python3 -I"),
            ("/venv/bin/python -W ignore -sE /venv/bin/bots-engine --new", "/venv/bin/python -sE"),
            ("timeout 9 python -IS -c import_bots.engine", "python -IS"),
            ("sh -c cd_x;python3.11\t-I\t-m\tbots.engine", "python3.11 -I"),
            ("env -i /venv/bin/bots-engine", "env -i"),
            ("/usr/bin/env -i bots-engine", "/usr/bin/env -i"),
            ("env - bots-engine", "env -"),
            ("env -iv bots-engine", "env -iv"),
            ("env --ignore-env bots-engine", "env --ignore-env"),
            ("env -C /tmp -i bots-engine", "env -i"),
            ("env --chdir /tmp -u A -vi bots-engine", "env -vi"),
            ("env -u PYTHONPATH python -m bots.engine", "env -u PYTHONPATH"),
            ("env -uPYTHONPATH bots-engine", "env -uPYTHONPATH"),
            ("env --unset=PYTHONPATH bots-engine", "env --unset=PYTHONPATH"),
            ("env --unset PYTHONPATH bots-engine", "env --unset PYTHONPATH"),
            ("/usr/bin/env -S -i bots-engine", "/usr/bin/env -i"),
            ("sh -c unset\tPYTHONPATH;bots-engine", "unset PYTHONPATH"),
            ("env PYTHONPATH=/x python -m bots.engine", "PYTHONPATH=/x"),
        ] {
            assert_eq!(bypass(&argv(command)), Some(said.to_owned()), "{command}");
        }
    }

    #[test]
    fn bypass_accepts_hooked_engines_and_other_programs() {
        for command in [
            "python -m bots.engine",
            "python -m bots.engine -S",
            "python -X utf8 -W ignore /venv/bin/bots-engine",
            "python -I -m bots.webserver",
            "env -i sh",
            "env -i /bin/bots-engine-report",
            "env -u IFS -C /in bots-engine",
            "env -Ci bots-engine",
            "env bots-fetch -i&&bots-engine",
            "sh -c python3\tfetch.py\t-E\tprod&&bots-engine",
            "python -m fetch -S&&bots-engine",
            "python -W error::ImportWarning -Xutf8 -bb fetch.py -I;bots-engine",
            "env A=1 bash -i -c bots-engine",
            "sh -c PYTHONPATH=/x:$PYTHONPATH\tbots-engine",
            "bots-engine --new",
        ] {
            assert_eq!(bypass(&argv(command)), None, "{command}");
        }
    }
}
