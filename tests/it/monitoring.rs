//! Alert rules and dashboard: checked and tested with Prometheus' own tool, and every metric in them is exported.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use bots_ctl::metrics::definitions::{ALL, MetricKind};
use serde_json::Value;

use crate::support::kustomize::{find, overlay, overlay_with, text};
use crate::support::needs::{Need, needs};

const PROJECT: &str = env!("CARGO_MANIFEST_DIR");

/// The metrics of kube-state-metrics that the rules use.
const KUBERNETES: [&str; 5] = [
    "kube_deployment_status_replicas_available",
    "kube_deployment_spec_replicas",
    "kube_pod_container_status_restarts_total",
    "kube_job_status_failed",
    "kube_job_status_start_time",
];

/// The rendered component.
fn component() -> Vec<Value> {
    overlay_with("dev", "monitoring")
}

fn groups(objects: &[Value]) -> Value {
    find(objects, "PrometheusRule", "bots")["spec"]["groups"].clone()
}

fn rules(groups: &Value) -> Vec<Value> {
    let groups = groups.as_array().expect("some").iter();
    groups.flat_map(|group| group["rules"].as_array().expect("some").clone()).collect()
}

fn promtool(args: &[&str], dir: &Path) {
    needs(Need::Prometheus);
    let ran = Command::new("promtool").args(args).current_dir(dir).output().expect("see tests/run.sh");
    assert!(ran.status.success(), "promtool {args:?}: {}{}", text(&ran.stdout), text(&ran.stderr));
}

#[apply(test)]
fn each_alert_passes_firing_and_silent_rule_tests() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut groups = groups(&component());
    let write = |groups: &Value| {
        let rules = serde_json::json!({ "groups": groups });
        fs::write(dir.path().join("rules.yaml"), serde_yaml_ng::to_string(&rules).expect("it is data"))
            .expect("written");
    };
    write(&groups);
    promtool(&["check", "rules", "rules.yaml"], dir.path());
    // Other tests check the text of an alert: this one is about its conditions.
    for group in groups.as_array_mut().expect("some") {
        for rule in group["rules"].as_array_mut().expect("some") {
            rule.as_object_mut().expect("a rule").remove("annotations");
        }
    }
    write(&groups);
    let tests = fs::read_to_string(Path::new(PROJECT).join("tests/fixtures/monitoring/alerts.yaml")).expect("readable");
    fs::write(dir.path().join("alerts.yaml"), &tests).expect("written");
    promtool(&["test", "rules", "alerts.yaml"], dir.path());

    let tests: Value = serde_yaml_ng::from_str(&tests).expect("it is YAML");
    let mut tried = BTreeSet::new();
    for tried_rule in
        tests["tests"].as_array().expect("some").iter().flat_map(|test| test["alert_rule_test"].as_array())
    {
        for one in tried_rule {
            let fires = one["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
            tried.insert((one["alertname"].as_str().expect("named").to_owned(), fires));
        }
    }
    for rule in rules(&groups) {
        let name = rule["alert"].as_str().expect("named");
        for fires in [true, false] {
            assert!(tried.contains(&(name.to_owned(), fires)), "{name}: no test in which it {fires} fires");
        }
    }
}

#[apply(test)]
fn each_alert_is_annotated_and_documented() {
    let documentation = fs::read_to_string(Path::new(PROJECT).join("docs/metrics.md")).expect("readable");
    for rule in rules(&groups(&component())) {
        let name = rule["alert"].as_str().expect("named");
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().expect("it has one")), "{name}");
        for annotation in ["summary", "description", "action", "symptom"] {
            assert!(
                rule["annotations"][annotation].as_str().is_some_and(|said| !said.is_empty()),
                "{name}: {annotation}"
            );
        }
        let row = format!("| {} | `{name}` |", rule["annotations"]["symptom"].as_str().expect("it has one"));
        assert!(documentation.contains(&row), "docs/metrics.md lacks {row}");
    }
    let count = documentation.lines().filter(|line| line.contains("| `Bots")).count();
    assert_eq!(count, rules(&groups(&component())).len(), "docs/metrics.md has alerts that are not there");
}

#[apply(test)]
fn rules_and_dashboard_use_existing_metrics() {
    let all = component();
    let rules = rules(&groups(&all));
    let dashboard = &find(&all, "ConfigMap", "bots-dashboard")["data"]["bots.json"];
    let dashboard: Value = serde_json::from_str(dashboard.as_str().expect("a file")).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("some");
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let shown: Vec<Value> = targets.map(|target| target["expr"].clone()).collect();
    assert!(shown.len() > 10, "{shown:?}");
    let variables = dashboard["templating"]["list"].as_array().expect("some").iter();
    let asked = variables.filter_map(|variable| variable.get("definition").cloned());
    let expressions = rules.iter().map(|rule| rule["expr"].clone()).chain(shown).chain(asked);
    for expression in expressions {
        let expression = expression.as_str().expect("a text");
        let names = metrics(expression);
        assert!(!names.is_empty(), "{expression}");
        for name in names {
            assert!(is_known(name), "{name} in {expression}");
        }
    }
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has a number of its own");
}

/// Words that look like names of metrics.
fn metrics(expression: &str) -> Vec<&str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| ["botsctl_", "process_", "kube_"].iter().any(|start| word.starts_with(start))).collect()
}

fn is_known(name: &str) -> bool {
    let is_family = |family: &bots_ctl::metrics::definitions::MetricDef| match family.kind {
        MetricKind::Histogram => {
            ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(family.name))
        }
        MetricKind::Counter | MetricKind::Gauge | MetricKind::Info | MetricKind::Unknown => name == family.name,
    };
    KUBERNETES.contains(&name) || ALL.iter().any(is_family)
}

/// The scrape target exists: the port has its name, and the policy permits Prometheus.
#[apply(test)]
fn pod_monitor_selects_health_port_of_each_pod() {
    let all = component();
    let monitor = find(&all, "PodMonitor", "bots");
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    assert_eq!((&endpoint["port"], &endpoint["path"]), (&"health".into(), &"/metrics".into()));
    let wanted = &monitor["spec"]["selector"]["matchLabels"];
    for name in ["bots-webserver", "bots-jobqueue", "bots-dirmonitor"] {
        let template = &find(&all, "Deployment", name)["spec"]["template"];
        for (label, value) in wanted.as_object().expect("some") {
            assert_eq!(&template["metadata"]["labels"][label], value, "{name}");
        }
        let ports = template["spec"]["containers"][0]["ports"].as_array().expect("some").iter();
        assert!(ports.clone().any(|port| port["name"] == "health" && port["containerPort"] == 9180), "{name}");
    }
    let policies = overlay("dev");
    let policy = &find(&policies, "NetworkPolicy", "bots-metrics")["spec"];
    assert_eq!(&policy["podSelector"]["matchLabels"], wanted);
    assert_eq!(policy["ingress"][0]["ports"][0]["port"], "health");
}
