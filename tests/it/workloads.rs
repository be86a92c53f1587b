//! The whole story in pods: from nothing to translated orders, and on through restarts and changes.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::browser::Browser;
use crate::support::cluster::{Cluster, Pod, SUPERUSER_PASSWORD, get};
use crate::support::fuse::Fuse;
use crate::support::needs::{Need, needs};
use crate::support::podman::run;
use crate::support::sandbox::wait_until;

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/demo");
/// The host name of the overlay; the web UI answers to no other.
const HOST: &str = "edi-dev.example.com";
const ENVIRONMENT: &str = "/home/bots/.bots/env/default";

/// Names and contents of a directory's files.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("readable")))
        .collect();
    files.sort();
    files
}

/// The demo route's directories on the data volume.
struct Demo {
    input: PathBuf,
    output: PathBuf,
}

impl Demo {
    /// Sets the route up from inside a pod, as its users would.
    fn install(cluster: &Cluster, pod: &Pod) -> Self {
        let target = format!("{ENVIRONMENT}/botssys/demo-fixture");
        pod.copy_in(Path::new(FIXTURE), &target);
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plugin/demo/usersys");
        pod.copy_in(&scripts, &format!("{target}/usersys"));
        let (script, config) = (format!("{target}/install.py"), format!("{ENVIRONMENT}/config"));
        let installed = pod.container.exec(&["bots-ctl", "exec", "--", "/opt/bots/bin/python", &script, &config]);
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
        let data = cluster.volume("bots-data");
        Self { input: data.join("infile/demo"), output: data.join("outfile/demo") }
    }

    fn drop_in(&self) {
        for (name, content) in files(&Path::new(FIXTURE).join("input")) {
            // The channel takes whole files only.
            fs::write(self.input.join(format!("{name}.part")), content).expect("written");
            fs::rename(self.input.join(format!("{name}.part")), self.input.join(name)).expect("renamed");
        }
    }

    /// Waits for the orders, compares each byte, and clears the way for the next ones.
    fn expect_orders(&self, who: &str, report: impl Fn() -> String) {
        let expected = files(&Path::new(FIXTURE).join("expected"));
        let done = || (files(&self.output).len() >= expected.len() && files(&self.input).is_empty()).then_some(());
        wait_until(&format!("{who} has translated the orders"), done, &report);
        assert_eq!(files(&self.output), expected, "{who}\n{}", report());
        for (name, _) in expected {
            fs::remove_file(self.output.join(name)).expect("removed");
        }
    }
}

fn log_in(pod: &Pod) -> (Browser, String) {
    let base = format!("http://{HOST}:{}", pod.port("http"));
    let mut browser = Browser::resolving(HOST, &pod.container.address());
    let logged_in = browser.log_in(&base, "admin", SUPERUSER_PASSWORD);
    logged_in.unwrap_or_else(|why| panic!("{why}\n{}", pod.container.logs()));
    (browser, base)
}

#[apply(test)]
fn cluster_translates_orders_from_installation_to_reload() {
    let mut cluster = Cluster::new();
    // A job that is made again finds nothing left to do.
    for _ in 0..2 {
        let init = cluster.create_job("bots-init-db");
        assert_eq!(init.container.wait(), 0, "{}", init.container.logs());
    }
    let (first, second) = (cluster.deploy("bots-webserver"), cluster.deploy("bots-webserver"));
    let queue = cluster.deploy("bots-jobqueue");
    for pod in [&first, &second, &queue] {
        pod.wait_ready();
    }
    let demo = Demo::install(&cluster, &first);
    for pod in [&first, &second] {
        let (mut browser, base) = log_in(pod);
        assert!(browser.open_routes(&base).contains("demo_orders"), "{}", browser.text());
    }

    demo.drop_in();
    let engine = cluster.create_job("bots-engine");
    assert_eq!(engine.container.wait(), 0, "{}", engine.container.logs());
    demo.expect_orders("the engine's CronJob", || engine.container.logs());

    demo.drop_in();
    let (browser, base) = log_in(&first);
    browser.visit(&format!("{base}/runengine/?clparameter=--new"));
    demo.expect_orders("Run in the web UI", || format!("{}\n{}", first.container.logs(), queue.container.logs()));
    // Bots sends the files before its run ends.
    let has_run = || queue.container.logs().contains(" sent 5, in ").then_some(());
    wait_until("the queue's pod has run it", has_run, || queue.container.logs());

    // A changed ConfigMap has another name, so the pods are replaced.
    cluster.change_config("bots.ini", |ini| {
        let watched =
            format!("[dirmonitor1]\npath = {ENVIRONMENT}/botssys/infile/demo\nfilemask = *.edi\nroute = demo_orders\n");
        ini.replace("environment_text =", "environment_text = changed-by-the-test") + &watched
    });
    assert_eq!(second.delete(), 0);
    let replaced = cluster.deploy("bots-webserver");
    let monitor = cluster.deploy("bots-dirmonitor");
    for pod in [&replaced, &monitor] {
        pod.wait_ready();
    }
    let (mut browser, base) = log_in(&replaced);
    assert!(browser.open_routes(&base).contains("demo_orders"), "what was there before is there");
    browser.visit(&base);
    assert!(browser.text().contains("changed-by-the-test"), "{}", browser.text());

    // The running pod applies a ConfigMap that is changed in place.
    let pid = || replaced.status()["services"][0]["pid"].clone();
    let before = pid();
    replaced.edit_mounted("bots.ini", |ini| ini.replace("changed-by-the-test", "changed-in-place"));
    wait_until(
        "the web UI has another process",
        || (pid().is_i64() && pid() != before).then_some(()),
        || replaced.container.logs(),
    );
    replaced.wait_ready();
    let (browser, base) = log_in(&replaced);
    browser.visit(&base);
    assert!(browser.text().contains("changed-in-place"), "{}", browser.text());

    demo.drop_in();
    demo.expect_orders("the directory monitor", || format!("{}\n{}", monitor.container.logs(), queue.container.logs()));
    for pod in [monitor, queue, first, replaced] {
        let logs = pod.container.logs();
        assert_eq!(pod.delete(), 0, "{logs}");
    }
}

/// Directories for the claims, as an administrator prepares them on a file server.
fn make_claims(dir: &Path) {
    fs::create_dir(dir).expect("made");
    for claim in ["bots-environment", "bots-data", "bots-logs"] {
        let path = dir.join(claim);
        fs::create_dir(&path).expect("made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o775)).expect("ours");
        chown(&path, Some(10001), Some(10001)).expect("this is root");
    }
}

/// The label `bots-ctl/preflight` is for this.
#[apply(test)]
fn config_check_job_rejects_invalid_configuration() {
    let mut cluster = Cluster::new();
    let check = cluster.create_job("bots-config-check");
    assert_eq!(check.container.wait(), 0, "{}", check.container.logs());
    cluster.change_config("bots.ini", |text| text.replace("port = 8080", "port = many"));
    let check = cluster.create_job("bots-config-check");
    assert_eq!(check.container.wait(), 78, "{}", check.container.logs());
    assert!(check.container.logs().contains("[webserver] port = many: expected a port number"));
}

/// The component `migration`, with the volume of the shell entrypoint.
#[apply(test)]
fn migration_job_copies_old_environment_into_volumes() {
    needs(Need::Image);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let claims = dir.path().join("claims");
    make_claims(&claims);
    let old = claims.join("bots-edi-data-pvc/env/dev");
    let files = ["usersys/mappings/edifact/orders.py", "botssys/infile/1.edi", "botssys/logging/engine.log"];
    for file in files {
        fs::create_dir_all(old.join(file).parent().expect("it has one")).expect("made");
        fs::write(old.join(file), file).expect("written");
    }
    let mut cluster = Cluster::on(&claims);
    cluster.add_component("migration");
    let copy = cluster.create_job("bots-copy-environment");
    assert_eq!(copy.container.wait(), 0, "{}", copy.container.logs());
    let copied =
        ["bots-environment/usersys/mappings/edifact/orders.py", "bots-data/infile/1.edi", "bots-logs/engine.log"];
    for (copied, file) in copied.iter().zip(files) {
        assert_eq!(fs::read_to_string(claims.join(copied)).expect("copied"), file);
    }
}

/// Storage that squashes root, as NFS with root_squash: its owner can write, and neither the runtime nor the kubelet.
#[apply(test)]
fn workloads_run_on_root_squash_storage() {
    needs(Need::Image);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (behind, mounted) = (dir.path().join("behind"), dir.path().join("mounted"));
    fs::create_dir(&mounted).expect("made");
    make_claims(&behind);
    let _share = Fuse::root_squash(&behind, &mounted);
    let refused = fs::create_dir(mounted.join("bots-data/by-root")).map_err(|error| error.kind());
    assert_eq!(refused, Err(ErrorKind::PermissionDenied), "root is nobody there");

    let mut cluster = Cluster::on(&mounted);
    let init = cluster.create_job("bots-init-db");
    assert_eq!(init.container.wait(), 0, "{}", init.container.logs());
    let web = cluster.deploy("bots-webserver");
    web.wait_ready();
    let engine = cluster.create_job("bots-engine");
    assert_eq!(engine.container.wait(), 0, "{}", engine.container.logs());
    assert!(behind.join("bots-logs/engine.log").exists() || behind.join("bots-logs/engine").exists());
}

/// A load balancer as in a cluster: it sends requests to pods that were ready a moment ago. Each pod is probed
/// separately, as by its kubelet, so that a missing one does not delay the others.
#[derive(Default)]
struct Balancer {
    pods: Mutex<Vec<Backend>>,
    failed: Mutex<Vec<String>>,
    served: AtomicUsize,
    is_over: AtomicBool,
}

#[derive(Clone)]
struct Backend {
    container: String,
    address: String,
    web: u16,
    health: u16,
    is_ready: Arc<AtomicBool>,
}

impl Balancer {
    fn add<'scope>(&'scope self, scope: &'scope thread::Scope<'scope, '_>, pod: &Pod) {
        let (web, health) = (pod.port("http"), pod.port("health"));
        let is_ready = Arc::new(AtomicBool::new(true));
        let (container, address) = (pod.container.name.clone(), pod.container.address());
        let backend = Backend { container, address, web, health, is_ready };
        self.pods.lock().expect("fine").push(backend.clone());
        scope.spawn(move || self.look(&backend));
    }

    /// Asks for readiness until the end.
    fn look(&self, Backend { address, health, is_ready, .. }: &Backend) {
        while !self.is_over.load(Ordering::Relaxed) {
            let answer = get((address, *health), HOST, "/health/ready", Duration::from_secs(2));
            is_ready.store(answer == Ok(200), Ordering::Relaxed);
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// Sends one request after the other until the end.
    fn send(&self) {
        let (mut number, begin) = (0, Instant::now());
        while !self.is_over.load(Ordering::Relaxed) {
            number += 1;
            let is_ready = |pod: &&Backend| pod.is_ready.load(Ordering::Relaxed);
            let ready: Vec<_> = self.pods.lock().expect("fine").iter().filter(is_ready).cloned().collect();
            let Some(Backend { container, address, web, .. }) = ready.get(number % ready.len().max(1)) else {
                self.failed.lock().expect("fine").push("no pod is ready".into());
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            match get((address, *web), HOST, "/login/", Duration::from_secs(30)) {
                Ok(200) => drop(self.served.fetch_add(1, Ordering::Relaxed)),
                other => {
                    let said = String::from_utf8_lossy(&run(&["logs", "--tail", "30", container]).stdout).into_owned();
                    let failure = format!("{:?} {address}: {other:?}\n{said}", begin.elapsed());
                    self.failed.lock().expect("fine").push(failure);
                }
            }
        }
    }
}

#[apply(test)]
fn rolling_restart_under_load_fails_no_request() {
    let mut cluster = Cluster::new();
    let old = [cluster.deploy("bots-webserver"), cluster.deploy("bots-webserver")];
    for pod in &old {
        pod.wait_ready();
    }
    let balancer = Balancer::default();
    let mut replaced = Vec::new();
    thread::scope(|scope| {
        // However this ends, so do the threads.
        let over = Over(&balancer);
        old.iter().for_each(|pod| balancer.add(scope, pod));
        for _ in 0..3 {
            scope.spawn(|| balancer.send());
        }
        for pod in old {
            let before = balancer.served.load(Ordering::Relaxed);
            let new = cluster.deploy("bots-webserver");
            new.wait_ready();
            balancer.add(scope, &new);
            assert_eq!(pod.delete(), 0);
            let goes_on = || (balancer.served.load(Ordering::Relaxed) > before + 20).then_some(());
            wait_until("requests are served", goes_on, || format!("{:?}", balancer.failed));
            replaced.push(new);
        }
        drop(over);
    });
    assert_eq!(*balancer.failed.lock().expect("fine"), [""; 0], "of {} requests", balancer.served.into_inner());
}

struct Over<'a>(&'a Balancer);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}
