//! `plugin`: the configuration of one environment, applied to another.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::bots::is_bots_3;
use crate::support::demo_translation::Demo;
use crate::support::interruption::Interruption;
use crate::support::needs::{Need, needs};
use crate::support::process::wrapped;
use crate::support::sandbox::{Finished, Running, Sandbox, free_port, python, rounds, wait_until};
use crate::support::servers::{Database, Engine, on_each_database};

const EXPECTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/demo/expected");

on_each_database! {
    exported_plugin_gives_same_output_elsewhere,
    a_plugin_of_either_version_of_bots_gives_the_same_output,
    apply_killed_at_any_statement_keeps_old_state,
}

/// A file below a directory with its content.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn files(directory: &Path) -> Files {
    let entries = walkdir::WalkDir::new(directory).into_iter().map(|entry| entry.expect("readable"));
    let files = entries.filter(|entry| entry.file_type().is_file());
    let below = |path: &Path| path.strip_prefix(directory).expect("below").to_path_buf();
    files.map(|entry| (below(entry.path()), fs::read(entry.path()).expect("readable"))).collect()
}

/// Exports to this name in the current directory, which is the home directory.
fn export(sandbox: &Sandbox, name: &str) -> (String, Files) {
    let target = sandbox.home.path().join(name);
    sandbox.run(&["plugin", "export", name]).expect_code(0);
    (target.display().to_string(), files(&target))
}

/// What an environment has, by way of a directory that is new each time.
fn state(sandbox: &Sandbox) -> Files {
    let target = tempfile::tempdir().expect("a temporary directory");
    let shown = target.path().display().to_string();
    sandbox.run(&["plugin", "export", &shown]).expect_code(0);
    files(target.path())
}

fn apply(sandbox: &Sandbox, plugin: &str, flags: &[&str]) -> Finished {
    sandbox.run(&[&["plugin", "apply", plugin], flags].concat())
}

/// Has Bots's own Python run statements in the environment.
fn bots(demo: &Demo, statements: &str) {
    let script = demo.sandbox.home.path().join("statements.py");
    let text = format!(
        "import sys\nfrom bots import botsinit\nbotsinit.generalinit(sys.argv[1])\nfrom bots import models\n{statements}\n"
    );
    fs::write(&script, text).expect("written");
    let (python, script) = (python().display().to_string(), script.display().to_string());
    demo.sandbox.run(&["exec", "--", &python, &script, &demo.config_dir()]).expect_code(0);
}

/// Has an environment translate the orders of the demo, from its directory botssys/infile/demo.
fn translate_orders(sandbox: &Sandbox) {
    sandbox.set_engine_port();
    let input = sandbox.root().join("botssys/infile/demo");
    fs::create_dir_all(&input).expect("made");
    for message in ["single.edi", "batch.edi", "special.edi"] {
        let from = Path::new(EXPECTED).with_file_name("input").join(message);
        fs::copy(from, input.join(message)).expect("copied");
    }
    sandbox.run(&["engine"]).expect_code(0);
}

fn exported_plugin_gives_same_output_elsewhere(engine: Engine) {
    let (one, two) = (Database::fresh(Engine::Sqlite), Database::fresh(engine));
    let demo = Demo::install(one.sandbox());
    bots(&demo, "models.channel.objects.filter(idchannel='demo_out').update(secret='of development')");
    let (plugin, exported) = export(&demo.sandbox, "plugin");
    let index = String::from_utf8(exported[Path::new("botsindex.json")].clone()).expect("it is text");
    assert!(index.contains("\"path\": \"botssys/infile/demo\",\n"), "{index}");

    let other = two.sandbox();
    let checked = apply(&other, &plugin, &["--check"]);
    assert_eq!(checked.code(), 78, "there is no environment yet: {checked:?}");
    let (output, password) = (other.home.path().join("out"), other.home.path().join("password"));
    fs::write(&password, "of production").expect("written");
    let to = format!("--set=channel.demo_out.path={}", output.display());
    let flags = [to.as_str(), &format!("--set=channel.demo_out.secret_file={}", password.display())];
    let applied = apply(&other, &plugin, &flags);
    applied.expect_code(0);
    assert!(applied.stdout.contains("+ route demo_orders 1\n"), "{}", applied.stdout);
    assert!(applied.stdout.ends_with("applied: 8 added, 0 changed, 0 removed\n"), "{}", applied.stdout);
    let again = apply(&other, &plugin, &flags);
    assert_eq!((again.code(), again.stdout.as_str()), (0, "nothing to do\n"), "{again:?}");

    translate_orders(&other);
    assert_eq!(files(&output), files(Path::new(EXPECTED)));

    apply(&other, &plugin, &[]).expect_code(0);
    assert_eq!(state(&other), exported);
    assert_eq!(two.value("SELECT secret FROM channel WHERE idchannel = 'demo_out'"), "of production");
    other.run(&["plugin", "undo"]).expect_code(0);
    other.run(&["plugin", "undo"]).expect_code(0);
    let empty = state(&other);
    assert_eq!(empty.keys().collect::<Vec<_>>(), [Path::new("botsindex.json")], "{empty:?}");
    assert_eq!(other.run(&["plugin", "undo"]).code(), 1, "there is nothing left");
}

fn a_plugin_of_either_version_of_bots_gives_the_same_output(engine: Engine) {
    const PROJECT: &str = env!("CARGO_MANIFEST_DIR");
    let exported = |version| format!("{PROJECT}/tests/fixtures/plugins/export-of-bots-{version}.json");
    let rows = |index: &[u8]| serde_json::from_slice::<Value>(index).expect("it is JSON")["plugins"].take();
    let own = rows(&fs::read(exported(if is_bots_3() { 3 } else { 4 })).expect("readable"));
    for version in [3, 4] {
        let database = Database::fresh(engine);
        let sandbox = database.sandbox();
        let plugin = sandbox.home.path().join("plugin");
        for (path, content) in files(&Path::new(PROJECT).join("src/plugin/demo/usersys")) {
            let place = plugin.join("usersys").join(path);
            fs::create_dir_all(place.parent().expect("it has one")).expect("made");
            fs::write(place, content).expect("written");
        }
        fs::copy(exported(version), plugin.join("botsindex.json")).expect("copied");
        apply(&sandbox, &plugin.display().to_string(), &[]).expect_code(0);
        assert_eq!(rows(&state(&sandbox)[Path::new("botsindex.json")]), own, "of Bots {version}");
        translate_orders(&sandbox);
        let output = sandbox.root().join("botssys/outfile/demo");
        assert_eq!(files(&output), files(Path::new(EXPECTED)), "of Bots {version}");
    }
}

/// An environment, and a plugin that changes rows and files, adds and removes some.
fn two_states(database: &Database) -> (Sandbox, [String; 2], [Files; 2]) {
    let demo = Demo::install(database.sandbox());
    bots(&demo, "models.channel.objects.create(idchannel='old', inorout='in', type='file', path='/old')");
    let (one, first) = export(&demo.sandbox, "one");
    let two = demo.sandbox.home.path().join("two");
    let shown = two.display().to_string();
    demo.sandbox.run(&["plugin", "export", &shown]).expect_code(0);
    let index = two.join("botsindex.json");
    let text = fs::read_to_string(&index).expect("readable");
    let text = text.replace("\"idchannel\": \"old\"", "\"idchannel\": \"new\"").replace("EDI demo", "another");
    fs::write(&index, text).expect("written");
    let mapping = two.join("usersys/mappings/edifact/orders_d96a_to_flat.py");
    let text = fs::read_to_string(&mapping).expect("readable");
    fs::write(&mapping, text + "# another\n").expect("written");
    fs::write(two.join("usersys/mappings/edifact/added.py"), "VALUE = 1\n").expect("written");
    fs::rename(two.join("usersys/grammars/edifact/edifact.py"), two.join("usersys/grammars/edifact/moved.py"))
        .expect("moved");
    apply(&demo.sandbox, &shown, &["--prune"]).expect_code(0);
    let second = state(&demo.sandbox);
    apply(&demo.sandbox, &one, &["--prune"]).expect_code(0);
    assert_eq!(state(&demo.sandbox), first);
    (demo.sandbox, [one, shown], [first, second])
}

/// Runs the engine once, which completes or reverts an interrupted apply, and compares; then restores the first state.
fn settled(sandbox: &Sandbox, plugins: &[String; 2], states: &[Files; 2], when: &str) -> bool {
    sandbox.set_engine_port();
    let run = sandbox.run(&["engine", "--cleanup"]);
    assert_eq!(run.code(), 0, "{when}: {run:?}");
    let found = state(sandbox);
    assert!(states.contains(&found), "{when}: {found:#?}");
    let pending = sandbox.root().join("botssys/plugin-changes/pending");
    assert!(!pending.exists(), "{when}");
    apply(sandbox, &plugins[0], &["--prune"]).expect_code(0);
    found == states[1]
}

fn apply_killed_at_any_statement_keeps_old_state(engine: Engine) {
    let database = Database::fresh(engine);
    let (mut sandbox, plugins, states) = two_states(&database);
    let counting = Interruption::kill_after(&mut sandbox, 0);
    apply(&sandbox, &plugins[1], &["--prune"]).expect_code(0);
    let statements = counting.count();
    counting.remove(&mut sandbox);
    apply(&sandbox, &plugins[0], &["--prune"]).expect_code(0);
    assert!(statements > 5, "{statements}");
    let step = (statements / rounds(3)).max(1);
    for statement in (1..=statements).step_by(step) {
        let interruption = Interruption::kill_after(&mut sandbox, statement);
        let killed = apply(&sandbox, &plugins[1], &["--prune"]);
        assert_eq!(killed.code(), 137, "{killed:?}");
        interruption.remove(&mut sandbox);
        let is_new = settled(&sandbox, &plugins, &states, &format!("statement {statement} of {statements}"));
        assert!(!is_new, "nothing was committed");
    }
    let interruption = Interruption::end_python_after(&mut sandbox, statements);
    apply(&sandbox, &plugins[1], &["--prune"]).expect_code(1);
    interruption.remove(&mut sandbox);
    assert_eq!(state(&sandbox), states[0]);
}

#[apply(test)]
fn apply_renews_its_lease_while_python_writes() {
    let database = Database::fresh(Engine::Postgresql.needed());
    let (mut sandbox, plugins, _) = two_states(&database);
    let interruption = Interruption::wait_after(&mut sandbox, 2);
    let mut running = sandbox.start(&["plugin", "apply", &plugins[1], "--prune"]);
    interruption.wait_reached(&running);
    let renewed = || database.value("SELECT renewed FROM botsctl_lease WHERE name = 'engine'");
    let first = renewed();
    wait_until("the lease is renewed", || (renewed() != first).then_some(()), || running.report());
    interruption.let_go();
    assert_eq!(running.wait_code(), 0, "{}", running.report());
}

#[apply(test)]
fn apply_killed_at_any_file_call_leaves_old_or_new_state() {
    needs(Need::Strace);
    needs(Need::Time);
    let database = Database::fresh(Engine::Sqlite);
    let (sandbox, plugins, states) = two_states(&database);
    let mut seen = [0, 0];
    // Returns whether the apply was killed.
    let mut kill_at = |call: &str, number: usize, path: Option<&str>| {
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:signal=KILL:when={number}"));
        let path: Vec<String> = path
            .into_iter()
            .flat_map(|path| ["-P".to_owned(), sandbox.root().join(path).display().to_string()])
            .collect();
        let flags = ["-f", "-e", &trace, "-e", &inject, "-o", "/dev/null"];
        let flags: Vec<&str> = flags.into_iter().chain(path.iter().map(String::as_str)).collect();
        let command = wrapped(&sandbox.command(&["plugin", "apply", &plugins[1], "--prune"]), "strace", &flags);
        let mut running = Running::start(command, sandbox.home.path(), sandbox.health_port);
        if running.wait_code() == 0 {
            apply(&sandbox, &plugins[0], &["--prune"]).expect_code(0);
            return false;
        }
        let is_new = settled(&sandbox, &plugins, &states, &format!("{call} {number} {path:?}"));
        seen[usize::from(is_new)] += 1;
        true
    };
    for (call, most) in [("rename", 40), ("unlink", 40)] {
        for number in 1.. {
            assert!(number < most, "there are fewer calls of {call} than that");
            if !kill_at(call, number, None) {
                break;
            }
        }
    }
    // strace counts the calls of each thread, and those after the commit may be of another one.
    for (call, path) in [
        ("openat", "botssys/plugin-changes/pending/1-after"),
        ("openat", "botssys/plugin-changes/pending/2-after"),
        ("openat", "botssys/plugin-changes/pending/3-after"),
        ("unlink", "usersys/grammars/edifact/edifact.py"),
    ] {
        assert!(kill_at(call, 1, Some(path)), "{call} {path}");
    }
    assert!(seen[0] > 0 && seen[1] > 3, "both were seen: {seen:?}");
}

#[apply(test)]
fn export_log_and_diff_contain_no_password() {
    let demo = Demo::new();
    bots(&demo, "models.channel.objects.filter(idchannel='demo_in').update(secret='open sesame', username='me')");
    let (plugin, exported) = export(&demo.sandbox, "plugin");
    let index = String::from_utf8(exported[Path::new("botsindex.json")].clone()).expect("it is text");
    assert!(index.contains("\"secret\": \"${channel.demo_in.secret}\"") && !index.contains("sesame"), "{index}");
    assert_eq!(apply(&demo.sandbox, &plugin, &[]).stdout, "nothing to do\n");

    let mut other = Sandbox::prepared();
    other.set("LOG_LEVEL", "trace");
    let refused = apply(&other, &plugin, &[]);
    refused.expect_code(78);
    assert!(refused.stderr.contains("channel demo_in: its secret has no value: "), "{refused:?}");
    let open = apply(&other, &plugin, &["--set=channel.demo_in.secret=sesame"]);
    open.expect_code(64);
    assert!(!open.stderr.contains("sesame") && open.stderr.contains("secret_file"), "{open:?}");

    let place = |name: &str| other.home.path().join(name);
    fs::write(place("password"), "open sesame\n").expect("written");
    let values = place("values.toml");
    fs::write(&values, "[channel.demo_in]\nsecret_file = \"password\"\nhost = \"partner.example\"\n").expect("written");
    let values = values.display().to_string();
    let applied = apply(&other, &plugin, &["--values", &values]);
    applied.expect_code(0);
    assert!(!format!("{applied:?}").contains("sesame"), "{applied:?}");
    let again = apply(&other, &plugin, &["--values", &values]);
    assert_eq!((again.code(), again.stdout.as_str()), (0, "nothing to do\n"), "{again:?}");
    let without = apply(&other, &plugin, &["--check"]);
    assert!(
        without.stdout.contains("host: \"partner.example\" -> \"\"") && !without.stdout.contains("secret"),
        "{without:?}"
    );
    fs::write(place("password"), "open barley\n").expect("written");
    let changed = apply(&other, &plugin, &["--values", &values, "--json"]);
    changed.expect_code(0);
    assert!(changed.stdout.contains("(hidden)"), "{changed:?}");
    assert!(!format!("{changed:?}").contains("barley"), "{changed:?}");
}

#[apply(test)]
fn names_in_a_difference_do_not_control_the_terminal() {
    let sandbox = Sandbox::prepared();
    let plugin = sandbox.home.path().join("plugin");
    fs::create_dir_all(&plugin).expect("made");
    let row = json!({ "plugintype": "channel", "idchannel": "a\u{1b}[2J", "inorout": "in", "type": "file" });
    let index = json!({ "plugins": { "channel": [row] } });
    fs::write(plugin.join("botsindex.json"), index.to_string()).expect("written");
    let shown = apply(&sandbox, &plugin.display().to_string(), &["--check"]);
    shown.expect_code(1);
    assert!(shown.stdout.starts_with("+ channel a") && !shown.stdout.contains('\u{1b}'), "{shown:?}");
}

#[apply(test)]
fn plugin_error_names_location_and_nothing_is_written() {
    let demo = Demo::new();
    let (plugin, before) = export(&demo.sandbox, "plugin");
    let directory = PathBuf::from(&plugin);
    let broken = |name: &str, from: &str, to: &str| {
        let path = directory.join(name);
        let text = fs::read_to_string(&path).expect("readable");
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replace(from, to)).expect("written");
        text
    };
    let mapping = "usersys/mappings/edifact/orders_d96a_to_flat.py";
    let grammar = "usersys/grammars/edifact/ORDERSD96AUN.py";
    let cases = [
        (mapping, "import re\n", "import re\nprint 'x'\n", format!("{mapping}:4: ")),
        (grammar, "{ID: 'BGM', MIN: 1", "{ID: 'XYZ', MIN: 1", format!("{grammar}: ")),
        (grammar, "structure = [", "import nowhere\nstructure = [", format!("{grammar}:")),
        (
            "botsindex.json",
            "\"fromchannel\": \"demo_in\"",
            "\"fromchannel\": \"gone\"",
            "there is no channel gone".into(),
        ),
        ("botsindex.json", "\"remove\": true", "\"remove\": \"perhaps\"", "remove: expected true or false".into()),
    ];
    for (file, from, to, fault) in cases {
        let text = broken(file, from, to);
        for flags in [&["--check"][..], &[]] {
            let refused = apply(&demo.sandbox, &plugin, flags);
            refused.expect_code(78);
            assert!(refused.stderr.contains(&fault), "{fault}: {refused:?}");
            assert!(!refused.stderr.contains("bots-ctl-check"), "no path of the copy: {refused:?}");
        }
        fs::write(directory.join(file), text).expect("written");
        assert_eq!(state(&demo.sandbox), before, "{fault}");
    }
    for (value, code, fault) in [
        ("channel.gone.path=/x", 78, "--set channel.gone.path: the plugin has no channel gone"),
        ("channel.demo_in.paths=/x", 78, "--set channel.demo_in.paths: a channel has no field paths"),
        ("translation.x.y=1", 64, "--set translation.x.y: expected channel, partner or route"),
        ("path=/x", 64, "--set path: expected channel.NAME.FIELD=VALUE"),
        ("channel.demo_in.port=many", 78, "--set channel.demo_in.port: expected a whole number"),
    ] {
        let refused = apply(&demo.sandbox, &plugin, &["--set", value]);
        refused.expect_code(code);
        assert!(refused.stderr.contains(fault), "{refused:?}");
    }
}

/// Prints whether the error of a statement lets a repetition succeed. Another connection locks the file of SQLite.
const UNAVAILABLE: &str = "
import json, sqlite3
from django.conf import settings
database, statement = json.loads(sys.argv[1]), sys.argv[2]
settings.configure(DATABASES={'default': database})
from django.db import connection
if statement.startswith('CREATE'):
    other = sqlite3.connect(database['NAME'], isolation_level=None)
    other.execute('BEGIN EXCLUSIVE')
try:
    connection.cursor().execute(statement)
except Exception as error:
    print(is_unavailable(error))
";

/// A mounted plugin is applied again after an error of the first kind, and rejected after one of the second.
#[apply(test)]
fn unreachable_database_differs_from_wrong_statement() {
    // For the drivers of both.
    let _ = [Engine::Mariadb, Engine::Postgresql].map(Engine::needed);
    let script = format!("{}{UNAVAILABLE}", include_str!("../../src/bots/python/facts.py"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("db");
    let sqlite = json!({ "ENGINE": "django.db.backends.sqlite3", "NAME": file, "OPTIONS": { "timeout": 0 } });
    let [mysql, postgresql] = ["mysql", "postgresql"].map(|engine| {
        let engine = format!("django.db.backends.{engine}");
        json!({ "ENGINE": engine, "NAME": "bots", "HOST": "127.0.0.1", "PORT": free_port().to_string() })
    });
    for (database, statement, expected) in [
        (&sqlite, "SELECT a FROM missing", "False"),
        (&sqlite, "SELEC", "False"),
        (&sqlite, "CREATE TABLE a (b int)", "True"),
        (&mysql, "SELECT 1", "True"),
        (&postgresql, "SELECT 1", "True"),
    ] {
        let mut python = Command::new(python());
        let run = python.args(["-c", &script, &database.to_string(), statement]).output().expect("run");
        let found = String::from_utf8_lossy(&run.stdout).trim().to_owned();
        assert_eq!(found, expected, "{database} {statement}: {}", String::from_utf8_lossy(&run.stderr));
    }
}

#[apply(test)]
fn python_index_without_plain_data_is_rejected() {
    let demo = Demo::new();
    let plugin = demo.sandbox.home.path().join("foreign");
    fs::create_dir(&plugin).expect("made");
    let deep = format!("{}{}", "[".repeat(150), "]".repeat(150));
    for (value, fault) in [
        ("1e999", "its list `plugins` is not plain data"),
        ("'\\ud800'", "its list `plugins` is not plain data"),
        ("print()", "its list `plugins` is not plain data"),
        (&deep, "cannot parse the reply of Python: recursion limit exceeded"),
    ] {
        fs::write(plugin.join("botsindex.py"), format!("plugins = [{{'plugintype': {value}}}]\n")).expect("written");
        let refused = apply(&demo.sandbox, &plugin.display().to_string(), &[]);
        assert!(refused.code() != 0 && refused.stderr.contains(fault), "{value}: {refused:?}");
    }
}

#[apply(test)]
fn apply_flags_decide_which_routes_are_active() {
    let demo = Demo::new();
    let (plugin, _) = export(&demo.sandbox, "plugin");
    let is_active = |sandbox: &Sandbox| {
        let index = state(sandbox)[Path::new("botsindex.json")].clone();
        let index: Value = serde_json::from_slice(&index).expect("it is JSON");
        index["plugins"]["routes"][0]["active"].as_bool().expect("it is there")
    };
    let other = Sandbox::prepared();
    apply(&other, &plugin, &["--keep-active"]).expect_code(0);
    assert!(!is_active(&other), "a new one is not");
    apply(&other, &plugin, &["--activate"]).expect_code(0);
    assert!(is_active(&other));
    apply(&other, &plugin, &["--set=route.demo_orders.active=false"]).expect_code(0);
    assert!(!is_active(&other));
    assert_eq!(apply(&other, &plugin, &["--keep-active"]).stdout, "nothing to do\n");
    let differs = apply(&other, &plugin, &["--check", "--json"]);
    differs.expect_code(1);
    let differs: Value = serde_json::from_str(&differs.stdout).expect("it is JSON");
    assert_eq!(differs["status"], "differs");
    assert_eq!(differs["rows"][0]["fields"]["active"], serde_json::json!({ "before": false, "after": true }));
    apply(&other, &plugin, &[]).expect_code(0);
    assert!(is_active(&other), "as in the plugin");
}

/// Bots writes times, empty groups and its own order.
#[apply(test)]
fn plugin_written_by_bots_applies_without_differences() {
    let demo = Demo::new();
    let place = demo.sandbox.home.path().join("own.zip");
    let make = format!(
        "import logging, datetime
from bots import botsglobal, pluglib
botsglobal.logger = logging.getLogger('bots')
group = models.partnergroep(idpartner='group', name='group', isgroup=True)
group.save()
member = models.partner(idpartner='member', name='Ünï', startdate=datetime.date(2026, 1, 31), active=True)
member.save()
member.group.add(group)
models.ccodetrigger.objects.create(ccodeid='units')
models.ccode.objects.create(ccodeid_id='units', leftcode='KGM', rightcode='kg')
models.confirmrule.objects.create(confirmtype='send-edifact-CONTRL', ruletype='all')
what = dict.fromkeys(['databaseconfiguration', 'umlists', 'fileconfiguration'], True)
what.update(dict.fromkeys(['infiles', 'charset', 'databasetransactions', 'data', 'logfiles', 'config', 'database'], False))
pluglib.make_plugin(what, {:?})",
        place.display().to_string()
    );
    bots(&demo, &make);
    let plugin = place.display().to_string();
    let same = apply(&demo.sandbox, &plugin, &["--check"]);
    assert_eq!((same.code(), same.stdout.as_str()), (0, "nothing to do\n"), "{same:?}");
    let other = Sandbox::prepared();
    apply(&other, &plugin, &[]).expect_code(0);
    assert_eq!(state(&other), state(&demo.sandbox));
    let archive = other.home.path().join("ours.zip").display().to_string();
    other.run(&["plugin", "export", &archive]).expect_code(0);
    let first = fs::read(&archive).expect("readable");
    other.run(&["plugin", "export", &archive]).expect_code(0);
    assert_eq!(fs::read(&archive).expect("readable"), first, "the same bytes");
    assert_eq!(apply(&demo.sandbox, &archive, &["--prune"]).stdout, "nothing to do\n");
}

#[apply(test)]
fn plugin_replaces_files_that_bots_ships() {
    let sandbox = Sandbox::prepared();
    let (plugin, _) = export(&sandbox, "plugin");
    let usersys = sandbox.root().join("usersys");
    let is_shipped =
        |path: &PathBuf| path.extension().is_none_or(|extension| extension != "pyc") && path.components().count() > 1;
    let shipped = files(&usersys).into_iter().find(|(path, content)| is_shipped(path) && !content.is_empty());
    let replaced = [shipped.expect("Bots ships a file").0, PathBuf::from("routescripts/__init__.py")];
    for path in &replaced {
        assert!(usersys.join(path).exists(), "{}", path.display());
        let path = Path::new(&plugin).join("usersys").join(path);
        fs::create_dir_all(path.parent().expect("it has one")).expect("made");
        fs::write(path, "# of the plugin\n").expect("written");
    }
    let applied = apply(&sandbox, &plugin, &[]);
    applied.expect_code(0);
    for path in &replaced {
        assert!(applied.stdout.contains(&format!("~ file usersys/{}\n", path.display())), "{applied:?}");
        assert_eq!(fs::read_to_string(usersys.join(path)).expect("readable"), "# of the plugin\n");
    }
    assert_eq!(apply(&sandbox, &plugin, &[]).stdout, "nothing to do\n");
}

#[apply(test)]
fn commands_that_only_read_warn_of_an_interrupted_change() {
    let sandbox = Sandbox::prepared();
    let (plugin, _) = export(&sandbox, "plugin");
    let pending = sandbox.root().join("botssys/plugin-changes/pending");
    fs::create_dir_all(&pending).expect("made");
    fs::write(pending.join("change.json"), r#"{ "id": "x", "undoes": null, "rows": [], "files": [] }"#)
        .expect("written");
    for command in [&["plugin", "export", &plugin][..], &["plugin", "apply", "--check", &plugin]] {
        let read = sandbox.run(command);
        read.expect_code(0);
        assert!(read.stderr.contains("an earlier change of the configuration was interrupted: "), "{read:?}");
    }
}

#[apply(test)]
fn export_keeps_other_files_and_rejects_foreign_directory() {
    let demo = Demo::new();
    let target = demo.sandbox.home.path().join("git");
    fs::create_dir_all(target.join("docs")).expect("made");
    fs::write(target.join("README.md"), "mine").expect("written");
    let shown = target.display().to_string();
    let route = ["plugin", "export", "--route", "demo_orders", &shown];
    demo.sandbox.run(&route).expect_code(0);
    let first = files(&target);
    fs::write(target.join("usersys/mappings/edifact/stale.py"), "").expect("written");
    demo.sandbox.run(&route).expect_code(0);
    assert_eq!(files(&target), first);
    assert!(first.contains_key(Path::new("README.md")) && target.join("docs").exists());
    fs::remove_file(target.join("botsindex.json")).expect("removed");
    let refused = demo.sandbox.run(&route);
    refused.expect_code(78);
    assert!(refused.stderr.contains("were not written by an export"), "{refused:?}");
    let root = demo.sandbox.root().display().to_string();
    demo.sandbox.run(&["plugin", "export", &root]).expect_code(64);
    let unknown = demo.sandbox.run(&["plugin", "export", "--route", "gone", &shown]);
    unknown.expect_code(78);
    assert!(unknown.stderr.contains("there is no route gone"), "{unknown:?}");
}

/// A run of a route that waits in its script until the file is removed.
fn start_waiting_engine(demo: &Demo) -> (Running, PathBuf) {
    let lock = demo.sandbox.home.path().join("wait");
    let script = demo.sandbox.root().join("usersys/routescripts/demo_orders.py");
    fs::create_dir_all(script.parent().expect("it has one")).expect("made");
    let text = format!(
        "import os, time\ndef start(**_):\n    open({0:?}, 'w').close()\n    while os.path.exists({0:?}): time.sleep(0.02)\n",
        lock.display().to_string()
    );
    fs::write(&script, text).expect("written");
    let running = demo.sandbox.start(&["engine", "demo_orders"]);
    wait_until("the route runs", || lock.exists().then_some(()), || running.report());
    fs::remove_file(&script).expect("removed");
    (running, lock)
}

#[apply(test)]
fn apply_changes_nothing_while_engine_runs() {
    let demo = Demo::new();
    let (plugin, before) = export(&demo.sandbox, "plugin");
    bots(&demo, "models.channel.objects.filter(idchannel='demo_in').update(filename='*')");
    let changed = state(&demo.sandbox);
    let (mut running, lock) = start_waiting_engine(&demo);
    let mut command = demo.sandbox.command(&["plugin", "apply", &plugin]);
    command.env("BOTS_CTL_LEASE_WAIT", "0s");
    let mut busy = Running::start(command, demo.sandbox.home.path(), demo.sandbox.health_port);
    assert_eq!(busy.wait_code(), 69, "{}", busy.report());
    assert!(busy.stderr().contains("nothing was changed: "), "{}", busy.report());
    fs::remove_file(&lock).expect("removed");
    assert_eq!(running.wait_code(), 0, "{}", running.report());
    assert_eq!(state(&demo.sandbox), changed);
    apply(&demo.sandbox, &plugin, &[]).expect_code(0);
    assert_eq!(state(&demo.sandbox), before);
}

#[apply(test)]
fn apply_that_another_one_has_overtaken_can_be_repeated() {
    let demo = Demo::new();
    let (plugin, before) = export(&demo.sandbox, "plugin");
    bots(&demo, "models.channel.objects.filter(idchannel='demo_in').update(filename='*')");
    let (mut running, lock) = start_waiting_engine(&demo);
    let mut applies = [(), ()].map(|()| {
        let mut command = demo.sandbox.command(&["plugin", "apply", &plugin]);
        command.env("BOTS_CTL_LEASE_WAIT", "5m");
        Running::start(command, demo.sandbox.home.path(), demo.sandbox.health_port)
    });
    for waiting in &applies {
        let is_waiting = || waiting.stderr().contains("engine lease is held by ").then_some(());
        wait_until("the plan is made", is_waiting, || waiting.report());
    }
    fs::remove_file(&lock).expect("removed");
    assert_eq!(running.wait_code(), 0, "{}", running.report());
    let mut codes = applies.each_mut().map(Running::wait_code);
    codes.sort_unstable();
    assert_eq!(codes, [0, 69], "{} {}", applies[0].report(), applies[1].report());
    assert!(applies.iter().any(|apply| apply.stderr().contains("has changed in the meantime: run the command again")));
    assert_eq!(apply(&demo.sandbox, &plugin, &[]).stdout, "nothing to do\n");
    assert_eq!(state(&demo.sandbox), before);
}

#[apply(test)]
fn demo_translates_its_order_and_is_removed_completely() {
    let sandbox = Sandbox::prepared();
    let before = state(&sandbox);
    for _ in 0..2 {
        let shown = sandbox.run(&["demo"]);
        shown.expect_code(0);
        assert!(shown.stdout.contains("translate it with `bots-ctl engine demo_orders`"), "{shown:?}");
    }
    sandbox.run(&["engine", "demo_orders"]).expect_code(0);
    let name = Path::new("PO-1001.txt");
    let expected = fs::read(Path::new(EXPECTED).join(name)).expect("readable");
    assert_eq!(files(&sandbox.root().join("botssys/demo/out")), Files::from([(name.into(), expected)]));
    sandbox.run(&["demo", "--remove"]).expect_code(0);
    assert_eq!(state(&sandbox), before);
    assert_eq!(sandbox.run(&["demo", "--remove"]).stdout, "nothing to do\n");
}

#[apply(test)]
fn demo_replaces_no_user_files() {
    let sandbox = Sandbox::prepared();
    let envelope = sandbox.root().join("usersys/grammars/edifact/edifact.py");
    fs::write(&envelope, "structure = []\n").expect("written");
    let refused = sandbox.run(&["demo"]);
    refused.expect_code(78);
    assert!(refused.stderr.contains("usersys/grammars/edifact/edifact.py: it already exists"), "{refused:?}");
    fs::remove_file(&envelope).expect("removed");
    sandbox.run(&["demo"]).expect_code(0);
    fs::write(&envelope, "# mine\n").expect("written");
    sandbox.run(&["demo", "--remove"]).expect_code(0);
    assert_eq!(fs::read_to_string(&envelope).expect("it stays"), "# mine\n");
}

/// A plugin with two tests, and the expected file of the first.
fn plugin_with_tests() -> (Demo, String, PathBuf) {
    let source = Demo::new();
    bots(
        &source,
        "models.channel.objects.filter(idchannel='demo_out').update(type='sftp', host='partner.example', secret='x')",
    );
    let (plugin, _) = export(&source.sandbox, "plugin");
    let fixture = Path::new(EXPECTED).parent().expect("it has one");
    let tests = Path::new(&plugin).join("tests");
    let copy = |from: &str, to: &str| {
        let to = tests.join(to);
        fs::create_dir_all(to.parent().expect("it has one")).expect("made");
        fs::copy(fixture.join(from), &to).expect("copied");
        to
    };
    copy("input/single.edi", "one/in/demo_in/order.edi");
    let expected = copy("expected/PO-1001.txt", "one/out/demo_out/PO-1001.txt");
    copy("bad/segment-count.edi", "refused/in/demo_in/bad.edi");
    fs::write(tests.join("refused/expected.toml"), "errors = 1\n").expect("written");
    (source, plugin, expected)
}

#[apply(test)]
fn plugin_test_runs_in_temporary_environment() {
    let sandbox = Sandbox::new();
    let (_source, plugin, expected) = plugin_with_tests();
    let report = sandbox.home.path().join("report.xml");
    let command = ["plugin", "test", &plugin, "--junit", &report.display().to_string()].map(str::to_owned);
    let test = || sandbox.run(&command.each_ref().map(String::as_str));
    let passed = test();
    passed.expect_code(0);
    assert_eq!(passed.stdout, "one: ok\nrefused: ok\n");
    assert!(!sandbox.root().exists(), "nothing is left");

    let text = fs::read_to_string(&expected).expect("readable");
    fs::write(&expected, text.replace("MILL LANE 4", "MILL LANE 5")).expect("written");
    fs::remove_file(Path::new(&plugin).join("tests/refused/expected.toml")).expect("removed");
    let failed = test();
    failed.expect_code(1);
    assert!(failed.stdout.contains("    demo_out/PO-1001.txt:2: expected \"PTYBY "), "{failed:?}");
    assert!(failed.stdout.contains("refused: FAILED\n    1 file failed, 0 expected\n      bad.edi: "), "{failed:?}");
    let report = fs::read_to_string(&report).expect("it is written");
    assert!(report.contains("tests=\"2\" failures=\"2\""), "{report}");
}

#[apply(test)]
fn plugin_test_deletes_no_directory_that_a_channel_is_named_after() {
    let (_source, plugin, _) = plugin_with_tests();
    let kept = tempfile::Builder::new().rand_bytes(3).tempdir().expect("a temporary directory");
    let file = kept.path().join("file");
    fs::write(&file, "kept").expect("written");
    let index = Path::new(&plugin).join("botsindex.json");
    let mut rows: Value = serde_json::from_slice(&fs::read(&index).expect("readable")).expect("it is JSON");
    let channels = rows["plugins"]["channel"].as_array_mut().expect("a list");
    // One leads there from the root, the other from the parent of any temporary directory.
    let below = format!("../../{}", kept.path().file_name().expect("it has one").display());
    for name in [kept.path().display().to_string(), below] {
        channels.push(json!({ "plugintype": "channel", "idchannel": name, "inorout": "out", "type": "file" }));
    }
    fs::write(&index, rows.to_string()).expect("written");
    let sandbox = Sandbox::new();
    let passed = sandbox.run(&["plugin", "test", &plugin]);
    assert_eq!(fs::read_to_string(&file).ok().as_deref(), Some("kept"), "{passed:?}");
    passed.expect_code(0);
    assert_eq!(passed.stdout, "one: ok\nrefused: ok\n");
}

#[apply(test)]
fn an_apply_with_tests_changes_nothing_if_one_fails() {
    let (source, plugin, expected) = plugin_with_tests();
    let archive = format!("{plugin}.zip");
    let pack = "import shutil, sys; shutil.make_archive(sys.argv[1], 'zip', sys.argv[1])";
    let python = python().display().to_string();
    source.sandbox.run(&["exec", "--", &python, "-c", pack, &plugin]).expect_code(0);
    let other = Sandbox::prepared();
    let password = other.home.path().join("password");
    fs::write(&password, "x").expect("written");
    let to = format!("--set=channel.demo_out.secret_file={}", password.display());
    let text = fs::read_to_string(&expected).expect("readable");
    fs::write(&expected, text.replace("MILL LANE 4", "MILL LANE 5")).expect("written");
    apply(&other, &plugin, &[&to, "--set=channel.demo_out.path=/out"]).expect_code(0);
    let before = state(&other);
    for flags in [&["--test"][..], &["--test", "--check"]] {
        let refused = apply(&other, &plugin, &[&[to.as_str()], flags].concat());
        refused.expect_code(78);
        let difference = "bots-ctl: tests/one: demo_out/PO-1001.txt:2: expected \"PTYBY ";
        assert!(refused.stderr.contains(difference), "{refused:?}");
        assert!(!refused.stderr.contains("tests/refused"), "{refused:?}");
    }
    assert_eq!(state(&other), before);
    let applied = apply(&other, &archive, &[&to, "--test"]);
    applied.expect_code(0);
    assert!(applied.stdout.ends_with("applied: 0 added, 1 changed, 0 removed\n"), "{applied:?}");
    fs::remove_dir_all(Path::new(&plugin).join("tests")).expect("removed");
    let without = apply(&other, &plugin, &[&to, "--test", "--set=channel.demo_out.path=/out"]);
    without.expect_code(78);
    assert!(without.stderr.contains("there is no test: "), "{without:?}");
}

#[apply(test)]
fn mounted_plugin_is_applied_at_start_and_on_change() {
    let demo = Demo::new();
    let mut sandbox = Sandbox::prepared();
    let volume = GitSync::new(sandbox.home.path());
    let export = |text: &str| {
        bots(&demo, &format!("models.channel.objects.update(desc={text:?})"));
        demo.sandbox.run(&["plugin", "export", &volume.plugin().display().to_string()]).expect_code(0);
    };
    export("first");
    volume.share("usersys/grammars/edifact/edifact.py");
    volume.publish();
    let values = sandbox.home.path().join("values.toml");
    fs::write(&values, "[channel.demo_in]\nfilename = \"*.edifact\"\n").expect("written");
    sandbox.set("BOTS_CTL_PLUGIN_SOURCE", volume.source().display().to_string());
    sandbox.set("BOTS_CTL_PLUGIN_VALUES", values.display().to_string());
    let running = sandbox.webserver();
    let index = || String::from_utf8(state(&sandbox)[Path::new("botsindex.json")].clone()).expect("it is text");
    let has = |text: &str| index().contains(text).then_some(());
    let is_success = || {
        let metrics = running.health("/metrics").expect("it responds").body;
        metrics.lines().find_map(|line| line.strip_prefix("botsctl_plugin_source_success ")).map(|value| value == "1")
    };
    wait_until("it is applied", || has("first"), || running.report());
    assert!(index().contains("\"filename\": \"*.edifact\""), "{}", index());
    wait_until("the metric is 1", || (is_success() == Some(true)).then_some(()), || running.report());

    let mapping = "usersys/mappings/edifact/orders_d96a_to_flat.py";
    let text = fs::read_to_string(volume.plugin().join(mapping)).expect("readable");
    fs::write(volume.plugin().join(mapping), "def main(:\n").expect("written");
    volume.publish();
    let is_rejected = || {
        let status = sandbox.run(&["status", "--check"]);
        status.stdout.contains(&format!("plugin rejected: {mapping}:1: ")).then_some(())
    };
    wait_until("it is rejected", is_rejected, || running.report());
    assert_eq!(is_success(), Some(false));
    assert!(index().contains("first"), "nothing was changed: {}", index());
    assert_eq!(fs::read_to_string(sandbox.root().join(mapping)).expect("readable"), text, "nor this");

    export("second");
    volume.publish();
    wait_until("the next one is applied", || has("second"), || running.report());
    wait_until("the metric is 1 again", || (is_success() == Some(true)).then_some(()), || running.report());
    assert!(is_rejected().is_none(), "the status does not show it any more");
}

#[apply(test)]
fn a_stop_completes_a_started_apply_of_a_mounted_plugin() {
    let database = Database::fresh(Engine::Sqlite);
    let (mut sandbox, plugins, states) = two_states(&database);
    sandbox.set("BOTS_CTL_PLUGIN_SOURCE", &plugins[1]);
    let counting = Interruption::kill_after(&mut sandbox, 0);
    apply(&sandbox, &plugins[1], &[]).expect_code(0);
    let statements = counting.count();
    counting.remove(&mut sandbox);
    let after = state(&sandbox);
    apply(&sandbox, &plugins[0], &["--prune"]).expect_code(0);
    assert_eq!(state(&sandbox), states[0]);
    // The rows are written, but not committed.
    let interruption = Interruption::wait_after(&mut sandbox, statements);
    let mut running = sandbox.webserver();
    interruption.wait_reached(&running);
    running.signal(Signal::SIGTERM);
    let has_ended = || running.stderr().contains("webserver exited").then_some(());
    wait_until("the web UI has ended", has_ended, || running.report());
    interruption.let_go();
    assert_eq!(running.wait_code(), 0, "{}", running.report());
    interruption.remove(&mut sandbox);
    assert_eq!(state(&sandbox), after);
}

/// A volume as git-sync leaves it: a repository, a working tree for the current commit, and a link to that. The plugin is
/// a directory of the repository.
struct GitSync {
    root: PathBuf,
}

impl GitSync {
    fn new(parent: &Path) -> Self {
        let volume = Self { root: parent.join("git-sync") };
        fs::create_dir_all(volume.repository()).expect("made");
        volume.git(&["init", "--quiet"]);
        volume
    }

    fn repository(&self) -> PathBuf {
        self.root.join("repository")
    }

    /// The plugin before it is committed.
    fn plugin(&self) -> PathBuf {
        self.repository().join("translations")
    }

    /// The plugin behind the link.
    fn source(&self) -> PathBuf {
        self.root.join("current/translations")
    }

    /// Moves a file of the plugin to another directory of the repository, and links to it.
    fn share(&self, file: &str) {
        let shared = self.repository().join("shared.py");
        fs::rename(self.plugin().join(file), shared).expect("moved");
        let up = "../".repeat(file.matches('/').count() + 1);
        std::os::unix::fs::symlink(format!("{up}shared.py"), self.plugin().join(file)).expect("linked");
    }

    /// Commits everything, and replaces the link and the working tree.
    fn publish(&self) {
        self.git(&["add", "--all"]);
        self.git(&["-c", "user.name=me", "-c", "user.email=me@example.com", "commit", "--quiet", "-m", "a change"]);
        let commit = self.git(&["rev-parse", "HEAD"]);
        let tree = format!("worktrees/{commit}");
        self.git(&["worktree", "add", "--quiet", "--detach", &format!("../{tree}"), "HEAD"]);
        let (link, next) = (self.root.join("current"), self.root.join("next"));
        let former = fs::read_link(&link).ok();
        std::os::unix::fs::symlink(tree, &next).expect("linked");
        fs::rename(next, link).expect("renamed");
        if let Some(former) = former {
            self.git(&["worktree", "remove", "--force", &self.root.join(former).display().to_string()]);
        }
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.args(arguments).current_dir(self.repository()).env("GIT_CONFIG_GLOBAL", "/dev/null");
        let output = git.output().expect("git is there");
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}
