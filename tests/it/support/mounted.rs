//! A mounted configuration that changes while services run.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::Value;

use crate::support::sandbox::{Running, Sandbox, wait_until};

/// A directory that is changed as a kubelet changes a mounted ConfigMap: all files at once.
pub struct Mount {
    dir: tempfile::TempDir,
    version: std::cell::Cell<u32>,
}

impl Mount {
    /// The mount of this sandbox, with no files.
    pub fn of(sandbox: &mut Sandbox) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        sandbox.set("BOTS_CTL_CONFIG_SOURCE", dir.path().display().to_string());
        sandbox.set("BOTS_CTL_RELOAD_INTERVAL", "20ms").set("LOG_LEVEL", "debug");
        Self { dir, version: std::cell::Cell::new(0) }
    }

    /// Mounts these files in the place of those that are there.
    pub fn mount(&self, files: &[(&str, &str)]) {
        self.version.set(self.version.get() + 1);
        let version = format!("..version_{}", self.version.get());
        fs::create_dir(self.dir.path().join(&version)).expect("made");
        for (name, content) in files {
            fs::write(self.dir.path().join(&version).join(name), content).expect("written");
        }
        symlink(version, self.dir.path().join("..data_tmp")).expect("linked");
        fs::rename(self.dir.path().join("..data_tmp"), self.dir.path().join("..data")).expect("renamed");
        for (name, _) in files {
            let _ = symlink(Path::new("..data").join(name), self.dir.path().join(name));
        }
    }

    pub fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
}

/// Another web UI that shares the volume, until it is dropped.
pub fn another_web_ui(sandbox: &Sandbox) -> File {
    let path = sandbox.root().join(".bots-ctl-web.lock");
    let file = File::options().create(true).truncate(false).write(true).open(path).expect("the environment is there");
    file.lock_shared().expect("it can be locked");
    file
}

/// The content of the status.
pub fn status(running: &Running) -> Value {
    let body = running.health("/status").map(|answer| answer.body).unwrap_or_default();
    serde_json::from_str(&body).unwrap_or_default()
}

/// Waits until an error of the mounted configuration is reported.
pub fn wait_refused(running: &Running, fault: &str) {
    let refused = || {
        let status = status(running);
        let faults = status["refused"].as_array()?.iter().filter_map(Value::as_str);
        faults.into_iter().any(|refused| refused.contains(fault)).then_some(())
    };
    wait_until(&format!("{fault} is refused"), refused, || format!("{:#}\n{}", status(running), running.report()));
}
