//! What `install` installs, and its record in the directory: version and drivers, also of an unfinished installation.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::Error;
use crate::fs::regular;
use crate::model::{BotsVersion, Driver};

const BOTS: &str = include_str!("requirements/bots-3.3.1.txt");
const MYSQL: &str = include_str!("requirements/mysql.txt");
const POSTGRESQL: &str = include_str!("requirements/postgresql.txt");
const BOTS_4: &str = include_str!("requirements/bots-4.txt");
const POSTGRESQL_4: &str = include_str!("requirements/postgresql-4.txt");

/// Written after everything is installed.
pub const STAMP: &str = "bots-ctl-complete";

/// Written first: marks the directory as one that bots-ctl may delete, and keeps the stamp of the installation that is
/// being changed.
pub const UNFINISHED: &str = "bots-ctl-unfinished";

/// The name of the packages of Bots 4.x, which is in the stamp of such an installation.
const BOTS_4_FILE: &str = "bots-4.txt";

/// The build tools; the last ones are for Bots 4.x.
pub const BUILD: [Requirements; 2] = [
    Requirements::new("build.txt", include_str!("requirements/build.txt")),
    Requirements::new("build-4.txt", include_str!("requirements/build-4.txt")),
];

/// Pinned packages in the format of pip.
pub struct Requirements {
    /// Of the file.
    pub name: &'static str,
    pub text: &'static str,
}

impl Requirements {
    const fn new(name: &'static str, text: &'static str) -> Self {
        Self { name, text }
    }
}

impl Driver {
    fn requirements(self, version: BotsVersion) -> Requirements {
        match (self, version) {
            (Self::Mysql, _) => Requirements::new("mysql.txt", MYSQL),
            (Self::Postgresql, BotsVersion::V3) => Requirements::new("postgresql.txt", POSTGRESQL),
            (Self::Postgresql, BotsVersion::V4) => Requirements::new("postgresql-4.txt", POSTGRESQL_4),
        }
    }
}

/// Whether a finished installation is there, of whatever version.
pub fn is_complete(dir: &Path) -> bool {
    dir.join(STAMP).is_file()
}

/// The record of an earlier installation.
pub struct Recorded {
    /// Of an unfinished one, that before the change; empty if there is none.
    pub stamp: String,
    pub is_complete: bool,
}

impl Recorded {
    pub fn read(dir: &Path) -> Self {
        let is_complete = is_complete(dir);
        let file = dir.join(if is_complete { STAMP } else { UNFINISHED });
        Self { stamp: regular::read_to_string(&file).unwrap_or_default(), is_complete }
    }
}

/// The version of Bots to install, beside what an earlier installation has recorded.
pub fn version(has_source: bool, current: &Recorded, dir: &Path) -> Result<BotsVersion, Error> {
    let was_4 = current.stamp.contains(BOTS_4_FILE);
    if has_source && !was_4 && current.is_complete {
        return Err(Error::fault(format!(
            "{} holds Bots 3.3.1: remove it, or set BOTS_CTL_INSTALL_DIR to a directory for Bots 4.x",
            dir.display()
        )));
    }
    if was_4 && !has_source && !current.is_complete {
        return Err(Error::fault(format!(
            "the unfinished installation in {} was Bots 4.x: run bots-ctl install --from DIR|WHEEL again",
            dir.display()
        )));
    }
    Ok(if has_source || was_4 { BotsVersion::V4 } else { BotsVersion::V3 })
}

/// The requirement files for these drivers and for those of an earlier installation with this stamp.
pub fn requirement_files(drivers: &[Driver], current: &str, version: BotsVersion) -> Vec<Requirements> {
    let wanted = |driver: &Driver| drivers.contains(driver) || current.contains(driver.requirements(version).name);
    let extra = [Driver::Mysql, Driver::Postgresql].into_iter().filter(wanted);
    let bots = match version {
        BotsVersion::V3 => Requirements::new("bots-3.3.1.txt", BOTS),
        BotsVersion::V4 => Requirements::new(BOTS_4_FILE, BOTS_4),
    };
    std::iter::once(bots).chain(extra.map(|driver| driver.requirements(version))).collect()
}

/// The names of the installed packages, so that another binary, or another set of drivers, gets another stamp.
pub fn stamp(files: &[Requirements]) -> String {
    let line = |file: &Requirements| {
        let hash = Sha256::digest(file.text.as_bytes());
        format!("{} {:02x}{:02x}{:02x}{:02x}\n", file.name, hash[0], hash[1], hash[2], hash[3])
    };
    files.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_requirement_is_pinned_and_hashed() {
        let build = BUILD.map(|file| file.text);
        for text in [BOTS, MYSQL, POSTGRESQL, BOTS_4, POSTGRESQL_4].into_iter().chain(build) {
            let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
            let pins = lines.iter().filter(|line| line.contains("==") && !line.starts_with(' ')).count();
            assert!(pins > 0);
            for (at, line) in lines.iter().enumerate().filter(|(_, line)| !line.starts_with(' ') && !line.is_empty()) {
                assert!(line.contains("=="), "{line}");
                assert!(lines[at + 1].trim().starts_with("--hash=sha256:"), "{line}");
            }
        }
    }

    #[test]
    fn reinstall_keeps_drivers_and_version() {
        let dir = Path::new("/venv");
        let recorded = |stamp: &str, is_complete| Recorded { stamp: stamp.to_owned(), is_complete };
        for (has_source, version_before) in [(false, BotsVersion::V3), (true, BotsVersion::V4)] {
            assert_eq!(version(has_source, &recorded("", false), dir).expect("nothing is there"), version_before);
            let before = stamp(&requirement_files(&[Driver::Mysql], "", version_before));
            assert_eq!(version(false, &recorded(&before, true), dir).expect("it stays"), version_before);
            assert_eq!(version(has_source, &recorded(&before, false), dir).expect("it is resumed"), version_before);
            let files = requirement_files(&[Driver::Postgresql], &before, version_before);
            assert_eq!(files.len(), 3);
            assert_ne!(stamp(&files), before);
        }
        let [bots_3, bots_4] =
            [BotsVersion::V3, BotsVersion::V4].map(|version| stamp(&requirement_files(&[], "", version)));
        assert!(
            version(true, &recorded(&bots_3, true), dir).expect_err("refused").to_string().contains("holds Bots 3.3.1")
        );
        assert!(
            version(false, &recorded(&bots_4, false), dir).expect_err("refused").to_string().contains("was Bots 4.x")
        );
    }
}
