//! Detects volumes that are mounted for an environment of another name.

use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::fs::mount_points::{MOUNT_TABLE, mount_points};

/// The error for a new environment if volumes are mounted for another one: the files of the new one would be lost with
/// the container.
pub fn fault(config: &Config) -> Option<String> {
    let name = &config.environment.name;
    let (root, config_dir) = (config.environment_root(), &config.environment.config_dir);
    let all = config.home.join(".bots/env");
    if root != all.join(name) || config_dir.exists() {
        return None;
    }
    let volume = volume_of_another(mount_points(&fs::read(MOUNT_TABLE).ok()?), &all, root)?;
    let other = volume.strip_prefix(&all).ok()?.iter().next()?.display();
    Some(format!(
        "BOTSENV={name}: the environment would be {}, but a volume is mounted at {}: set \
         BOTSENV={other}, or mount the volumes below {}; for a second environment, create {}",
        root.display(),
        volume.display(),
        root.display(),
        config_dir.display()
    ))
}

/// A mount point of another environment below `all`, if `root` has none.
fn volume_of_another(points: Vec<PathBuf>, all: &Path, root: &Path) -> Option<PathBuf> {
    let (own, others): (Vec<_>, Vec<_>) =
        points.into_iter().filter(|path| path != all && path.starts_with(all)).partition(|path| path.starts_with(root));
    others.into_iter().next().filter(|_| own.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_of_another_environment_is_detected() {
        let found = |paths: &[&str]| {
            let points = paths.iter().map(PathBuf::from).collect();
            volume_of_another(points, Path::new("/h o/.bots/env"), Path::new("/h o/.bots/env/dev"))
        };
        for paths in
            [&["/", "/h o/.bots", "/h o/.bots/env"][..], &["/h o/.bots/env/default", "/h o/.bots/env/dev/botssys"]]
        {
            assert_eq!(found(paths), None, "{paths:?}");
        }
        let botssys = "/h o/.bots/env/default/botssys";
        assert_eq!(found(&["/h o", "/h o/.bots/env/default/botssys"]), Some(PathBuf::from(botssys)));
        assert_eq!(found(&["/h o/.bots/env/developer"]), Some(PathBuf::from("/h o/.bots/env/developer")));
    }
}
