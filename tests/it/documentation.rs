//! The documentation: its pages as data, and common rules: links resolve, and names exist.
//!
//! `documented_commands` runs the commands of the pages, `documentation_tools` checks the pages with other programs.

use crate::support::markdown::{PROJECT, Page, page, pages};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Variables that clients of databases read.
const OF_CLIENTS: [&str; 1] = ["MYSQL_PWD"];

/// Names of the replaced program are not names of bots-ctl.
const OF_OTHERS: [&str; 1] = ["docs/migrating-from-entrypoint-sh.md"];

/// All text of the project below these places.
fn sources(places: &[&str]) -> String {
    let mut all = String::new();
    for place in places {
        for entry in walkdir::WalkDir::new(Path::new(PROJECT).join(place)).sort_by_file_name() {
            let entry = entry.expect("readable");
            if entry.file_type().is_file() && entry.path().extension().is_none_or(|extension| extension != "md") {
                all.push_str(&String::from_utf8_lossy(&fs::read(entry.path()).expect("readable")));
            }
        }
    }
    all
}

/// Fails with everything that was found.
fn expect_none(what: &str, wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

#[apply(test)]
fn links_resolve() {
    let mut wrong = Vec::new();
    for page in pages() {
        for link in page.links().into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let here = Path::new(PROJECT).join(&page.path);
            let target = if file.is_empty() { here } else { here.parent().expect("a directory").join(file) };
            let Ok(target) = target.canonicalize() else {
                wrong.push(format!("{}: there is no {link}", page.path));
                continue;
            };
            if !anchor.is_empty() {
                let inside = target.strip_prefix(Path::new(PROJECT).canonicalize().expect("there")).expect("ours");
                if !self::page(&inside.to_string_lossy()).anchors().contains(anchor) {
                    wrong.push(format!("{}: {link} has no such heading", page.path));
                }
            }
        }
    }
    expect_none("links", wrong);
}

#[apply(test)]
fn index_links_to_every_page() {
    let index = page("docs/README.md").links();
    let is_missing = |page: &Page| {
        let place = page.path.strip_prefix("docs/").filter(|place| *place != "README.md");
        place.is_some_and(|place| !index.iter().any(|link| link.split('#').next() == Some(place)))
    };
    expect_none("pages", pages().into_iter().filter(is_missing).map(|page| page.path).collect());
}

#[apply(test)]
fn named_variables_metrics_and_tables_exist() {
    let places =
        ["src", "sql", "k3s", "tests/it", "tests/bench", "tests/run.sh", "tests/fuzz/run.sh", ".cargo", "Dockerfile"];
    let known = sources(&places);
    let is_known = |name: &str| {
        OF_CLIENTS.contains(&name)
            || known.contains(name)
            || name.strip_suffix("_FILE").is_some_and(|base| base == "NAME" || known.contains(base))
    };
    let mut wrong = Vec::new();
    for page in pages().into_iter().filter(|page| !OF_OTHERS.contains(&page.path.as_str())) {
        let words = page.text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let is_variable = |word: &&str| {
            let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            let is_capital = word.starts_with(|c: char| c.is_ascii_uppercase());
            word.starts_with("botsctl_") || (word.contains('_') && is_capital && word.chars().all(is_name))
        };
        let unknown = words.filter(is_variable).filter(|word| !is_known(word.trim_end_matches('_')));
        wrong.extend(unknown.map(|word| format!("{}: {word}", page.path)));
    }
    expect_none("names that the code does not have", wrong);
}

#[apply(test)]
fn named_exit_codes_exist() {
    let own = bots_ctl::exit::Kind::ALL.map(|kind| u32::from(kind.code()));
    // The engine's, and those of signals.
    let known: BTreeSet<u32> = own.into_iter().chain(0..=3).chain(129..=128 + 64).collect();
    let mut wrong = Vec::new();
    for page in pages() {
        let words: Vec<&str> = page.text.split_whitespace().collect();
        for pair in words.windows(2).filter(|pair| ["exit", "code", "codes"].contains(&pair[0].to_lowercase().as_str()))
        {
            let number = pair[1].trim_matches(|c: char| !c.is_ascii_digit()).parse();
            if number.is_ok_and(|number: u32| !known.contains(&number)) {
                wrong.push(format!("{}: {} {}", page.path, pair[0], pair[1]));
            }
        }
    }
    expect_none("exit codes that nothing ends with", wrong);
}

#[apply(test)]
fn named_project_files_exist() {
    let tops = ["src/", "tests/", "docs/", "k3s/", "sql/", ".ci/", ".github/"];
    let mut wrong = Vec::new();
    for page in pages() {
        for span in page.spans().into_iter().filter(|span| tops.iter().any(|top| span.starts_with(top))) {
            let path = span.split_whitespace().next().expect("it is not empty").to_owned();
            // A word in capitals stands for any name.
            let parts = path.split('/').map(|part| {
                if !part.is_empty() && part.chars().all(|c| c.is_ascii_uppercase()) { "dev" } else { part }
            });
            let real: PathBuf = Path::new(PROJECT).join(parts.collect::<PathBuf>());
            // The secrets of an environment are made by a person.
            if !real.exists() && !path.ends_with("/secrets.env") {
                wrong.push(format!("{}: {path}", page.path));
            }
        }
    }
    expect_none("files that are not there", wrong);
}

#[apply(test)]
fn components_modules_scripts_and_alerts_are_documented() {
    let all: String = pages().into_iter().map(|page| page.text).collect();
    let guide = page("docs/kubernetes-deployment.md").text;
    let layout = page("docs/development.md").text;
    let names = |place: &str| -> Vec<String> {
        let entries = fs::read_dir(Path::new(PROJECT).join(place)).expect("readable");
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect()
    };
    let mut missing = Vec::new();
    missing.extend(names("k3s/components").into_iter().filter(|name| !guide.contains(&format!("`{name}`"))));
    missing.extend(names("k3s/overlays").into_iter().filter(|name| !guide.contains(name.as_str())));
    missing.extend(names("src").into_iter().filter(|name| !layout.contains(&format!("src/{name}"))));
    // What cannot be run is a part of others.
    let is_script = |name: &String| {
        let file = fs::metadata(Path::new(PROJECT).join("tests/bench").join(name)).expect("readable");
        file.is_file() && file.permissions().mode() & 0o100 != 0
    };
    let scripts = names("tests/bench").into_iter().filter(is_script);
    missing.extend(scripts.filter(|name| !all.contains(&format!("tests/bench/{name}"))));
    let alerts = sources(&["k3s/components"]);
    let runbook = page("docs/operations-runbook.md").text;
    let alerts = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    missing.extend(alerts.filter(|alert| !runbook.contains(&format!("`{alert}`"))).map(str::to_owned));
    expect_none("not documented", missing);
}

#[apply(test)]
fn runbook_log_lines_exist_in_code() {
    // As one line, however the code breaks it.
    let code = sources(&["src"]).replace("\\\n", "");
    let code = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut wrong = Vec::new();
    for (_, cells) in page("docs/operations-runbook.md").rows() {
        let quoted =
            cells[0].split('`').skip(1).step_by(2).filter(|span| span.contains(' ') && !span.contains("kubectl"));
        for line in quoted {
            if !line.split('…').map(str::trim).all(|part| code.contains(part)) {
                wrong.push(line.to_owned());
            }
        }
    }
    expect_none("log lines that nothing writes", wrong);
}

#[apply(test)]
fn named_tests_exist() {
    let mut wrong = Vec::new();
    for page in pages() {
        let names = page.spans().into_iter().filter(|span| span.contains("::") && !span.contains(' '));
        for name in names.filter(|name| !name.ends_with("::") && name.chars().next().is_some_and(char::is_lowercase)) {
            let (module, test) = name.rsplit_once("::").expect("it has one");
            let file = module.split("::").next().expect("it is not empty");
            if Path::new(PROJECT).join("src").join(name.replace("::", "/")).with_extension("rs").exists() {
                continue;
            }
            let unit = module.trim_end_matches("::tests").replace("::", "/");
            let places = [format!("tests/it/{file}.rs"), format!("src/{unit}.rs")];
            let has = |place: &String| {
                let text = fs::read_to_string(Path::new(PROJECT).join(place)).unwrap_or_default();
                text.contains(&format!("fn {test}("))
            };
            if !places.iter().any(has) {
                wrong.push(format!("{}: {name}", page.path));
            }
        }
    }
    expect_none("tests that are not there", wrong);
}
