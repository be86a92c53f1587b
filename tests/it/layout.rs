//! The layers: who may use whom (a module that reaches up is a design change, not an accident).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module, and what of this crate it may use beside itself. `exit` and `model` are plain data that everything may use.
const ALLOWED: [(&str, &[&str]); 22] = [
    ("exit", &[]),
    ("model", &[]),
    ("cli", &[]),
    ("random", &[]),
    ("fs", &["random"]),
    ("pycompat", &[]),
    ("config", &[]),
    ("process", &[]),
    ("http", &[]),
    ("bots", &["config", "fs", "process", "pycompat", "random"]),
    ("telemetry", &["bots", "config"]),
    ("database", &["config", "fs", "random"]),
    ("edi", &["database"]),
    ("supervisor", &["process", "telemetry"]),
    ("health", &["config", "database", "edi", "http", "process", "telemetry"]),
    ("status", &["edi", "health", "telemetry"]),
    ("metrics", &["database", "edi", "health", "http", "process", "telemetry"]),
    ("admin", &["health", "http", "metrics", "status", "telemetry"]),
    ("jobs", &["bots", "config", "database", "http", "process", "supervisor", "telemetry"]),
    ("watch", &["config", "process", "pycompat", "telemetry"]),
    (
        "runtime",
        &[
            "admin",
            "bots",
            "config",
            "database",
            "edi",
            "fs",
            "health",
            "http",
            "jobs",
            "metrics",
            "process",
            "pycompat",
            "random",
            "supervisor",
            "telemetry",
            "watch",
        ],
    ),
    (
        "command",
        &[
            "admin",
            "bots",
            "cli",
            "config",
            "edi",
            "health",
            "http",
            "jobs",
            "process",
            "runtime",
            "status",
            "telemetry",
            "watch",
        ],
    ),
];

/// Modules that are pure: nothing but the standard library, plain data, and what data is written and read with.
const PURE: [&str; 6] =
    ["supervisor/state.rs", "health/rules.rs", "health/state.rs", "exit.rs", "model.rs", "watch/stability.rs"];

#[apply(test)]
fn dependencies_point_down() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = path.split(['/', '.']).next().expect("a path has a beginning");
        let Some(may_use) = allowed.get(module) else { continue };
        for used in used_modules(&text) {
            if used != module && !["exit", "model"].contains(&used.as_str()) && !may_use.contains(&used.as_str()) {
                wrong.push(format!("{path} uses {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[apply(test)]
fn every_module_is_in_the_table() {
    let known: Vec<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    for (path, _) in sources() {
        let module = path.split(['/', '.']).next().expect("a path has a beginning");
        assert!(["main", "lib"].contains(&module) || known.contains(&module), "{path} is in no layer");
    }
}

#[apply(test)]
fn pure_modules_use_the_standard_library_alone() {
    for (path, text) in sources().into_iter().filter(|(path, _)| PURE.contains(&path.as_str())) {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().filter(|line| line.starts_with("use ")) {
            let known = [
                "use std::",
                "use State::",
                "use crate::exit::",
                "use crate::model::",
                "use crate::process::open_file::FileStamp",
                "use crate::telemetry::counters::Probe",
                "use super::state::",
                "use serde::",
                "use secrecy::",
            ];
            let fine = known.iter().any(|start| line.starts_with(start));
            assert!(fine, "{path}: {line}");
        }
    }
}

#[apply(test)]
fn every_module_says_what_it_is_for() {
    for (path, text) in sources() {
        assert!(text.starts_with("//! "), "{path} has no //! head");
    }
}

/// Rust's own attribute compiles here, and its test never runs.
#[apply(test)]
fn every_test_is_registered_with_the_runner() {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it"), &mut files);
    for file in files {
        let text = fs::read_to_string(&file).expect("readable");
        let plain = text.lines().position(|line| line.trim() == "#[test]");
        assert!(plain.is_none(), "{}:{}: use #[apply(test)]", file.display(), plain.unwrap_or_default() + 1);
    }
}

#[apply(test)]
fn unsafe_stands_in_three_modules_and_gives_its_reasons() {
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (number, _) in lines.iter().enumerate().filter(|(_, line)| line.contains("unsafe {")) {
            assert!(
                ["process/child.rs", "process/open_file.rs", "process/sys.rs"].contains(&path.as_str()),
                "{path}: unsafe in line {}",
                number + 1
            );
            let reasoned = lines[number.saturating_sub(5)..number].iter().any(|line| line.contains("// SAFETY: "));
            assert!(reasoned, "{path}:{} has no SAFETY comment", number + 1);
        }
    }
}

fn used_modules(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap_or_default().split(',').map(str::trim).collect(),
            None => vec![rest],
        };
        let word =
            |name: &str| name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned();
        used.extend(names.into_iter().map(word).filter(|name| !name.is_empty()));
    }
    used
}

/// All sources with their paths below `src/`.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &mut found);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).expect("it is below").display().to_string();
        (name, fs::read_to_string(&path).expect("readable"))
    };
    found.into_iter().map(read).collect()
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the directory is there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}
