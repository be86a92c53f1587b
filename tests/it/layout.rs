//! The layers: permitted dependencies (a module that depends on a higher layer is a design change).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each module, and the modules of this crate that it may use. `exit` and `model` are plain data that all modules may use.
const ALLOWED: [(&str, &[&str]); 23] = [
    ("exit", &[]),
    ("model", &[]),
    ("cli", &[]),
    ("random", &[]),
    ("fs", &["random"]),
    ("pycompat", &[]),
    ("config", &["fs"]),
    ("process", &[]),
    ("http", &[]),
    ("bots", &["config", "fs", "process", "pycompat", "random"]),
    ("telemetry", &["bots", "config"]),
    ("database", &["config", "fs", "process", "random"]),
    ("edi", &["database"]),
    ("supervisor", &["process", "telemetry"]),
    ("health", &["config", "database", "edi", "http", "process", "telemetry"]),
    ("status", &["edi", "health", "telemetry"]),
    ("metrics", &["database", "edi", "health", "http", "process", "telemetry"]),
    ("admin", &["health", "http", "metrics", "status", "telemetry"]),
    ("jobs", &["bots", "config", "database", "http", "process", "supervisor", "telemetry"]),
    ("plugin", &["bots", "config", "fs", "random"]),
    ("watch", &["config", "fs", "process", "pycompat", "telemetry"]),
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
            "plugin",
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
            "plugin",
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
fn every_module_belongs_to_a_layer() {
    let known: Vec<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    for (path, _) in sources() {
        let module = path.split(['/', '.']).next().expect("a path has a beginning");
        assert!(["main", "lib"].contains(&module) || known.contains(&module), "{path} is in no layer");
    }
}

#[apply(test)]
fn pure_modules_import_only_allowed_items() {
    for (path, text) in sources().into_iter().filter(|(path, _)| PURE.contains(&path.as_str())) {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().filter(|line| line.starts_with("use ")) {
            let known = [
                "use std::",
                "use ServiceState::",
                "use crate::exit::",
                "use crate::model::",
                "use crate::fs::open_file::FileStamp",
                "use crate::telemetry::counters::CheckTimer",
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
fn every_module_has_a_doc_comment() {
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
fn unsafe_is_limited_to_three_modules_with_safety_comments() {
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (number, _) in lines.iter().enumerate().filter(|(_, line)| line.contains("unsafe {")) {
            assert!(
                ["fs/open_file.rs", "process/child.rs", "process/sys.rs"].contains(&path.as_str()),
                "{path}: unsafe in line {}",
                number + 1
            );
            let reasoned = lines[number.saturating_sub(5)..number].iter().any(|line| line.contains("// SAFETY: "));
            assert!(reasoned, "{path}:{} has no SAFETY comment", number + 1);
        }
    }
}

/// The longest file, and the longest function.
const MAX_FILE_LINES: usize = 400;
const MAX_FUNCTION_LINES: usize = 50;

#[apply(test)]
fn files_and_functions_stay_within_length_limits() {
    for (path, text) in sources().into_iter().filter(|(path, _)| !path.ends_with("/tests.rs")) {
        let code = without_tests(&text);
        let lines: Vec<&str> = code.lines().collect();
        assert!(lines.len() <= MAX_FILE_LINES, "{path} has {} lines", lines.len());
        for (start, line) in lines.iter().enumerate().filter(|(_, line)| is_function(line)) {
            let indent = line.len() - line.trim_start().len();
            let end = format!("{}}}", " ".repeat(indent));
            let length = 1 + lines[start..].iter().position(|line| *line == end).expect("the function ends");
            assert!(length <= MAX_FUNCTION_LINES, "{path}:{}: {length} lines", start + 1);
        }
    }
}

fn is_function(line: &str) -> bool {
    let is_qualifier = |word: &&str| ["pub", "const", "async", "unsafe"].contains(word) || word.starts_with("pub(");
    line.ends_with(['{', '(']) && line.split_whitespace().find(|word| !is_qualifier(word)) == Some("fn")
}

/// Where two files need each other, a third one holds what both need, or they are one.
#[apply(test)]
fn no_two_files_import_each_other() {
    let files: BTreeMap<String, String> = sources().into_iter().map(|(path, text)| (module_of(&path), text)).collect();
    let imports: BTreeMap<&str, BTreeSet<String>> =
        files.iter().map(|(module, text)| (module.as_str(), imported_files(module, text, &files))).collect();
    let mut circles = Vec::new();
    for (module, imported) in &imports {
        for other in imported.iter().filter(|other| module < &other.as_str()) {
            if imports[other.as_str()].contains(*module) {
                circles.push(format!("{module} and {other}"));
            }
        }
    }
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

/// `a::b` of `a/b.rs` and of `a/b/mod.rs`.
fn module_of(path: &str) -> String {
    path.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::")
}

/// The other files whose items a file names.
fn imported_files(module: &str, text: &str, files: &BTreeMap<String, String>) -> BTreeSet<String> {
    let code = without_tests(text);
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let statement = code[at + "use ".len()..].split(';').next().unwrap_or_default();
        paths.extend(expand(&statement.split_whitespace().collect::<String>()));
    }
    for start in ["crate::", "super::"] {
        let ends = |c: char| !c.is_alphanumeric() && c != '_' && c != ':';
        paths.extend(code.match_indices(start).map(|(at, _)| code[at..].split(ends).next().unwrap_or_default().into()));
    }
    // A group is cut at its brace, and stands in the list of imports as well.
    let found = paths.iter().filter(|path| !path.ends_with("::")).filter_map(|path| resolve(module, path, files));
    found.filter(|file| file != module).collect()
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d` and `a::c::e`.
fn expand(path: &str) -> Vec<String> {
    let Some((start, group)) = path.split_once('{') else { return vec![path.to_owned()] };
    let (mut depth, mut parts) = (0_i32, vec![String::new()]);
    for c in group.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        match c {
            ',' if depth == 0 => parts.push(String::new()),
            _ if depth >= 0 => parts.last_mut().expect("there is one").push(c),
            _ => break,
        }
    }
    parts.iter().filter(|part| !part.is_empty()).flat_map(|part| expand(&format!("{start}{part}"))).collect()
}

/// The file that a path leads to, as seen from a module.
fn resolve(module: &str, path: &str, files: &BTreeMap<String, String>) -> Option<String> {
    let mut names: Vec<&str> = path.split("::").collect();
    let mut base: Vec<&str> = module.split("::").collect();
    match *names.first()? {
        "crate" => base.clear(),
        "super" => drop(base.pop()),
        "self" => {}
        child if files.contains_key(&format!("{module}::{child}")) => names.insert(0, "self"),
        _ => return None,
    }
    names.remove(0);
    while names.first() == Some(&"super") {
        base.pop();
        names.remove(0);
    }
    base.extend(names);
    (1..=base.len()).rev().map(|length| base[..length].join("::")).find(|name| files.contains_key(name))
}

fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default()
}

/// What several themes use is in `support`.
#[apply(test)]
fn test_modules_do_not_import_each_other() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut files = Vec::new();
    collect(&root, &mut files);
    for file in files.iter().filter(|file| !file.ends_with("layout.rs")) {
        let text = fs::read_to_string(file).expect("readable");
        let others = used_modules(&text).into_iter().filter(|used| !["support", "harness"].contains(&used.as_str()));
        assert_eq!(others.collect::<Vec<_>>(), [""; 0], "{}", file.display());
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

#[apply(test)]
fn top_level_contains_only_listed_entries() {
    const ENTRIES: [&str; 9] =
        ["Cargo.lock", "Cargo.toml", "Dockerfile", "README.md", "docs", "k3s", "sql", "src", "tests"];
    let all = fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("readable").flatten();
    let mut names: Vec<String> = all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    // Where cargo builds.
    names.retain(|name| !name.starts_with('.') && name != "target");
    names.sort();
    assert_eq!(names, ENTRIES);
}
