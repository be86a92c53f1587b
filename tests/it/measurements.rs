//! Runs scripts of `tests/bench` with few rounds, so that they still work when a report is due. Their values are not
//! looked at: a timing is no test.

use std::path::Path;
use std::process::Command;

use crate::support::needs::{Need, needs};
use crate::support::sandbox::{binary, bots_bin_dir};

/// The themes that need nothing but Bots and take a minute together. Most settings are in these.
const SCRIPTS: [&str; 4] = ["changes", "memory", "probes", "starts"];

#[apply(test)]
fn measurement_scripts_complete() {
    needs(Need::Time);
    for name in SCRIPTS {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/bench/{name}.py"));
        let mut measuring = Command::new("python3");
        measuring.arg("-B").arg(script).args(["--quick", "--part", "--bots"]).arg(bots_bin_dir()).arg(binary());
        let measured = measuring.output().expect("Python can be run");
        let [report, errors] = [&measured.stdout, &measured.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(measured.status.success(), "{name}.py: {}\n{report}\n{errors}", measured.status);
        assert!(report.contains("| measured | bots-ctl |"), "{name}.py prints no table:\n{report}\n{errors}");
    }
}
