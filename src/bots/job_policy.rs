//! Tasks of the job queue: which are allowed, and how they run.
//!
//! Bots's programs name the engine in several ways: `bots-engine`, its full path, and with Bots 3 a Python and the full
//! path. All of them are the same engine, which is started by the name on PATH, and for this environment: a client of
//! the queue must not choose the directory from which settings are imported.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::child_env::ChildEnv;
use super::context::BotsContext;
use super::engine_command::{is_old_name, is_python};
use super::engine_shim::NAME as ENGINE;
use crate::process::child::ProcessSpec;

/// The option before the configuration directory, without a space.
const CONFIG_DIR: &str = "-c";

/// The allowed tasks, and how they run. Outlives the preparations.
#[derive(Clone)]
pub struct JobPolicy {
    bin_dir: PathBuf,
    config: PathBuf,
    root: PathBuf,
    variables: ChildEnv,
    authorised: Vec<String>,
}

/// The process of a job.
pub struct JobProcess {
    pub process: ProcessSpec,
    pub is_engine: bool,
}

impl JobPolicy {
    /// Tasks of this environment. `authorised` are the first words allowed by bots.ini.
    pub fn new(bots: &BotsContext<'_>, authorised: Vec<String>) -> Self {
        Self {
            bin_dir: bots.bots.bin_dir.clone(),
            config: bots.environment.config.clone(),
            root: bots.environment.root.clone(),
            variables: bots.variables.clone(),
            authorised,
        }
    }

    /// The process of a task; `None` if the task is not allowed.
    pub fn process(&self, argv: &[String]) -> Option<JobProcess> {
        let (mut process, is_engine) = match argv {
            [first, rest @ ..] if self.is_engine(first) => (self.engine(rest)?, true),
            // Any Python: the engine is started by the name on PATH. A virtual environment may have several paths, and
            // for another one Bots reports the path of Python, not that of its programs.
            [first, second, rest @ ..]
                if is_python(OsStr::new(first)) && self.is_engine(second) && second.contains('/') =>
            {
                (self.engine(rest)?, true)
            }
            [first, rest @ ..] if self.authorised.contains(first) => {
                (ProcessSpec::new(first).args(rest.iter().map(String::as_str)), false)
            }
            _ => return None,
        };
        process.directory = Some(self.root.clone());
        Some(JobProcess { process: self.variables.apply(process), is_engine })
    }

    /// The name, or an existing path: in the directory of Bots's programs, or on the engine's PATH. The old name counts
    /// with any path, since the program no longer exists.
    fn is_engine(&self, word: &str) -> bool {
        let path = Path::new(word);
        let known = |dir: &Path| path.parent() == Some(dir);
        word == ENGINE
            || is_old_name(OsStr::new(word))
            || path.file_name() == Some(OsStr::new(ENGINE))
                && path.is_file()
                && (known(&self.bin_dir) || self.path().iter().any(|dir| known(dir)))
    }

    fn path(&self) -> Vec<PathBuf> {
        let path = self.variables.0.iter().find(|(name, _)| name == "PATH");
        path.map(|(_, path)| std::env::split_paths(path).collect()).unwrap_or_default()
    }

    /// Whether all configuration directories in the arguments are that of this environment, by any path.
    fn targets_this_environment(&self, arguments: &[String]) -> bool {
        let is_ours = |directory: &str| {
            let named = self.root.join(directory);
            named == self.config
                || named.canonicalize().is_ok_and(|named| self.config.canonicalize().is_ok_and(|ours| ours == named))
        };
        arguments.iter().filter_map(|argument| argument.strip_prefix(CONFIG_DIR)).all(is_ours)
    }

    /// Passes this environment's own path of the configuration directory: without one Bots would choose its default,
    /// and the target of another path may have changed. `None` for the engine of another environment.
    fn engine(&self, arguments: &[String]) -> Option<ProcessSpec> {
        let mut config = OsString::from(CONFIG_DIR);
        config.push(&self.config);
        let others = arguments.iter().filter(|argument| !argument.starts_with(CONFIG_DIR));
        let spec = ProcessSpec::new(ENGINE).arg(config).args(others.map(String::as_str));
        self.targets_this_environment(arguments).then_some(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(dir: &Path) -> JobPolicy {
        for name in ["bots-engine", "python3", "other"] {
            std::fs::write(dir.join(name), "").expect("written");
        }
        JobPolicy {
            bin_dir: dir.to_path_buf(),
            config: "/env/config".into(),
            root: "/env".into(),
            variables: ChildEnv(vec![("PATH".into(), dir.into())]),
            authorised: vec!["/bin/custom".into()],
        }
    }

    fn argv(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn engine_names_of_all_submitters_are_authorized() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (tasks, bin) = (tasks(dir.path()), dir.path().display());
        for start in [
            "bots-engine".to_owned(),
            format!("{bin}/bots-engine"),
            format!("{bin}/python3 {bin}/bots-engine"),
            format!("/usr/bin/python3.11 {bin}/bots-engine"),
            "bots-engine.py".to_owned(),
            "/usr/local/bin/bots-engine.py".to_owned(),
            "python2.7 /usr/local/bin/bots-engine.py".to_owned(),
        ] {
            let task = argv(&format!("{start} -c/env/config --new"));
            let JobProcess { process, is_engine } =
                tasks.process(&task).unwrap_or_else(|| panic!("{start} is authorised"));
            assert!(is_engine && process.program == "bots-engine", "{start}");
            assert_eq!(process.args, ["-c/env/config", "--new"], "{start}");
        }
        let JobProcess { process, .. } = tasks.process(&argv("bots-engine --new")).expect("authorised");
        assert_eq!(process.args, ["-c/env/config", "--new"]);
    }

    #[test]
    fn engine_of_another_environment_is_not_authorized() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut tasks = tasks(dir.path());
        for name in ["config", "other"] {
            std::fs::create_dir(dir.path().join(format!("{name}.d"))).expect("made");
        }
        std::os::unix::fs::symlink("config.d", dir.path().join("link")).expect("made");
        (tasks.root, tasks.config) = (dir.path().into(), dir.path().join("config.d"));
        let ours = tasks.config.display().to_string();
        for ours in [&ours, &format!("{ours}/"), "config.d", "link", "./other.d/../config.d"] {
            let task = argv(&format!("bots-engine -c{ours} --new"));
            let JobProcess { process, .. } = tasks.process(&task).expect("it is ours");
            assert_eq!(process.args, [&*format!("-c{}", tasks.config.display()), "--new"]);
        }
        for other in [
            "-c",
            "-c/",
            "-cother.d",
            "-cnothing",
            &format!("-c{ours} -cother.d"),
            &format!("--new orders -c{ours}/.."),
        ] {
            assert!(tasks.process(&argv(&format!("bots-engine {other}"))).is_none(), "{other}");
        }
    }

    #[test]
    fn only_engines_and_programs_of_bots_ini_are_authorized() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (tasks, bin) = (tasks(dir.path()), dir.path().display());
        let JobProcess { process, is_engine } = tasks.process(&argv("/bin/custom a")).expect("authorised");
        assert!(!is_engine && process.program == "/bin/custom" && process.args == ["a"]);
        let wrong = [
            "",
            "/bin/touch x",
            "sh bots-engine",
            "/tmp/bots-engine",
            &format!("{bin}/other"),
            &format!("{bin}/python3 -c print()"),
            &format!("{bin}/python3 bots-engine"),
            &format!("/usr/bin/python3 {bin}/other"),
            &format!("/usr/bin/perl {bin}/bots-engine"),
            "/usr/bin/perl /usr/bin/bots-engine.py",
            &format!("{bin}/../bots-engine"),
        ];
        for wrong in wrong {
            assert!(tasks.process(&argv(wrong)).is_none(), "{wrong}");
        }
        assert!(tasks.process(&[]).is_none());
    }
}
