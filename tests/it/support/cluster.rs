//! The workloads of a rendered overlay as real pods, on a separate network with a real MariaDB.
//!
//! `podman play kube` runs each pod with its own command, arguments, variables and mounts. Only features missing in
//! podman are emulated: a Service is an alias on the network, a CronJob is run as a pod, a secret is mounted like a
//! ConfigMap, /etc/hosts has the name of the database, ports are not published, and the tests probe like a kubelet.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container as Spec, PodSpec, Probe, Secret};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::kustomize::{copy, find, http_probe, objects, render};
use crate::support::podman::{Container, Network, expect, expect_with, image, run, unique};
use crate::support::sandbox::{DEADLINE, wait_until};

/// The secrets of the pods: what YAML, a shell or SQL could trip over.
const SECRETS: &str = "db-password=p@ss w/o?r#d%20&'\"$HOME\ndjango-secret-key=not-a-secret-in-a-test-0123456789abcdef\n\
                       jobqueue-token=a-token-that-nobody-knows\nsuperuser-password=Sup3r!user\n";
pub const SUPERUSER_PASSWORD: &str = "Sup3r!user";

/// The name of the server in the manifests.
const DATABASE: &str = "mariadb.example.com";

/// A MariaDB server from this machine's packages, as the pods' manifests expect it.
const SERVER: &str = r#"set -e
mariadb-install-db --no-defaults --user=root --datadir=/data --auth-root-authentication-method=normal --skip-test-db
exec mariadbd --no-defaults --user=root --datadir=/data --socket=/data/socket --bind-address=0.0.0.0 --init-file=/setup/init.sql
"#;
const INIT: &str = "CREATE DATABASE IF NOT EXISTS bots_dev CHARACTER SET utf8mb4;\n\
                    CREATE USER IF NOT EXISTS 'bots_dev'@'%' IDENTIFIED BY 'p@ss w/o?r#d%20&\\'\"$HOME';\n\
                    GRANT ALL ON bots_dev.* TO 'bots_dev'@'%';\n";

/// What stands in for a cluster with the overlay `dev` applied.
pub struct Cluster {
    manifests: TempDir,
    objects: Vec<Value>,
    pods: Vec<String>,
    database: Container,
    _setup: TempDir,
    network: Network,
    /// A directory with those of the claims, which are volumes otherwise.
    claims: Option<PathBuf>,
    // Volumes have the names that the claims have, so there is one cluster at a time.
    _turn: MutexGuard<'static, ()>,
}

/// A pod that was started.
pub struct Pod {
    pub container: Container,
    spec: Spec,
    name: String,
}

impl Cluster {
    /// A network, a database and the manifests; no pod yet.
    pub fn new() -> Self {
        Self::with_claims(None)
    }

    /// The same with the claims in this directory: nothing is copied into them from the image, as with a volume of podman's.
    pub fn on(claims: &Path) -> Self {
        Self::with_claims(Some(claims.to_owned()))
    }

    fn with_claims(claims: Option<PathBuf>) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        image();
        remove_volumes();
        let manifests = copy();
        let component = manifests.path().join("components/image/kustomization.yaml");
        let text = fs::read_to_string(&component).expect("readable");
        let text = text.replace("registry.example.com/bots-ctl", "localhost/bots-ctl").replace("\"0.1.0\"", "test");
        fs::write(&component, text).expect("written");
        fs::write(manifests.path().join("secrets/dev/secrets.env"), SECRETS).expect("written");
        let network = Network::new();
        let (database, setup) = start_database(&network);
        let mut cluster = Self {
            manifests,
            objects: Vec::new(),
            pods: Vec::new(),
            database,
            _setup: setup,
            network,
            claims,
            _turn: turn,
        };
        cluster.apply();
        cluster
    }

    /// Changes a file of the ConfigMap, and renders everything again.
    pub fn change_config(&mut self, file: &str, change: impl Fn(String) -> String) {
        let path = self.manifests.path().join("base/config").join(file);
        let text = change(fs::read_to_string(&path).expect("readable"));
        fs::write(path, text).expect("written");
        self.apply();
    }

    /// Lists a component in the overlay, and renders all again.
    pub fn add_component(&mut self, name: &str) {
        let path = self.manifests.path().join("overlays/dev/kustomization.yaml");
        let text = fs::read_to_string(&path).expect("readable");
        let image = "  - ../../components/image\n";
        fs::write(path, text.replace(image, &format!("{image}  - ../../components/{name}\n"))).expect("written");
        self.apply();
    }

    fn apply(&mut self) {
        let secrets = objects(&render(&self.manifests.path().join("secrets/dev")));
        self.objects = objects(&render(&self.manifests.path().join("overlays/dev")));
        self.objects.extend(secrets.iter().map(as_config_map));
    }

    /// Starts a pod of a Deployment, which its Service leads to.
    pub fn deploy(&mut self, name: &str) -> Pod {
        let template = find(&self.objects, "Deployment", name)["spec"]["template"].clone();
        self.start(name, template)
    }

    /// Starts the pod of a Job created from a CronJob.
    pub fn create_job(&mut self, name: &str) -> Pod {
        let template = find(&self.objects, "CronJob", name)["spec"]["jobTemplate"]["spec"]["template"].clone();
        self.start(name, template)
    }

    fn start(&mut self, service: &str, template: Value) -> Pod {
        let name = unique(service);
        let spec: PodSpec = serde_json::from_value(template["spec"].clone()).expect("a pod");
        // Podman sometimes fails to remove an init container of the other kind, which has just ended.
        let annotations = json!({"io.podman.annotations.init.container.type": "always"});
        let metadata = json!({"name": name, "annotations": annotations});
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]});
        for volume in pod["spec"]["volumes"].as_array_mut().expect("it has some") {
            if let Some(secret) = volume.as_object_mut().expect("an object").remove("secret") {
                volume["configMap"] = json!({"name": secret["secretName"], "items": secret["items"]});
            }
            if let (Some(dir), Some(claim)) = (&self.claims, volume["persistentVolumeClaim"]["claimName"].as_str()) {
                *volume = json!({"name": volume["name"], "hostPath": {"path": dir.join(claim), "type": "Directory"}});
            }
        }
        // Podman's own resolver drops questions while it adds pods to the network.
        let database = json!({"ip": self.database.address(), "hostnames": [DATABASE]});
        pod["spec"]["hostAliases"] = json!([database]);
        // Podman would publish them on this machine.
        pod["spec"]["containers"][0].as_object_mut().expect("an object").remove("ports");
        // Claims are kept from the first pod on.
        let kinds: &[&str] = if self.pods.is_empty() && self.claims.is_none() {
            &["ConfigMap", "PersistentVolumeClaim"]
        } else {
            &["ConfigMap"]
        };
        let is_needed = |object: &&Value| kinds.contains(&object["kind"].as_str().unwrap_or_default());
        let mut all: Vec<Value> = self.objects.iter().filter(is_needed).cloned().collect();
        all.push(pod);
        let documents: Vec<String> =
            all.iter().map(|object| serde_yaml_ng::to_string(object).expect("it is YAML")).collect();
        let network = format!("{}:alias={service}", self.network.name);
        self.pods.push(name.clone());
        expect_with(&["play", "kube", "--network", &network, "-"], &documents.join("---\n"));
        let spec = spec.containers.into_iter().next().expect("a container");
        Pod { container: Container::adopt(&format!("{name}-{}", spec.name), &self.network), spec, name }
    }

    /// Where a claim's files are on this machine.
    pub fn volume(&self, claim: &str) -> PathBuf {
        expect(&["volume", "inspect", "--format", "{{.Mountpoint}}", claim]).into()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for pod in &self.pods {
            run(&["pod", "rm", "--force", "--time", "0", pod]);
        }
        remove_volumes();
    }
}

/// Podman 4.3 leaves the files of a secret's volume encoded; those of a ConfigMap's are correct.
fn as_config_map(secret: &Value) -> Value {
    let secret: Secret = serde_json::from_value(secret.clone()).expect("a secret");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let data: BTreeMap<String, String> =
        secret.data.into_iter().flatten().map(|(key, value)| (key, text(&value.0))).collect();
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": secret.metadata.name}, "data": data})
}

/// Those of the claims, and those that podman makes for ConfigMaps and secrets.
fn remove_volumes() {
    let names = expect(&["volume", "ls", "--format", "{{.Name}}"]);
    let ours = ["bots-config-", "bots-secrets", "bots-data", "bots-logs", "bots-environment", "tmp"];
    for name in names.lines().filter(|name| ours.iter().any(|prefix| name.starts_with(prefix))) {
        run(&["volume", "rm", "--force", name]);
    }
}

fn start_database(network: &Network) -> (Container, TempDir) {
    let setup = tempfile::tempdir().expect("a temporary directory");
    fs::write(setup.path().join("init.sql"), INIT).expect("written");
    fs::write(setup.path().join("run.sh"), SERVER).expect("written");
    let mount = format!("{}:/setup:ro", setup.path().display());
    let options = ["--network-alias", DATABASE, "--tmpfs", "/data", "-v", &mount];
    let program = ["--rootfs", "/:O", "bash", "/setup/run.sh"];
    let database = Container::start(Some(network), &[&options[..], &program].concat());
    let ready = || database.logs().contains("ready for connections").then_some(());
    wait_until("MariaDB is ready", ready, || database.logs());
    (database, setup)
}

impl Pod {
    /// Waits as the kubelet does: `startupProbe` until it succeeds, then `readinessProbe`.
    pub fn wait_ready(&self) {
        self.wait_for(self.spec.startup_probe.as_ref().expect("it has one"));
        self.wait_for(self.spec.readiness_probe.as_ref().expect("it has one"));
        assert!(self.is_live(), "{}", self.container.logs());
    }

    /// Probes at the period of the manifest, and gives up after its failure threshold, or the time limit of the test.
    fn wait_for(&self, probe: &Probe) {
        let period = Duration::from_secs(u64::try_from(probe.period_seconds.expect("set")).expect("positive"));
        let begin = Instant::now();
        for _ in 0..probe.failure_threshold.expect("set").max(30) {
            if self.probe(probe) {
                return;
            }
            assert!(begin.elapsed() < DEADLINE * 2, "{probe:?}\n{}", self.container.logs());
            std::thread::sleep(period);
        }
        panic!("{probe:?} failed too often\n{}", self.container.logs());
    }

    pub fn is_live(&self) -> bool {
        self.probe(self.spec.liveness_probe.as_ref().expect("it has one"))
    }

    fn probe(&self, probe: &Probe) -> bool {
        let (port, path, probe) = http_probe(&self.spec, probe);
        let timeout = Duration::from_secs(u64::try_from(probe.timeout_seconds.expect("set")).expect("positive"));
        let port = u16::try_from(port).expect("a port");
        let address = self.container.address();
        get((&address, port), &address, &path, timeout).is_ok_and(|status| status < 400)
    }

    /// The port of this name.
    pub fn port(&self, name: &str) -> u16 {
        let ports = self.spec.ports.iter().flatten();
        let port = ports.clone().find(|port| port.name.as_deref() == Some(name)).expect("it has this port");
        u16::try_from(port.container_port).expect("a port")
    }

    /// Ends it as a cluster does: SIGTERM, and SIGKILL after the grace period of its manifest. Its exit code.
    pub fn delete(self) -> i32 {
        let grace = self.spec.env.iter().flatten().find(|variable| variable.name == "BOTS_CTL_GRACE_PERIOD");
        let grace = grace.and_then(|variable| variable.value.clone()).expect("every pod has it");
        let code = self.container.stop(grace.trim_end_matches('s').parse().expect("seconds"));
        // Podman may find an exiting container of the pod, and then refuses.
        let remove = || run(&["pod", "rm", "--force", "--ignore", "--time", "0", &self.name]);
        wait_until("the pod is removed", || remove().status.success().then_some(()), String::new);
        code
    }

    /// The output of its bots-ctl.
    pub fn status(&self) -> Value {
        let told = self.container.exec(&["bots-ctl", "status", "--json"]);
        serde_json::from_slice(&told.stdout).unwrap_or_default()
    }

    /// Changes a file of the mounted ConfigMap, as a kubelet does.
    pub fn edit_mounted(&self, name: &str, change: impl Fn(String) -> String) {
        let template = "{{range .Mounts}}{{if eq .Destination \"/config\"}}{{.Source}}{{end}}{{end}}";
        let file = PathBuf::from(self.container.inspect(template)).join(name);
        let text = change(fs::read_to_string(&file).expect("it is mounted"));
        fs::write(&file, text).expect("written");
    }

    /// Copies a directory into a place of one of its volumes.
    pub fn copy_in(&self, source: &Path, target: &str) {
        expect(&["cp", &source.display().to_string(), &format!("{}:{target}", self.container.name)]);
    }
}

/// The status of one HTTP request within a time, or what went wrong.
pub fn get((address, port): (&str, u16), host: &str, path: &str, timeout: Duration) -> Result<u16, String> {
    let deadline = Instant::now() + timeout;
    let address = SocketAddr::new(address.parse().expect("an address"), port);
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, timeout)?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left))?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map(|_| answer)
    };
    let answer = ask().map_err(|error: std::io::Error| error.to_string())?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split_whitespace().nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| format!("no HTTP answer: {text:?}"))
}
