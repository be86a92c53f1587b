//! Podman with a separate storage below the target directory, with the image of the real Dockerfile.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use crate::support::needs::{Need, needs};
use crate::support::sandbox::wait_until;

/// The image under test.
pub const IMAGE: &str = "localhost/bots-ctl:test";

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// Where images and containers of the tests are.
fn storage() -> &'static Path {
    needs(Need::Image);
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("podman");
        fs::create_dir_all(&dir).expect("made");
        // A limit above our own could not be set. The rest is for machines without systemd.
        let files = most_open_files();
        let configuration = format!(
            "[containers]\ndefault_ulimits = [\"nofile={files}:{files}\", \"nproc=4096:4096\"]\n\
             [network]\nnetwork_backend = \"netavark\"\n\
             [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n"
        );
        fs::write(dir.join("containers.conf"), configuration).expect("written");
        dir
    })
}

fn most_open_files() -> u64 {
    let limits = fs::read_to_string("/proc/self/limits").expect("readable");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("it is listed");
    line.split_whitespace().nth(1).and_then(|hard| hard.parse().ok()).expect("a number")
}

/// Podman's command line up to its own options.
fn command_line() -> Vec<String> {
    let dir = storage().display();
    ["podman", "--root", &format!("{dir}/root"), "--runroot", &format!("{dir}/run")].map(str::to_owned).to_vec()
}

/// A call of podman.
pub fn podman(args: &[&str]) -> Command {
    let line = command_line();
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).args(args).env("CONTAINERS_CONF", storage().join("containers.conf"));
    command.stdin(Stdio::null());
    command
}

/// Runs podman to its end.
pub fn run(args: &[&str]) -> Output {
    podman(args).output().expect("podman can be run")
}

/// Runs podman, which has to succeed; returns its output.
pub fn expect(args: &[&str]) -> String {
    output_of(args, run(args))
}

/// The same with something to read.
pub fn expect_with(args: &[&str], input: &str) -> String {
    let mut command = podman(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("podman can be run");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    output_of(args, child.wait_with_output().expect("it ends"))
}

fn output_of(args: &[&str], output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    assert!(output.status.success(), "podman {args:?}: {}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A name that no other test or process uses.
pub fn unique(name: &str) -> String {
    static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("{name}-{}-{number}", std::process::id())
}

/// Builds the image from the Dockerfile, once; layers of an earlier run are used again. `BOTS_CTL_IMAGE` names the archive
/// of another image that is to be tested in its place, one that `podman save` or `docker save` has written.
pub fn image() -> &'static str {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(archive) = std::env::var_os("BOTS_CTL_IMAGE") {
            let loaded = expect(&["load", "--quiet", "--input", &archive.to_string_lossy()]);
            let name = loaded.lines().last().and_then(|line| line.split_once(": ")).expect("podman names it").1;
            expect(&["tag", name, IMAGE]);
            return;
        }
        make_bases();
        build(IMAGE, &[]);
    });
    IMAGE
}

/// The images that the Dockerfile begins with.
pub fn make_bases() {
    static MADE: OnceLock<()> = OnceLock::new();
    MADE.get_or_init(|| {
        let mut bases = Command::new(format!("{PROJECT}/tests/containers/bases.sh"));
        bases.arg(storage()).args(command_line()).env("CONTAINERS_CONF", storage().join("containers.conf"));
        let made = bases.stdin(Stdio::null()).output().expect("it can be run");
        assert!(made.status.success(), "tests/containers/bases.sh: {}", String::from_utf8_lossy(&made.stderr));
    });
}

/// Builds the Dockerfile with these options, in addition to the common ones.
pub fn build(tag: &str, options: &[&str]) {
    let common = ["build", "--format", "docker", "--network", "host", "--pull=never", "--tag", tag];
    expect(&[&common, options, &[PROJECT]].concat());
}

/// A separate network: a bridge between the containers of one test.
pub struct Network {
    pub name: String,
}

impl Network {
    pub fn new() -> Self {
        let name = unique("bots-net");
        expect(&["network", "create", &name]);
        Self { name }
    }

    /// Where the kernel describes the bridge, which exists while it has a container.
    pub fn bridge(&self) -> PathBuf {
        let name = expect(&["network", "inspect", "--format", "{{.NetworkInterface}}", &self.name]);
        Path::new("/sys/class/net").join(name)
    }

    /// Lets the bridge keep its MAC address. It otherwise has the lowest address of its ports, so removing a container may
    /// change it: another container that is about to answer then sends to the old address for up to a minute.
    fn keep_address(&self) {
        let bridge = self.bridge();
        // There is none if the container has ended.
        let Ok(address) = fs::read_to_string(bridge.join("address")) else { return };
        let name = bridge.file_name().expect("it has a name");
        let mut set = Command::new("ip");
        set.args(["link", "set", "dev"]).arg(name).args(["address", address.trim()]);
        let set = set.output().expect("ip can be run");
        assert!(set.status.success() || !bridge.exists(), "{}", String::from_utf8_lossy(&set.stderr));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        run(&["network", "rm", "--force", "--time", "0", &self.name]);
    }
}

/// A container that is removed with its end.
pub struct Container {
    pub name: String,
    network: Option<String>,
}

impl Container {
    /// Starts one in the background: options of `podman run`, then image and command.
    pub fn start(network: Option<&Network>, args: &[&str]) -> Self {
        let name = unique("bots");
        let network_name = network.map_or("none", |network| &network.name);
        expect(&[&["run", "--detach", "--name", &name, "--network", network_name], args].concat());
        if let Some(network) = network {
            network.keep_address();
        }
        Self { name, network: network.map(|network| network.name.clone()) }
    }

    /// One that something else has started.
    pub fn adopt(name: &str, network: &Network) -> Self {
        Self { name: name.to_owned(), network: Some(network.name.clone()) }
    }

    /// Runs a program in it.
    pub fn exec(&self, args: &[&str]) -> Output {
        run(&[&["exec", &self.name], args].concat())
    }

    /// Its output.
    pub fn logs(&self) -> String {
        let output = run(&["logs", &self.name]);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// One value of what podman knows of it.
    pub fn inspect(&self, template: &str) -> String {
        expect(&["container", "inspect", "--format", template, &self.name])
    }

    /// Its address on its network, or that of its pod.
    pub fn address(&self) -> String {
        let network = self.network.as_deref().expect("it has one");
        let template = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        let pod = self.inspect("{{.Pod}}");
        if pod.is_empty() {
            return self.inspect(&template);
        }
        let infra = expect(&["pod", "inspect", "--format", "{{.InfraContainerID}}", &pod]);
        expect(&["container", "inspect", "--format", &template, &infra])
    }

    /// Waits until the HEALTHCHECK of the image is content.
    pub fn wait_healthy(&self) {
        let check = || run(&["healthcheck", "run", &self.name]).status.success().then_some(());
        wait_until("the health check is content", check, || self.logs());
    }

    /// Waits until it exits; returns its exit code.
    pub fn wait(&self) -> i32 {
        let code = || (self.inspect("{{.State.Running}}") == "false").then(|| self.inspect("{{.State.ExitCode}}"));
        wait_until("the container has ended", code, || self.logs()).parse().expect("a number")
    }

    /// Stops it as Docker and the kubelet do; its exit code.
    pub fn stop(&self, limit: u32) -> i32 {
        expect(&["stop", "--time", &limit.to_string(), &self.name]);
        self.inspect("{{.State.ExitCode}}").parse().expect("a number")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        run(&["rm", "--force", "--time", "0", "--volumes", &self.name]);
    }
}

/// A named volume that is removed at the end.
pub struct Volume {
    pub name: String,
}

impl Volume {
    pub fn new() -> Self {
        let name = unique("bots-volume");
        expect(&["volume", "create", &name]);
        Self { name }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        run(&["volume", "rm", "--force", &self.name]);
    }
}
