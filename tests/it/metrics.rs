//! `/metrics`, as a real Prometheus server reads it, and what documentation, database and probes have to do with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bots_ctl::metrics::definitions::{ALL, MetricDef};
use nix::sys::signal::Signal;

use crate::support::demo_translation::Demo;
use crate::support::kustomize::text;
use crate::support::needs::{Need, needs};
use crate::support::pods::System;
use crate::support::queue::{Queue, with_queue};
use crate::support::sandbox::{Running, free_port, http, python, raw_http, wait_until};
use crate::support::servers::{Database, Engine, Server, USER, on_each_database};

on_each_database! {
    unwritable_run_metrics_do_not_fail_run,
}

/// More than the limit of label values.
const ROUTES: usize = 160;

/// A Prometheus server that scrapes one listener; ends with the test.
struct Prometheus {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Prometheus {
    fn of(health_port: u16) -> Self {
        needs(Need::Prometheus);
        let (dir, port) = (tempfile::tempdir().expect("a temporary directory"), free_port());
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs: [{{job_name: bots, static_configs: [{{targets: ['127.0.0.1:{health_port}']}}]}}]\n"
        );
        fs::write(dir.path().join("prometheus.yml"), config).expect("written");
        let log = fs::File::create(dir.path().join("log")).expect("made");
        let mut server = Command::new("prometheus");
        server.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
        server.arg(format!("--web.listen-address=127.0.0.1:{port}")).current_dir(dir.path());
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = server.spawn().expect("see tests/run.sh");
        let prometheus = Self { child, port, dir };
        let ready = || http(port, "GET", "/-/ready").filter(|answer| answer.status == 200);
        wait_until("Prometheus is ready", ready, || prometheus.log());
        prometheus
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The one value that a query has now.
    fn value(&self, query: &str) -> Option<f64> {
        let coded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = http(self.port, "GET", &format!("/api/v1/query?query={coded}"))?;
        let answer: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
        let results = answer["data"]["result"].as_array()?;
        assert!(results.len() < 2, "{query}: {results:?}");
        results.first()?["value"][1].as_str()?.parse().ok()
    }

    fn wait(&self, query: &str, wanted: f64, running: &Running) {
        let is_it = || (self.value(query) == Some(wanted)).then_some(());
        let report = || format!("it is {:?}\n{}\n{}", self.value(query), page(running), running.report());
        wait_until(&format!("{query} is {wanted}"), is_it, report);
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn page(running: &Running) -> String {
    running.health("/metrics").map(|answer| answer.body).unwrap_or_default()
}

/// Names and types of the families of a page.
fn types(page: &str) -> BTreeMap<String, String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

/// The value of a sample of a page, by its name and labels as they are written.
fn sample(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// The values of a label are those that its help names.
fn expect_named_label_values(page: &str) {
    for family in ALL {
        let Some((_, values)) = family.help.rsplit_once(": ").filter(|(text, _)| text.contains("by ")) else {
            continue;
        };
        let named: BTreeSet<&str> = values.split(", ").flat_map(|value| value.split(" or ")).collect();
        let start = format!("{}{{{}=\"", family.name, family.labels[0]);
        let labels = page.lines().filter_map(|line| line.strip_prefix(&start)?.split('"').next());
        let found: BTreeSet<&str> = labels.collect();
        assert!(found.is_empty() || found == named, "{}: {found:?}", family.help);
    }
}

/// What Prometheus' own linter finds.
fn lint(page: &str) {
    needs(Need::Prometheus);
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("see tests/run.sh");
    promtool.stdin.take().expect("piped").write_all(page.as_bytes()).expect("it reads");
    let checked = promtool.wait_with_output().expect("it ends");
    assert!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
}

/// Rows of the table: name, type, labels and meaning.
fn documented() -> Vec<[String; 4]> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let documentation = fs::read_to_string(path).expect("readable");
    let rows = documentation.lines().filter(|line| line.starts_with("| `botsctl_") || line.starts_with("| `process_"));
    let cell = |cells: &[&str], place: usize| cells[place].trim().replace('`', "");
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').skip(1).collect();
        [0, 1, 2, 3].map(|place| cell(&cells, place))
    })
    .collect()
}

#[apply(test)]
fn documented_metrics_match_code() {
    let row = |family: &MetricDef| {
        [family.name.to_owned(), family.kind.as_str().to_owned(), family.labels.join(", "), family.help.to_owned()]
    };
    let (found, expected) = (documented(), ALL.iter().map(row).collect::<Vec<_>>());
    let (found, expected): (BTreeSet<_>, BTreeSet<_>) = (found.into_iter().collect(), expected.into_iter().collect());
    assert_eq!(found.difference(&expected).collect::<Vec<_>>(), Vec::<&[String; 4]>::new(), "documented only");
    assert_eq!(expected.difference(&found).collect::<Vec<_>>(), Vec::<&[String; 4]>::new(), "not documented");
}

/// Files that come to a watched directory, the runs that they start, and what becomes of them.
#[apply(test)]
fn prometheus_scrapes_results_of_orders() {
    let mut demo = Demo::install(with_queue().0);
    demo.sandbox.set_ini("dirmonitor1", "path", &demo.input().display().to_string());
    demo.sandbox.set_ini("dirmonitor1", "route", "demo_orders");
    demo.sandbox.set("BOTS_CTL_UP_SERVICES", "jobqueue,webserver,dirmonitor,engine");
    demo.sandbox.set("BOTS_CTL_RESULTS_INTERVAL", "200ms").set("BOTS_CTL_DIRMONITOR_RESCAN_INTERVAL", "1s");
    let up = demo.sandbox.start(&["up"]);
    up.wait_ready();
    let prometheus = Prometheus::of(demo.sandbox.health_port);
    prometheus.wait("botsctl_engine_runs_total{outcome=\"success\"}", 1.0, &up);
    prometheus.wait("botsctl_edi_files_received_total{route=\"demo_orders\"}", 0.0, &up);
    prometheus.wait("sum(botsctl_dirmonitor_directories{backend!=\"none\"})", 1.0, &up);

    demo.drop_in("input");
    prometheus.wait("botsctl_edi_files_received_total{route=\"demo_orders\"}", 3.0, &up);
    prometheus.wait("botsctl_edi_files_sent_total{route=\"demo_orders\"}", 5.0, &up);
    prometheus.wait("botsctl_edi_file_errors_total{route=\"demo_orders\"}", 0.0, &up);
    prometheus.wait("botsctl_jobs_ended_total{outcome=\"failed\"}", 0.0, &up);
    assert!(prometheus.value("botsctl_dirmonitor_events_total") > Some(0.0));
    // The files are finished before the run, whose totals include them.
    prometheus.wait("botsctl_engine_run_duration_seconds_count > bool 1", 1.0, &up);

    demo.drop_in("bad");
    prometheus.wait("botsctl_edi_file_errors_total{route=\"demo_orders\"}", 1.0, &up);
    prometheus.wait("botsctl_engine_runs_total{outcome=\"errors\"}", 1.0, &up);
    prometheus.wait("botsctl_jobs_ended_total{outcome=\"failed\"}", 1.0, &up);
    prometheus.wait("sum(botsctl_jobs)", 0.0, &up);

    // The queue's jobs are done, and a file that no run takes is one that waits.
    fs::write(demo.input().join("later.part"), "").expect("written");
    let ages = "botsctl_dirmonitor_oldest_file_age_seconds{route=\"demo_orders\"}";
    prometheus.wait(ages, 0.0, &up);
    prometheus.wait("min(botsctl_service_up)", 1.0, &up);
    let memory = "botsctl_service_resident_memory_bytes{service=\"webserver\"} > 1e7";
    wait_until("memory is told", || prometheus.value(memory), || page(&up));
    assert!(prometheus.value("botsctl_service_cpu_seconds_total{service=\"webserver\"}") > Some(0.1));

    let page = page(&up);
    let told: BTreeSet<String> = types(&page).into_keys().collect();
    // There is no plugin source.
    let all = ALL.iter().map(|family| family.name).filter(|name| *name != "botsctl_plugin_source_success");
    let all: BTreeSet<String> = all.map(str::to_owned).collect();
    assert_eq!(told, all, "what is told here is all there is\n{page}");
    expect_named_label_values(&page);
    lint(&page);
}

#[apply(test)]
fn metrics_are_served_in_both_formats() {
    let (sandbox, _) = with_queue();
    let queue = sandbox.start(&["jobqueue"]);
    queue.wait_ready();
    let plain = queue.health("/metrics").expect("it listens");
    assert!(plain.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{}", plain.head);
    assert_eq!(types(&plain.body).get("botsctl_service_restarts_total").map(String::as_str), Some("counter"));
    assert_eq!(sample(&plain.body, "botsctl_probes_total{path=\"/health/startup\",code=\"200\"}"), None);
    expect_named_label_values(&plain.body);
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                   Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n\r\n";
    let open = raw_http(sandbox.health_port, request.as_bytes()).expect("it listens");
    assert!(open.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{open}");
    assert!(open.contains("# TYPE botsctl_service_restarts counter\n") && open.ends_with("# EOF\n"), "{open}");
    // Requests before this one are counted.
    let ready = sample(&page(&queue), "botsctl_probes_total{path=\"/health/ready\",code=\"200\"}");
    assert!(ready >= Some(1.0), "{}", page(&queue));
    let probes = |page: &str| sample(page, "botsctl_probes_total{path=\"/metrics\",code=\"200\"}");
    assert!(probes(&page(&queue)) > probes(&open));
}

#[apply(test)]
fn job_that_cannot_start_counts_as_failed() {
    let queue = Queue::new();
    let mut running = queue.start();
    queue.ask(&format!("q.addjob({}, 5)", queue.task("wait")));
    queue.wait_lines("started", 1, &running);
    assert_eq!(queue.ask(&format!("q.addjob({}, 5)", queue.task("later"))), "0");
    running.signal(Signal::SIGTERM);
    running.wait_stderr(" s for job 1 to finish");
    queue.go();
    running.wait();
    queue.sandbox.set_ini("jobqueue", "authorized_tasks", "/bin/other");
    let running = queue.start();
    let is_failed = || {
        let page = page(&running);
        (sample(&page, "botsctl_jobs_ended_total{outcome=\"failed\"}") == Some(1.0)).then_some(())
    };
    wait_until("it is counted", is_failed, || running.report());
    assert_eq!(sample(&page(&running), "botsctl_jobs_ended_total{outcome=\"done\"}"), Some(0.0));
}

/// A scrape asks the database nothing, and one that is gone changes nothing but the values.
#[apply(test)]
fn scrape_neither_queries_nor_needs_database() {
    let server = std::sync::Arc::new(Server::start(Engine::Mariadb));
    let database = Database::on(&server);
    let mut sandbox = database.sandbox();
    sandbox.run(&["init-db"]).expect_code(0);
    sandbox.set_ini("jobqueue", "enabled", "True");
    sandbox.set_ini("jobqueue", "port", &free_port().to_string());
    sandbox.set("BOTS_CTL_HEALTH_INTERVAL", "100ms").set("BOTS_CTL_RESULTS_INTERVAL", "100ms");
    let queue = sandbox.start(&["jobqueue"]);
    queue.wait_ready();
    let runs = "botsctl_engine_runs_total{outcome=\"success\"}";
    wait_until("the sums are told", || sample(&page(&queue), runs), || page(&queue));

    server.sql(None, "SET GLOBAL log_output = 'TABLE'; SET GLOBAL general_log = 1");
    let ours = format!("FROM mysql.general_log WHERE user_host LIKE '{}%'", USER.replace('\'', "''"));
    let count = |what: &str| -> usize {
        server.sql(None, &format!("SELECT count(*) {ours}{what}")).concat().trim().parse().expect("a number")
    };
    let mut scrapes = 0;
    while count(" AND argument = 'SELECT 1'") < 20 {
        for _ in 0..50 {
            assert!(!page(&queue).is_empty());
            scrapes += 1;
        }
    }
    let (pings, all) = (count(" AND argument = 'SELECT 1'"), count(""));
    // Each round of checks sends two queries; results of runs need a handful, on a separate connection.
    assert!(all <= 18 * pings + 100, "{all} statements, {pings} pings, {scrapes} scrapes");

    server.stop();
    let down = "botsctl_check_success{check=\"database\"}";
    wait_until("it is seen", || (sample(&page(&queue), down) == Some(0.0)).then_some(()), || page(&queue));
    assert_eq!(sample(&page(&queue), runs), Some(0.0), "{}", page(&queue));
    assert_eq!(queue.wait_health("/health/ready", 503).status, 503);
    assert_eq!(queue.health("/health/live").expect("it listens").status, 200);
    assert_eq!(sample(&page(&queue), "botsctl_health_status{probe=\"live\"}"), Some(1.0));
    assert_eq!(sample(&page(&queue), "botsctl_health_status{probe=\"ready\"}"), Some(0.0));
}

/// Makes copies of the demo's route, some with names that have to be escaped.
const COPIES: &str = "
import os, sys
sys.path[0] = os.path.dirname(sys.argv[1])
from bots import botsinit
botsinit.generalinit(sys.argv[1])
from bots.models import routes
route = routes.objects.get(idroute='demo_orders')
for number in range(int(sys.argv[2])):
    route.pk = None
    route.idroute = 'a \"quoted\" \\\\ route' if number == 0 else 'route %03d' % number
    route.save()
";

#[apply(test)]
fn routes_beyond_label_limit_share_one_label() {
    let demo = Demo::install(with_queue().0);
    let script = demo.sandbox.home.path().join("copies.py");
    fs::write(&script, COPIES).expect("written");
    let command: [PathBuf; 2] = [python(), script];
    let [python, script] = command.map(|path| path.display().to_string());
    demo.sandbox.run(&["exec", "--", &python, &script, &demo.config_dir(), &ROUTES.to_string()]).expect_code(0);
    let queue = demo.sandbox.start(&["jobqueue"]);
    queue.wait_ready();
    let name = "botsctl_edi_files_received_total{route=";
    let named = || page(&queue).lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect::<Vec<_>>();
    let named = wait_until("routes are told", || Some(named()).filter(|named| !named.is_empty()), || page(&queue));
    assert_eq!(named.len(), 101, "{named:?}");
    assert!(named.iter().any(|line| line.starts_with(&format!("{name}\"other\"}}"))), "{named:?}");
    let escaped = format!("{name}\"a \\\"quoted\\\" \\\\ route\"}} 0");
    assert!(named.contains(&escaped), "{named:?}");
    lint(&page(&queue));
    let prometheus = Prometheus::of(demo.sandbox.health_port);
    prometheus.wait("count(botsctl_edi_files_received_total)", 101.0, &queue);
}

fn unwritable_run_metrics_do_not_fail_run(engine: Engine) {
    let system = System::new(engine);
    let total = |name: &str| {
        system.database.value(&format!("SELECT value FROM botsctl_counter WHERE name = '{name}'")).trim().to_owned()
    };
    // As a version has left it that knew nothing of them.
    system.database.sql("DROP TABLE botsctl_engine_run; DROP TABLE botsctl_counter");
    system.fill(1);
    system.run(&["engine", "--new"]).expect_code(0);
    assert_eq!((total("run_success").as_str(), total("run_errors").as_str()), ("1", ""));
    assert!(total("last_success").parse::<u64>().expect("a number") > 1_700_000_000_000);
    let rows = "SELECT outcome, exit_code, recovered FROM botsctl_engine_run WHERE took > 0 AND ended >= started";
    assert_eq!(system.database.sql(rows), ["success\t0\t0"]);

    system.database.sql("DROP TABLE botsctl_counter; CREATE TABLE botsctl_counter (name VARCHAR(32))");
    system.fill(1);
    let ran = system.run(&["engine", "--new"]);
    ran.expect_code(0);
    assert_eq!(ran.stderr.matches("cannot record metrics of this run: ").count(), 1, "{ran:?}");
    assert!(ran.stderr.contains("finished 1,"), "{ran:?}");
}
