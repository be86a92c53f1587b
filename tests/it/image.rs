//! The image of the real Dockerfile, run as strictly as a cluster may run it.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::support::browser::Browser;
use crate::support::podman::{Container, IMAGE, Network, Volume, build, expect, image, make_bases, run};
use crate::support::sandbox::wait_until;

/// Only mounted volumes are writable, and the container has only the permissions of an ordinary user.
const STRICT: [&str; 4] =
    ["--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges"];

/// The largest that the image may be.
const SIZE: u64 = 260_000_000;

/// A volume for HOME, and the ConfigMap of the manifests with a watched directory.
struct Mounts {
    home: Volume,
    config: TempDir,
}

impl Mounts {
    fn new() -> Self {
        let config = tempfile::tempdir().expect("a temporary directory");
        let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("k3s/base/config");
        fs::copy(files.join("settings.py"), config.path().join("settings.py")).expect("copied");
        let ini = fs::read_to_string(files.join("bots.ini")).expect("readable");
        let watched = "[dirmonitor1]\npath = /home/bots/.bots/env/default/botssys/infile\nfilemask = *\nroute = none\n";
        fs::write(config.path().join("bots.ini"), format!("{ini}\n{watched}")).expect("written");
        open_to_all(config.path());
        Self { home: Volume::new(), config }
    }

    fn options(&self) -> Vec<String> {
        let home = format!("{}:/home/bots", self.home.name);
        let config = format!("{}:/config:ro", self.config.path().display());
        STRICT.iter().map(|option| (*option).to_owned()).chain(["-v".into(), home, "-v".into(), config]).collect()
    }

    fn start(&self, network: &Network, command: &[&str]) -> Container {
        let options = self.options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        Container::start(Some(network), &[&options, [image()].as_slice(), command].concat())
    }

    /// Runs a command; returns its exit code and output.
    fn run(&self, command: &[&str]) -> (i32, String) {
        let options = self.options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let output = run(&[&["run", "--rm", "--network", "none"], &options[..], &[image()], command].concat());
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code().expect("podman ends by itself"), text)
    }
}

fn open_to_all(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("ours");
}

/// Files outside of the volumes that differ from the image. Podman itself touches /etc and the mount points.
fn written(container: &Container) -> Vec<String> {
    let changes = expect(&["diff", &container.name]);
    let own = ["/etc", "/run", "/dev", "/proc", "/sys", "/config", "/home", "/home/bots"];
    let path = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    changes
        .lines()
        .filter_map(path)
        .filter(|path| !own.contains(&path.as_str()) && !path.starts_with("/run/"))
        .collect()
}

#[apply(test)]
fn services_need_only_a_writable_home() {
    let (mounts, network) = (Mounts::new(), Network::new());
    let (code, said) = mounts.run(&["init-db"]);
    assert_eq!(code, 0, "{said}");
    let (made, said) = mounts.run(&["exec", "--", "mkdir", "-p", "/home/bots/.bots/env/default/botssys/infile"]);
    assert_eq!(made, 0, "{said}");
    for service in ["webserver", "jobqueue", "dirmonitor", "up"] {
        let container = mounts.start(&network, &[service]);
        container.wait_healthy();
        // One that does not stop by then is killed, and its code is 137.
        assert_eq!(container.stop(30), 0, "{service}: {}", container.logs());
        assert_eq!(written(&container), [""; 0], "{service}");
    }
}

#[apply(test)]
fn container_returns_exit_codes_of_commands() {
    let mounts = Mounts::new();
    for (command, code) in [
        (["init-db"].as_slice(), 0),
        (&["engine", "--new"], 0),
        (&["engine", "no_such_route"], 64),
        (&["no-such-program"], 127),
        (&["exec", "--", "sh", "-c", "exit 7"], 7),
        (&["healthcheck"], 2),
        (&["config", "show"], 0),
        // The route of the watched directory does not exist.
        (&["config", "check"], 78),
    ] {
        let (ended, said) = mounts.run(command);
        assert_eq!(ended, code, "{command:?}: {said}");
    }
}

/// Of the tests' own network: a response on its way when a pod is removed would be lost for a minute, as if by bots-ctl.
#[apply(test)]
fn bridge_keeps_address_of_removed_container() {
    let network = Network::new();
    let address = || fs::read_to_string(network.bridge().join("address")).expect("there is a bridge");
    let start = || Container::start(Some(&network), &[image(), "exec", "sleep", "600"]);
    let first = start();
    let before = address();
    let _second = start();
    drop(first);
    assert_eq!(address(), before);
}

/// Shells are replaced with an empty file: a caller would fail.
#[apply(test)]
fn web_ui_runs_without_shell() {
    let (network, home) = (Network::new(), Volume::new());
    let volume = format!("{}:/home/bots", home.name);
    let covered = ["-v", "/dev/null:/usr/bin/dash:ro", "-v", "/dev/null:/usr/bin/bash:ro", "-v", &volume];
    let container = Container::start(Some(&network), &[&STRICT[..], &covered, &[image(), "webserver"]].concat());
    container.wait_healthy();
    assert!(!container.exec(&["/bin/sh", "-c", "true"]).status.success(), "the shell is covered");
    assert_eq!(container.stop(30), 0, "{}", container.logs());
}

#[apply(test)]
fn web_ui_runs_as_arbitrary_user() {
    let (network, home) = (Network::new(), Volume::new());
    let volume = format!("{}:/home/bots:U", home.name);
    let options = ["--user", "20001:20001", "-v", &volume, image(), "webserver"];
    let container = Container::start(Some(&network), &[&STRICT[..], &options].concat());
    container.wait_healthy();
    assert_eq!(container.stop(30), 0, "{}", container.logs());
}

#[apply(test)]
fn up_provides_working_system_in_one_command() {
    let (network, home) = (Network::new(), Volume::new());
    let volume = format!("{}:/home/bots", home.name);
    let container = Container::start(Some(&network), &["-v", &volume, image(), "up"]);
    container.wait_healthy();
    // Live is not yet ready: the database is made while the listener answers.
    let ready = || container.exec(&["bots-ctl", "healthcheck", "--check", "ready", "--quiet"]).status.success();
    wait_until("the web UI is ready", || ready().then_some(()), || container.logs());
    let password = container.exec(&["cat", "/home/bots/.bots/env/default/admin-password"]).stdout;
    let password = String::from_utf8_lossy(&password).trim().to_owned();
    assert!(container.logs().contains(&password), "the password is shown once");
    let base = "http://bots.example.com:8080";
    let mut browser = Browser::resolving("bots.example.com", &container.address());
    browser.log_in(base, "admin", &password).unwrap_or_else(|why| panic!("{why}\n{}", container.logs()));
    let status = String::from_utf8_lossy(&container.exec(&["bots-ctl", "status"]).stdout).into_owned();
    assert!(status.contains("webserver") && status.contains("engine"), "{status}");
    assert_eq!(container.stop(30), 0, "{}", container.logs());
}

#[apply(test)]
fn image_has_expected_metadata_size_and_content() {
    image();
    let of = |template: &str| expect(&["image", "inspect", "--format", template, IMAGE]);
    assert_eq!(of("{{json .Config.Entrypoint}}"), r#"["/usr/local/bin/bots-ctl"]"#);
    assert_eq!(of("{{json .Config.Cmd}}"), "null");
    assert_eq!(of("{{.Config.User}}"), "10001:10001");
    assert_eq!(of("{{.Config.StopSignal}}"), "SIGTERM");
    assert!(of("{{json .HealthCheck.Test}}").contains("healthcheck"), "{}", of("{{json .HealthCheck}}"));
    let labels = of("{{json .Labels}}");
    for label in ["title", "description", "version", "revision", "base.name"] {
        assert!(labels.contains(&format!("org.opencontainers.image.{label}")), "{labels}");
    }
    let size: u64 = of("{{.Size}}").parse().expect("a number");
    assert!(size <= SIZE, "{size} bytes are more than {SIZE}");

    let inside = |script: &str| {
        let output = run(&["run", "--rm", "--network", "none", "--entrypoint", "/bin/sh", IMAGE, "-c", script]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(inside("command -v gcc cc pip pip3 tini cargo; ls -d /root/.cache /home/bots/.cache 2>/dev/null"), "");
    let uncompiled = "cd /opt/bots/lib/python3*/site-packages && for f in django/db/*.py bots/*.py; do \
                      ls \"${f%/*}/__pycache__/$(basename \"$f\" .py)\".*.pyc >/dev/null || echo \"$f\"; done";
    assert_eq!(inside(uncompiled), "", "every module of Bots and Django is compiled");
    let drivers = "/opt/bots/bin/python -c 'import MySQLdb, psycopg2, bots, django; print(django.VERSION[:2])'";
    assert_eq!(inside(drivers), "(2, 2)");
}

/// The packages of the shell entrypoint's image, by the names that Bots imports.
#[apply(test)]
fn extras_provide_modules_of_channels_and_grammars() {
    make_bases();
    let tag = "localhost/bots-ctl:extras";
    build(tag, &["--build-arg", "EXTRAS=sftp excel pdf html"]);
    let script = "import bots.envelope, bots.outmessage; from bots.botslib import botsbaseimport as imported; \
                  print(*[imported(name).__name__ for name in ('paramiko', 'xlrd', 'pdfminer', 'genshi.template')])";
    let python = ["run", "--rm", "--network", "none", "--entrypoint", "/opt/bots/bin/python", tag, "-c", script];
    assert_eq!(expect(&python), "paramiko xlrd pdfminer genshi.template");
}

/// A source tree for Bots 4.x, its driver and grammars come in through build contexts and arguments.
#[apply(test)]
fn build_contexts_and_arguments_reach_the_image() {
    make_bases();
    let tree = tempfile::tempdir().expect("a temporary directory");
    let (source, grammars) = (tree.path().join("source"), tree.path().join("grammars"));
    fs::create_dir_all(source.join("bots")).expect("made");
    fs::create_dir_all(grammars.join("edifact")).expect("made");
    fs::write(grammars.join("edifact/ORDERS.py"), "structure = []\n").expect("written");
    fs::write(source.join("bots/__init__.py"), "version = '4.0'\n").expect("written");
    let project = "[project]\nname = \"bots-ediint\"\nversion = \"4.0\"\ndependencies = [\"Django>=4\", \"lxml\"]\n\
                   [project.scripts]\nbots-webserver = \"bots:start\"\n\
                   [build-system]\nrequires = [\"pdm-backend\"]\nbuild-backend = \"pdm.backend\"\n\
                   [tool.pdm.build]\nincludes = [\"bots\"]\n";
    fs::write(source.join("pyproject.toml"), project).expect("written");
    let tag = "localhost/bots-ctl:contexts";
    let contexts = [format!("bots-source={}", source.display()), format!("grammars={}", grammars.display())];
    let arguments = ["--build-arg", "BOTS=4", "--build-arg", "DRIVERS=postgresql", "--build-arg", "EXTRAS=excel"];
    let contexts = ["--build-context", &contexts[0], "--build-context", &contexts[1]];
    build(tag, &[&arguments[..], &contexts].concat());
    let question = "import bots, psycopg, xlrd, django, importlib.util as u; \
                    print(bots.version, django.VERSION[0], u.find_spec('MySQLdb'))";
    let python = ["--entrypoint", "/opt/bots/bin/python", tag, "-c", question];
    assert_eq!(expect(&[&["run", "--rm", "--network", "none"], &python[..]].concat()), "4.0 5 None");
    let listed = ["--entrypoint", "/bin/ls", tag, "/usr/local/bots/grammars/edifact"];
    assert_eq!(expect(&[&["run", "--rm", "--network", "none"], &listed[..]].concat()), "ORDERS.py");

    let refused =
        run(&["build", "--network", "host", "--pull=never", "--build-arg", "BOTS=5", env!("CARGO_MANIFEST_DIR")]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned() + &String::from_utf8_lossy(&refused.stdout);
    assert!(!refused.status.success() && said.contains("BOTS=5: use 3.3.1, or 4"), "{said}");
}
