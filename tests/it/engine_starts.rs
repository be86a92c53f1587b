//! The ways in which Bots's engine is started inside a container: all of them lead to the lease, or are refused.

use std::fs;

use crate::support::demo_translation::Demo;
use crate::support::needs::{Need, needs};
use crate::support::pods::{Amiss, System};
use crate::support::process::wrapped;
use crate::support::sandbox::{Running, Sandbox, bots_bin_dir, python};
use crate::support::servers::Engine;

const MESSAGES: usize = 12;

/// A script of a user, which goes on after the engine.
const SCRIPT: &str = "import sys
from bots import engine

sys.argv[1:] = sys.argv[1:] + ['--new']
try:
    engine.start()
except SystemExit as end:
    print('the engine ended with', end.code)
    sys.exit(end.code)
";

/// Beside an engine that is held, each of them finds the lease taken.
#[apply(test)]
fn every_way_to_start_engine_requires_lease() {
    let mut system = System::new(Engine::Sqlite);
    system.can_be_held();
    system.fill(MESSAGES);
    let mut first = system.start_held(MESSAGES / 2, &["engine", "--new"]);
    system.demo.sandbox.set("BOTS_CTL_LEASE_WAIT", "0s").set("BOTS_CTL_ENTRYPOINT", "true");
    let config = format!("-c{}", system.demo.config_dir());
    let real = bots_bin_dir().join("bots-engine").display().to_string();
    let python = python().display().to_string();
    let script = system.demo.sandbox.home.path().join("nightly.py").display().to_string();
    fs::write(&script, SCRIPT).expect("written");
    let in_shell = format!("python -m bots.engine {config} --new; exit $?");
    for words in [
        &["exec", "--", &real, &config, "--new"][..],
        &["exec", "--", "python", "-m", "bots.engine", &config, "--new"],
        &["exec", "--", &python, &real, &config],
        &["exec", "--", &python, &script, &config],
        &["exec", "--", "env", "A=1", "sh", "-c", &in_shell],
        &["exec", "--", "bots-engine.py", "--new"],
        &["exec", "--", "python2.7", "/usr/local/bin/bots-engine.py", &config, "--new"],
        &["shell", "-c", &in_shell],
        &[&real, &config],
    ] {
        let refused = system.run(words);
        assert_eq!(refused.code(), 3, "{words:?}\n{refused:?}");
        assert!(refused.stderr.contains("engine not started: "), "{words:?}\n{refused:?}");
        assert_eq!(refused.stdout.contains("the engine ended with 3"), words.contains(&&*script), "{refused:?}");
    }
    system.release();
    assert_eq!(first.wait_code(), 0, "{}", first.report());
    assert_eq!((system.collect(MESSAGES), system.recoveries()), (Amiss::default(), 0), "{}", first.report());
}

#[apply(test)]
fn engine_run_as_module_keeps_its_arguments() {
    let demo = Demo::new();
    demo.drop_in("input");
    // As seen from the place where it is started.
    let near =
        ["exec", "--", "sh", "-c", "cd \"$BOTS_CONFIG_DIR/..\" && exec python -m bots.engine -cconfig demo_orders"];
    let done = demo.sandbox.run(&near);
    assert!(done.expect_code(0).stderr.contains("the run received 3 files"), "{done:?}");
    assert!(fs::read_dir(demo.output()).expect("there").count() > 0, "{done:?}");
    demo.sandbox.run(&["exec", "--", "python", "-m", "bots.engine", "no_such_route"]).expect_code(64);
}

/// As on CIFS with its default options.
#[apply(test)]
fn engine_shim_works_on_volume_without_symlinks() {
    needs(Need::Strace);
    let demo = Demo::new();
    let link = demo.sandbox.root().join(".bots-ctl-bin/bots-engine");
    let config = format!("-c{}", demo.config_dir());
    for engine in [&["bots-engine"][..], &["python", "-m", "bots.engine"]] {
        let _ = fs::remove_file(&link);
        demo.drop_in("input");
        let words = [&["exec", "--"], engine, &[config.as_str(), "demo_orders"]].concat();
        let flags = ["-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=symlink,symlinkat"];
        let flags = [&flags[..], &["-e", "inject=symlink,symlinkat:error=EOPNOTSUPP"]].concat();
        let command = wrapped(&demo.sandbox.command(&words), "strace", &flags);
        let mut running = Running::start(command, demo.sandbox.home.path(), demo.sandbox.health_port);
        assert_eq!(running.wait_code(), 0, "{}", running.report());
        assert!(running.stderr().contains("the run received 3 files"), "{}", running.report());
        assert!(link.is_file() && !link.is_symlink());
    }
}

/// Bots would take it for another engine that runs, and end with 3 in silence.
#[apply(test)]
fn missing_engine_shim_is_reported() {
    let demo = Demo::new();
    let link = demo.sandbox.root().join(".bots-ctl-bin/bots-engine").display().to_string();
    let line = format!("rm {link}; exec python -m bots.engine");
    let failed = demo.sandbox.run(&["exec", "--", "sh", "-c", &line]);
    let said = format!("bots-ctl: cannot run the engine under its lease by {link}: No such file or directory");
    assert!(failed.expect_code(1).stderr.contains(&said), "{failed:?}");
}

#[apply(test)]
fn exec_rejects_engine_starts_that_bypass_lease() {
    let sandbox = Sandbox::new();
    let python = python().display().to_string();
    let isolated = format!("{python} -I");
    for (words, said) in [
        (&["exec", "--", &python, "-I", "-m", "bots.engine"][..], isolated.as_str()),
        (&["exec", "--", "env", "-i", &python, "-m", "bots.engine"], "env -i"),
        (&["shell", "-c", "PYTHONPATH=/x python -m bots.engine --new"], "PYTHONPATH=/x"),
    ] {
        let refused = sandbox.run(words);
        let text = format!("bots-ctl: {said}: an engine that is started in this way does not acquire the lease");
        assert!(refused.expect_code(64).stderr.starts_with(&text), "{refused:?}");
        assert!(refused.stderr.ends_with("use bots-engine or bots-ctl engine\n"), "{refused:?}");
    }
}

/// As the job queue does with its jobs, for an engine that a schedule or a person starts.
#[apply(test)]
fn run_beyond_maxruntime_is_stopped_only_if_configured() {
    let mut system = System::new(Engine::Sqlite);
    system.can_be_held();
    system.fill(MESSAGES);
    system.demo.sandbox.set_ini("settings", "maxruntime", "0");
    let mut told = system.start_held(MESSAGES / 2, &["engine", "--new"]);
    told.wait_stderr("the engine exceeded maxruntime of 0 minutes");
    system.release();
    assert_eq!(told.wait_code(), 0, "{}", told.report());
    assert!(!told.stderr().contains("stopping the engine"), "{}", told.report());

    system.demo.sandbox.set_ini("jobqueue", "killjobsintimeout", "True");
    system.demo.sandbox.set("BOTS_CTL_ENGINE_STOP_TIMEOUT", "1ms");
    let stopped = system.run(&["engine", "--new"]);
    let said = "stopping the engine, because [jobqueue] killjobsintimeout is set";
    assert!(stopped.expect_code(137).stderr.contains(said), "{stopped:?}");
}

/// Python imports one module of that name, and Debian has one, too.
#[apply(test)]
fn python_hook_keeps_other_sitecustomize() {
    let mut sandbox = Sandbox::prepared();
    let other = tempfile::tempdir().expect("made");
    fs::write(other.path().join("sitecustomize.py"), "import sys\nsys.its_own = 'seen'\n").expect("written");
    sandbox.set("PYTHONPATH", other.path().display().to_string());
    let seen = sandbox.run(&["exec", "--", "python", "-c", "import sys; print(sys.its_own)"]);
    assert_eq!(seen.expect_code(0).stdout, "seen\n", "{seen:?}");
}
