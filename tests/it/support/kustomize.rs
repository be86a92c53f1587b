//! The manifests as `kubectl kustomize` renders them, with the very tools that are pinned in `tests/containers`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{Container, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::support::needs::{Need, needs};

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// The environments.
pub const OVERLAYS: [&str; 3] = ["dev", "staging", "prod"];

/// The directory of the manifests.
pub fn k3s() -> PathBuf {
    Path::new(PROJECT).join("k3s")
}

/// A program of the tools, which are installed once; a failed installation is not repeated.
pub fn tool(name: &str) -> Command {
    static DIR: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    needs(Need::PythonTools);
    let dir =
        DIR.get_or_init(install_tools).as_ref().unwrap_or_else(|error| panic!("tests/containers/tools.sh: {error}"));
    let mut command = Command::new(dir.join(name));
    command.stdin(Stdio::null());
    command
}

fn install_tools() -> Result<PathBuf, String> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tools");
    let mut install = Command::new(format!("{PROJECT}/tests/containers/tools.sh"));
    let installed = install.arg(&dir).stdin(Stdio::null()).output().expect("it can be run");
    if installed.status.success() { Ok(dir) } else { Err(text(&installed.stderr)) }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A kustomization as YAML.
pub fn render(dir: &Path) -> String {
    let rendered = tool("bin/kubectl").arg("kustomize").arg(dir).output().expect("kubectl can be run");
    assert!(rendered.status.success(), "kubectl kustomize {}: {}", dir.display(), text(&rendered.stderr));
    text(&rendered.stdout)
}

/// The objects of a rendered kustomization.
pub fn objects(yaml: &str) -> Vec<Value> {
    let documents = serde_yaml_ng::Deserializer::from_str(yaml);
    documents.map(|document| serde::Deserialize::deserialize(document).expect("it is YAML")).collect()
}

/// The object of this kind and name; the hash of a generated name is ignored.
pub fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is_it = |object: &&Value| {
        let found = object["metadata"]["name"].as_str().unwrap_or_default();
        object["kind"] == kind && (found == name || (kind == "ConfigMap" && found.starts_with(&format!("{name}-"))))
    };
    objects.iter().find(is_it).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// A copy of all manifests that may be changed.
pub fn copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for entry in walkdir::WalkDir::new(k3s()) {
        let entry = entry.expect("readable");
        let target = dir.path().join(entry.path().strip_prefix(k3s()).expect("below it"));
        if entry.file_type().is_dir() {
            fs::create_dir_all(target).expect("made");
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
    dir
}

/// The objects of an overlay with one more component.
pub fn overlay_with(name: &str, component: &str) -> Vec<Value> {
    let copy = copy();
    let dir = copy.path().join("overlays").join(name);
    let file = dir.join("kustomization.yaml");
    let text = fs::read_to_string(&file).expect("readable");
    let (image, added) = ("  - ../../components/image\n", format!("  - ../../components/{component}\n"));
    assert!(text.contains(image), "{name}");
    let text = if text.contains(&added) { text } else { text.replace(image, &format!("{image}{added}")) };
    // As the component asks for.
    let text = match component {
        "autoscaling" => text.replace("  - name: bots-webserver\n    count: ", "  - name: bots-jobqueue\n    count: "),
        _ => text,
    };
    fs::write(file, text).expect("written");
    objects(&render(&dir))
}

/// The objects of an overlay as it is.
pub fn overlay(name: &str) -> Vec<Value> {
    objects(&render(&k3s().join("overlays").join(name)))
}

pub fn typed<T: DeserializeOwned>(object: &Value) -> T {
    serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}\n{object:#}"))
}

pub fn of_kind<T: DeserializeOwned>(objects: &[Value], kind: &str) -> Vec<T> {
    objects.iter().filter(|object| object["kind"] == kind).map(typed).collect()
}

/// Names and pods of everything that runs.
pub fn pods(objects: &[Value]) -> Vec<(String, PodSpec)> {
    let deployments = of_kind::<Deployment>(objects, "Deployment").into_iter().map(|deployment| {
        let spec = deployment.spec.expect("it has one");
        (deployment.metadata.name.expect("named"), spec.template.spec.expect("it has one"))
    });
    let jobs = of_kind::<CronJob>(objects, "CronJob").into_iter().map(|job| {
        let spec = job.spec.expect("it has one").job_template.spec.expect("it has one");
        (job.metadata.name.expect("named"), spec.template.spec.expect("it has one"))
    });
    deployments.chain(jobs).collect()
}

/// Port, path and probe; a port's name is looked up.
pub fn http_probe<'a>(container: &Container, probe: &'a Probe) -> (i32, String, &'a Probe) {
    let get = probe.http_get.as_ref().expect("an HTTP probe");
    let port = match &get.port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            ports.clone().find(|port| port.name.as_ref() == Some(name)).expect("a port of this name").container_port
        }
    };
    (port, get.path.clone().expect("a path"), probe)
}

/// Mount points inside of other volumes that no init container makes, by `mkdir` in the volume that they are in.
pub fn unmade_mount_points(pod: &PodSpec) -> Vec<String> {
    let made: Vec<(String, PathBuf)> = pod.init_containers.iter().flatten().flat_map(made_directories).collect();
    let mut unmade = Vec::new();
    for container in &pod.containers {
        let mounts: Vec<_> = container.volume_mounts.iter().flatten().collect();
        for mount in &mounts {
            let path = Path::new(&mount.mount_path);
            let outer = mounts.iter().filter(|outer| outer.name != mount.name && path.starts_with(&outer.mount_path));
            let Some(outer) = outer.max_by_key(|outer| outer.mount_path.len()) else { continue };
            let inside = path.strip_prefix(&outer.mount_path).expect("it begins so").to_path_buf();
            if !made.contains(&(outer.name.clone(), inside)) {
                unmade.push(mount.mount_path.clone());
            }
        }
    }
    unmade
}

/// The volumes, and the paths in them, of the directories that a container of `mkdir` makes.
fn made_directories(container: &Container) -> Vec<(String, PathBuf)> {
    let args = container.args.clone().unwrap_or_default();
    let Some(dirs) = args.strip_prefix(["exec", "--", "mkdir", "-p"].map(str::to_owned).as_slice()) else {
        return Vec::new();
    };
    let in_volume = |dir: &String| {
        let mounts = container.volume_mounts.iter().flatten();
        let inside = |path: &str| Path::new(dir).strip_prefix(path).ok().map(Path::to_path_buf);
        mounts.filter_map(|mount| Some((mount.name.clone(), inside(&mount.mount_path)?))).next()
    };
    dirs.iter().filter_map(in_volume).collect()
}

/// The keys of the secret, as its template has them.
pub fn secret_keys() -> Vec<String> {
    let template = fs::read_to_string(k3s().join("secrets/secrets.env.example")).expect("readable");
    let mut keys: Vec<String> =
        template.lines().filter_map(|line| line.split_once('=')).map(|(key, _)| key.to_owned()).collect();
    keys.sort();
    keys
}
