//! Volumes that are mounted for an environment of another name than the one that is asked for.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;

/// The fault of a new environment beside one that has volumes: the files of the new one would be lost with the container.
pub fn fault(config: &Config) -> Option<String> {
    let name = &config.environment.name;
    let (root, config_dir) = (config.environment_root(), &config.environment.config_dir);
    let all = config.home.join(".bots/env");
    if root != all.join(name) || config_dir.exists() {
        return None;
    }
    let volume = volume_of_another(&fs::read_to_string("/proc/self/mountinfo").ok()?, &all, root)?;
    let other = volume.strip_prefix(&all).ok()?.iter().next()?.display();
    Some(format!(
        "BOTSENV={name}: the environment would be {}, but there is a volume at {}: set BOTSENV={other}, or mount the volumes below {}; \
         for an environment of its own beside that one, create {}",
        root.display(),
        volume.display(),
        root.display(),
        config_dir.display()
    ))
}

/// A mount point of another environment below `all`, where the one at `root` has none. `table` is that of the kernel, which writes
/// some characters of paths as octal digits.
fn volume_of_another(table: &str, all: &Path, root: &Path) -> Option<PathBuf> {
    let plain =
        |path: &str| path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(|path| PathBuf::from(plain(path)));
    let (own, others): (Vec<_>, Vec<_>) =
        points.filter(|path| path != all && path.starts_with(all)).partition(|path| path.starts_with(root));
    others.into_iter().next().filter(|_| own.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_count_by_the_environment_that_they_are_for() {
        let found = |paths: &[&str]| {
            let line = |path: &&str| format!("36 35 98:0 / {path} rw,noatime - ext4 /dev/root rw\n");
            let table: String = paths.iter().map(line).collect();
            volume_of_another(&table, Path::new("/h o/.bots/env"), Path::new("/h o/.bots/env/dev"))
        };
        for paths in [
            &["/", "/h\\040o/.bots", "/h\\040o/.bots/env"][..],
            &["/h\\040o/.bots/env/default", "/h\\040o/.bots/env/dev/botssys"],
        ] {
            assert_eq!(found(paths), None, "{paths:?}");
        }
        let botssys = "/h o/.bots/env/default/botssys";
        assert_eq!(found(&["/h\\040o", "/h\\040o/.bots/env/default/botssys"]), Some(PathBuf::from(botssys)));
        assert_eq!(found(&["/h\\040o/.bots/env/developer"]), Some(PathBuf::from("/h o/.bots/env/developer")));
    }
}
