//! Commands in the documentation: all are parsed, those of blocks marked `runnable` are run, and the two pages that are
//! made from the code are compared with it.
//!
//! `UPDATE_DOCUMENTATION=1` writes these pages instead.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use bots_ctl::cli::{self, Cli};
use bots_ctl::config::Config;
use bots_ctl::config::setting::ValueType;
use bots_ctl::exit::Kind;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::support::demo_translation::Demo;
use crate::support::kustomize::{copy, tool};
use crate::support::markdown::{Block, Page, page, pages};
use crate::support::needs::{Need, needs};
use crate::support::sandbox::{Sandbox, binary, python};
use crate::support::servers::{Database, Engine};

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// Separates the output of blocks.
const MARK: &str = "== the next block ==";

#[apply(test)]
fn documented_commands_parse() {
    let mut wrong = Vec::new();
    for page in pages() {
        let of_shells = page.blocks().into_iter().filter(|block| block.info.first().is_some_and(|word| word == "sh"));
        let lines = of_shells.flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>());
        // What stands for something else cannot be parsed.
        let spans =
            page.spans().into_iter().filter(|span| !span.contains(['[', '…', '/']) && span.contains("bots-ctl "));
        for line in lines.chain(spans) {
            wrong.extend(commands(&line).filter_map(|words| Some(format!("{}: {line}: {}", page.path, fault(words)?))));
        }
    }
    assert!(wrong.is_empty(), "commands that are none:\n{}", wrong.join("\n"));
}

/// The command lines of bots-ctl in a line of shell.
fn commands(line: &str) -> impl Iterator<Item = Vec<String>> {
    let line = line.replace("2>", ">");
    let parts: Vec<String> = line.split(['|', ';', '&', '>', '<', ')']).map(str::to_owned).collect();
    parts.into_iter().filter_map(|part| {
        let words: Vec<String> =
            part.split_whitespace().map(|word| word.trim_matches(['\'', '"']).to_owned()).collect();
        // `docker run … bots-ctl up` as well, but neither the image's name in a build nor a directory.
        let begin = words.iter().rposition(|word| word == "bots-ctl")?;
        let is_other = words.iter().any(|word| ["build", "-t", "COMMAND"].contains(&word.as_str()));
        (!is_other && words.len() > begin + 1).then(|| words[begin..].to_vec())
    })
}

fn fault(words: Vec<String>) -> Option<String> {
    match Cli::try_parse_from(words) {
        Ok(Cli { command: cli::Command::Program(words), .. }) => Some(format!("{words:?} is no command")),
        Ok(_) => None,
        Err(error) if error.exit_code() == 0 => None,
        // The name of a group, such as `job`.
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => None,
        Err(error) => Some(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

/// Every command that is not hidden, by its words.
fn all_commands() -> Vec<(Vec<String>, clap::Command)> {
    let mut found = Vec::new();
    let mut root = Cli::command();
    root.build();
    let mut left = vec![(Vec::new(), root)];
    while let Some((names, command)) = left.pop() {
        let below = command.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned();
        let mut below: Vec<(Vec<String>, clap::Command)> =
            below.map(|sub| ([names.clone(), vec![sub.get_name().to_owned()]].concat(), sub)).collect();
        below.reverse();
        left.extend(below);
        if !names.is_empty() {
            found.push((names, command));
        }
    }
    found
}

const EXIT_CODES: &str = "
## Exit codes

| code | meaning |
|---|---|
| that of a service | the service exited; 128 + n after signal n, 137 also after SIGKILL at the deadline |
| 0 | success, healthy, or an orderly stop on request |
";

#[apply(test)]
fn commands_page_matches_code() {
    let mut text =
        "# Commands and flags\n\nMade from what `--help` shows. Every command also takes these:\n".to_owned();
    let root = Cli::command();
    text.push_str(&flags(&root, |_| true));
    let global: Vec<String> = root.get_arguments().map(|argument| argument.get_id().to_string()).collect();
    for (names, command) in all_commands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let aliases: Vec<String> = command.get_all_aliases().map(|alias| format!("`{alias}`")).collect();
        let also = if aliases.is_empty() { String::new() } else { format!("; also {}", aliases.join(", ")) };
        text.push_str(&format!("\n## {}\n\n{about}{also}.\n", names.join(" ")));
        text.push_str(&flags(&command, |id| !global.contains(&id.to_owned())));
    }
    text.push_str(EXIT_CODES);
    for kind in Kind::ALL {
        text.push_str(&format!("| {} | {} |\n", kind.code(), kind.meaning()));
    }
    expect_page("docs/commands.md", &text);
}

/// A table of flags and arguments.
fn flags(command: &clap::Command, is_wanted: impl Fn(&str) -> bool) -> String {
    let mut rows = String::new();
    for argument in command.get_arguments().filter(|argument| is_wanted(argument.get_id().as_str())) {
        if ["help", "version"].contains(&argument.get_id().as_str()) {
            continue;
        }
        let value = argument.get_value_names().unwrap_or_default().first().map(ToString::to_string);
        let takes = argument.get_action().takes_values();
        let name = match (argument.get_short(), argument.get_long()) {
            (_, None) => {
                let more = argument.get_num_args().is_some_and(|number| number.max_values() > 1);
                let name = value.unwrap_or_else(|| argument.get_id().to_string().to_uppercase());
                format!("`{name}{}`", if more { "…" } else { "" })
            }
            (short, Some(long)) => {
                let short = short.map(|short| format!("`-{short}`, ")).unwrap_or_default();
                let value = value.filter(|_| takes).map(|value| format!(" {value}")).unwrap_or_default();
                format!("{short}`--{long}{value}`")
            }
        };
        let values = argument.get_possible_values();
        let values: Vec<&str> = values.iter().filter(|_| takes).map(|value| value.get_name()).collect();
        let values = if values.is_empty() { String::new() } else { format!(": {}", values.join(", ")) };
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        rows.push_str(&format!("| {} | {}{values} |\n", name.replace('|', "\\|"), help.replace('|', "\\|")));
    }
    if rows.is_empty() { rows } else { format!("\n| | |\n|---|---|\n{rows}") }
}

#[apply(test)]
fn settings_table_matches_code() {
    const BEGIN: &str = "| key | variable | type | default | meaning |\n|---|---|---|---|---|\n";
    let (config, _) = Config::read(&BTreeMap::new(), &[], None, Path::new("/nowhere"));
    let mut settings: Vec<_> = config.effective_settings.iter().map(|known| known.setting).collect();
    settings.sort_by_key(|setting| setting.path);
    let mut rows = String::new();
    for setting in settings {
        let value_type = match setting.value_type {
            ValueType::Text => "text",
            ValueType::Integer => "integer",
            ValueType::Boolean => "true or false",
            ValueType::Duration => "time",
            ValueType::List => "list",
            ValueType::Other => unreachable!("no setting has it"),
        };
        let value_type = if setting.secret { "secret" } else { value_type };
        // Words are no value.
        let default = match setting.default {
            "" => String::new(),
            default if default.contains(' ') || default.starts_with("as ") => default.to_owned(),
            default => format!("`{default}`"),
        };
        let (path, env, help) = (setting.path, setting.env, setting.help);
        rows.push_str(&format!("| `{path}` | `{env}` | {value_type} | {default} | {help} |\n"));
    }
    let text = page("docs/configuration.md").text;
    let (head, rest) = text.split_once(BEGIN).expect("docs/configuration.md has the table");
    let rest = rest.find("\n\n").map_or("", |end| &rest[end + 1..]);
    expect_page("docs/configuration.md", &format!("{head}{BEGIN}{rows}{rest}"));
}

fn expect_page(path: &str, text: &str) {
    let file = Path::new(PROJECT).join(path);
    if std::env::var_os("UPDATE_DOCUMENTATION").is_some() {
        fs::write(file, text).expect("written");
        return;
    }
    let there = fs::read_to_string(file).unwrap_or_default();
    let differing = text.lines().zip(there.lines().chain(std::iter::repeat(""))).find(|(made, there)| made != there);
    assert!(there == text, "{path} is not what the code says; UPDATE_DOCUMENTATION=1 writes it anew. {differing:?}");
}

#[apply(test)]
fn configuration_example_sets_every_key() {
    let page = page("docs/configuration.md");
    let example = page.blocks().into_iter().find(|block| block.info == ["toml"]).expect("there is one");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("bots-ctl.toml");
    for secret in ["jobqueue-token", "db-password", "django-secret-key", "mail-password", "superuser-password"] {
        fs::write(dir.path().join(secret), "0123456789abcdef0123456789abcdef").expect("written");
    }
    let text = example.text.replace("/run/secrets/bots", &dir.path().display().to_string());
    fs::write(&file, text).expect("written");
    let (config, faults) = Config::read(&BTreeMap::new(), &[], Some(&file), dir.path());
    assert!(faults.is_empty(), "{faults:?}");
    let is_missing = |path: &str| !example.text.contains(&format!("{} =", path.rsplit('.').next().unwrap_or(path)));
    let missing: Vec<&str> =
        config.effective_settings.iter().map(|known| known.setting.path).filter(|path| is_missing(path)).collect();
    assert!(missing.is_empty(), "the example leaves out {missing:?}");
}

#[apply(test)]
fn runnable_blocks_print_documented_output() {
    run_pages(|blocks| !blocks.is_empty() && !use_program(blocks, "kubectl") && !use_program(blocks, "curl"));
}

#[apply(test)]
fn kubectl_blocks_print_documented_output() {
    run_pages(|blocks| use_program(blocks, "kubectl"));
}

#[apply(test)]
fn curl_blocks_print_documented_output() {
    needs(Need::Curl);
    run_pages(|blocks| use_program(blocks, "curl"));
}

/// Runs the blocks of each page that is chosen by them; the runbook's are those of the rehearsals below.
fn run_pages(is_chosen: impl Fn(&[Block]) -> bool) {
    let is_rehearsed = |page: &Page| page.path == "docs/operations-runbook.md";
    for page in pages().into_iter().filter(|page| !is_rehearsed(page)) {
        let blocks = runnable(&page, None);
        if is_chosen(&blocks) {
            Session { sandbox: &Sandbox::new(), page: &page }.run(&blocks, |_| {});
        }
    }
}

fn use_program(blocks: &[Block], program: &str) -> bool {
    blocks.iter().any(|block| block.text.contains(program))
}

#[apply(test)]
fn a_backup_on_sqlite_can_be_restored() {
    let sandbox = Sandbox::new();
    let file = sandbox.root().join("botssys/sqlitedb/botsdb");
    rehearse(&sandbox, None, || {
        let mut client = Command::new(python());
        client
            .args(["-c", "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone())"]);
        let told = client.arg(&file).arg(RUNS).output().expect("it can be run");
        String::from_utf8_lossy(&told.stdout).trim().to_owned()
    });
}

#[apply(test)]
fn a_backup_on_mariadb_can_be_restored() {
    let database = Database::fresh(Engine::Mariadb);
    rehearse(&database.sandbox(), Some("mysql"), || database.value(RUNS));
}

#[apply(test)]
fn a_backup_on_postgresql_can_be_restored() {
    let database = Database::fresh(Engine::Postgresql);
    rehearse(&database.sandbox(), Some("postgresql"), || database.value(RUNS));
}

#[apply(test)]
fn all_rows_move_from_sqlite_to_mariadb() {
    move_from_sqlite(Engine::Mariadb);
}

#[apply(test)]
fn all_rows_move_from_sqlite_to_postgresql() {
    move_from_sqlite(Engine::Postgresql);
}

/// Rows of tables that a run of the demo leaves empty, two of which only SQL can write.
const MORE_ROWS: &str = "
import django
django.setup()
from bots import models
from django.contrib.auth.models import Permission, User
from django.db import connection
group = models.partner.objects.create(idpartner='group', name='Group', isgroup=True)
member = models.partner.objects.create(idpartner='member', name='Ünï')
member.group.add(group)
user = User.objects.create_user('clerk', password='secret')
user.user_permissions.add(Permission.objects.get(codename='change_channel'))
cursor = connection.cursor()
cursor.execute(\"INSERT INTO uniek (domein, nummer) VALUES ('unb', 41)\")
cursor.execute(\"INSERT INTO persist (domein, botskey, content) VALUES ('d', 'k', 'with a \\n and ü')\")
";

/// Moves an environment with the commands of the runbook, which compare all rows, and runs the engine on the server.
fn move_from_sqlite(engine: Engine) {
    let mut demo = Demo::new();
    demo.drop_in("input");
    assert_eq!(demo.engine(&[]), 0);
    let python = python().display().to_string();
    demo.sandbox.run(&["exec", "--", &python, "-c", MORE_ROWS]).expect_code(0);
    let page = page("docs/operations-runbook.md");
    let blocks = runnable(&page, Some("server"));
    let (dump, load) = blocks.split_at(1);
    assert_eq!(load.len(), 1, "one block for SQLite, and one for the server");
    Session { sandbox: &demo.sandbox, page: &page }.run(dump, |_| {});
    let database = Database::fresh(engine);
    database.configure(&mut demo.sandbox);
    Session { sandbox: &demo.sandbox, page: &page }.run(load, |_| {});
    assert_eq!(database.value("SELECT nummer FROM uniek WHERE domein = 'unb'"), "41");
    assert_eq!(database.value("SELECT count(*) FROM persist"), "1");
    assert_eq!(database.value(RUNS), "1");
    demo.drop_in("input");
    assert_eq!(demo.engine(&[]), 0);
    assert_eq!(database.value(RUNS), "2");
}

const RUNS: &str = "SELECT count(*) FROM report";

/// Runs the backup of the runbook, destroys something, runs its restore, and compares.
fn rehearse(sandbox: &Sandbox, database: Option<&str>, runs: impl Fn() -> String) {
    sandbox.run(&["init-db"]).expect_code(0);
    sandbox.engine(&[]).expect_code(0);
    let proof = sandbox.root().join("usersys/proof.py");
    fs::write(&proof, "is_there = True\n").expect("written");
    let page = page("docs/operations-runbook.md");
    let (before, after): (Vec<Block>, Vec<Block>) =
        runnable(&page, database).into_iter().partition(|block| block.heading == "Backup");
    assert!(!before.is_empty() && !after.is_empty(), "both are there");
    let session = Session { sandbox, page: &page };
    session.run(&before, |_| {});
    assert_eq!(runs(), "1");
    fs::remove_file(&proof).expect("removed");
    sandbox.engine(&[]).expect_code(0);
    assert_eq!(runs(), "2", "a run that the backup does not know");
    session.run(&after, |script| script.insert_str(0, &exports(&before)));
    assert_eq!(runs(), "2", "that of the backup, and the one after it");
    assert!(proof.exists(), "files are back");
}

/// Variables that a block sets for those that follow.
fn exports(blocks: &[Block]) -> String {
    let lines = blocks.iter().flat_map(|block| block.text.lines()).filter(|line| line.starts_with("export "));
    lines.map(|line| format!("{line}\n")).collect()
}

/// The runnable blocks of a page for this database, each followed by its expected output.
fn runnable(page: &Page, database: Option<&str>) -> Vec<Block> {
    let words: Vec<&str> = ["sh", "runnable"].into_iter().chain(database).collect();
    let mut found: Vec<Block> = Vec::new();
    for block in page.blocks() {
        let is_output = block.info == ["text", "output"] && found.last().is_some_and(|last| last.info == words);
        if block.info == words || is_output {
            found.push(block);
        }
    }
    found
}

/// A shell in an empty HOME, in a directory with the manifests.
struct Session<'a> {
    sandbox: &'a Sandbox,
    page: &'a Page,
}

impl Session<'_> {
    fn run(&self, blocks: &[Block], adapt: impl Fn(&mut String)) {
        let home = self.sandbox.home.path();
        let (bin, checkout, manifests) = (home.join("bin"), home.join("checkout"), copy());
        fs::create_dir_all(&bin).expect("made");
        fs::create_dir_all(&checkout).expect("made");
        let link = |program: &OsStr, name: &str| {
            let _ = fs::remove_file(bin.join(name));
            std::os::unix::fs::symlink(program, bin.join(name)).expect("linked");
        };
        link(binary().as_os_str(), "bots-ctl");
        if use_program(blocks, "kubectl") {
            link(tool("bin/kubectl").get_program(), "kubectl");
        }
        let _ = fs::remove_file(checkout.join("k3s"));
        std::os::unix::fs::symlink(manifests.path(), checkout.join("k3s")).expect("linked");
        // A page names the usual ports.
        let ports = |text: &str| text.replace("localhost:9180", &format!("localhost:{}", self.sandbox.health_port));
        let scripts = blocks.iter().filter(|block| block.info[0] == "sh").map(|block| ports(&block.text));
        let mut script = scripts.map(|text| format!("{text}echo '{MARK}'\n")).collect::<String>();
        adapt(&mut script);
        let mut shell = Command::new("bash");
        shell.args(["-e", "-u", "-o", "pipefail", "-c", &script]).env_clear().current_dir(&checkout);
        shell.envs(self.sandbox.command(&[]).get_envs().filter_map(|(name, value)| Some((name, value?))));
        let path = std::env::var("PATH").expect("it is text");
        shell.env("PATH", format!("{}:{path}", bin.display())).stdin(std::process::Stdio::null());
        // The engine of a page has the usual port for its lock.
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let ran = shell.output().expect("bash is there");
        drop(turn);
        let (stdout, stderr) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{}: {}\n{script}\n{stdout}\n{stderr}", self.page.path, ran.status);
        self.compare(blocks, &stdout, &stderr);
    }

    fn compare(&self, blocks: &[Block], stdout: &str, stderr: &str) {
        let mark = format!("{MARK}\n");
        let (mut printed, mut last) = (stdout.split(&mark), "");
        for block in blocks {
            if block.info[0] == "sh" {
                last = printed.next().unwrap_or_default();
            } else {
                let is_shown = looks_like(last, &block.text);
                assert!(is_shown, "{}:{}: printed was\n{last}\n{stderr}", self.page.path, block.line);
            }
        }
    }
}

/// Whether a text is as it is shown, where `…` stands for anything within a line, and blanks for blanks.
fn looks_like(text: &str, shown: &str) -> bool {
    let lines = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let (text, shown) = (lines(text), lines(shown));
    text.len() == shown.len() && text.iter().zip(&shown).all(|(line, shown)| matches(line, shown))
}

fn matches(line: &str, shown: &str) -> bool {
    let mut parts = shown.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((end, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(end)
}
