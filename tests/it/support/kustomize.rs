//! The manifests as `kubectl kustomize` renders them, with the very tools that are pinned in `tests/containers`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::support::needs::{Need, needs};

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// The directory of the manifests.
pub fn k3s() -> PathBuf {
    Path::new(PROJECT).join("k3s")
}

/// A program of the tools, which are installed once; where that fails, it fails once and for all.
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

/// The object of this kind and name; generated names count without what is added to them.
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

/// A copy in which `overlays/test` is the base with one component.
pub fn with_component(name: &str) -> tempfile::TempDir {
    let copy = copy();
    let overlay = copy.path().join("overlays/test");
    fs::create_dir(&overlay).expect("made");
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: edi-test\n\
         resources: [../../base, ../../deployments, ../../jobs]\n\
         components: [../../components/image, ../../components/{name}]\n"
    );
    fs::write(overlay.join("kustomization.yaml"), text).expect("written");
    copy
}
