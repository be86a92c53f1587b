//! Rows of results as Bots's engine writes them, and their representation in `/status`.

use serde_json::Value;

use crate::support::sandbox::{Running, Sandbox, wait_until};
use crate::support::servers::Engine;

/// The results in `/status`, once they meet the condition.
pub fn wait_results(running: &Running, what: &str, is_right: impl Fn(&Value) -> bool) -> Value {
    let asked = || {
        let status: Value = serde_json::from_str(&running.health("/status")?.body).ok()?;
        Some(status["results"].clone()).filter(|results| is_right(results))
    };
    wait_until(what, asked, || format!("{:?}\n{}", running.health("/status"), running.report()))
}

/// Reads results so frequently that a test need not wait for them.
pub fn eager(sandbox: &mut Sandbox) {
    sandbox.set("BOTS_CTL_RESULTS_INTERVAL", "100ms").set("BOTS_CTL_HEALTH_INTERVAL", "200ms");
}

/// A statement that inserts a row of `filereport`, whose columns have no defaults.
pub fn file_row(number: i64, report: i64, state: i64, route: &str, at: &str) -> String {
    const EMPTY: [&str; 16] = [
        "fromchannel",
        "tochannel",
        "frompartner",
        "topartner",
        "frommail",
        "tomail",
        "ineditype",
        "inmessagetype",
        "outeditype",
        "outmessagetype",
        "incontenttype",
        "outcontenttype",
        "infilename",
        "outfilename",
        "divtext",
        "errortext",
    ];
    let (names, values) = (EMPTY.join(", "), ["''"; EMPTY.len()].join(", "));
    format!(
        "INSERT INTO filereport (idta, reportidta, statust, idroute, ts, retransmit, nrmessages, outidta, {names}) \
         VALUES ({number}, {report}, {state}, '{route}', {at}, 0, 1, 0, {values});\n"
    )
}

/// A statement that inserts a row of `report`: files that went all the way, and files with errors.
pub fn run_row(number: i64, kind: &str, done: i64, errors: i64, at: &str, no_and_yes: [&str; 2]) -> String {
    let (received, failed) = (done + errors, no_and_yes[usize::from(errors > 0)]);
    format!(
        "INSERT INTO report (idta, lastreceived, lastdone, lastopen, lastok, lasterror, send, processerrors, ts, type, status) \
         VALUES ({number}, {received}, {done}, 0, 0, {errors}, {done}, 0, {at}, '{kind}', {failed});\n"
    )
}

/// False and true.
pub fn no_and_yes(engine: Engine) -> [&'static str; 2] {
    if engine == Engine::Postgresql { ["false", "true"] } else { ["0", "1"] }
}
