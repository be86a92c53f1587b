//! The manifests: validation by Kubernetes, its linters and bots-ctl, and the rules between them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use bots_ctl::config::Config;
use bots_ctl::model::ServiceName;
use bots_ctl::pycompat::configparser::BotsIni;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Namespace, PersistentVolumeClaim, PodSpec, Service};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

use crate::support::kustomize::{
    OVERLAYS, copy, find, http_probe, k3s, objects, of_kind, overlay, pods, render, secret_keys, text, tool, typed,
    unmade_mount_points,
};

/// The oldest that k3s still ships as stable, and the newest there is.
const KUBERNETES: [&str; 2] = ["1.33.0", "1.37.0"];

/// What checkov finds and is meant to be so.
const EXPLAINED: [&str; 2] = [
    // A version that is set in one place, and never moved, says the same for people.
    "CKV_K8S_43",
    // With such a version a node need not ask the registry for what it has: a registry that is away stops no pod.
    "CKV_K8S_15",
];

fn container(pod: &PodSpec) -> &Container {
    assert_eq!(pod.containers.len(), 1, "one container, which is bots-ctl");
    &pod.containers[0]
}

/// The environment as a container gets it.
fn environment(objects: &[Value], container: &Container) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for source in container.env_from.iter().flatten() {
        let name = &source.config_map_ref.as_ref().expect("a ConfigMap").name;
        let map: ConfigMap = typed(find(objects, "ConfigMap", name));
        all.extend(map.data.expect("it holds something"));
    }
    for variable in container.env.iter().flatten() {
        all.insert(variable.name.clone(), variable.value.clone().expect("a plain value"));
    }
    all
}

#[apply(test)]
fn every_overlay_passes_strict_validation() {
    for name in OVERLAYS {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("all.yaml");
        fs::write(&file, render(&k3s().join("overlays").join(name))).expect("written");
        for version in KUBERNETES {
            let mut validate = tool("bin/kubernetes-validate");
            let checked = validate.args(["--strict", "-k", version]).arg(&file).output().expect("it can be run");
            assert!(checked.status.success(), "{name}, Kubernetes {version}: {}", text(&checked.stdout));
        }
    }
}

#[apply(test)]
fn overlay_objects_parse_as_known_kubernetes_kinds() {
    for name in OVERLAYS {
        for object in overlay(name) {
            match object["kind"].as_str().expect("it has one") {
                "Namespace" => drop(typed::<Namespace>(&object)),
                "ServiceAccount" => {
                    assert_eq!(typed::<ServiceAccount>(&object).automount_service_account_token, Some(false));
                }
                "ConfigMap" => drop(typed::<ConfigMap>(&object)),
                "Service" => drop(typed::<Service>(&object)),
                "PersistentVolumeClaim" => drop(typed::<PersistentVolumeClaim>(&object)),
                "Deployment" => drop(typed::<Deployment>(&object)),
                "CronJob" => drop(typed::<CronJob>(&object)),
                "PodDisruptionBudget" => drop(typed::<PodDisruptionBudget>(&object)),
                "Ingress" => drop(typed::<Ingress>(&object)),
                "NetworkPolicy" => drop(typed::<NetworkPolicy>(&object)),
                // A Job or a StatefulSet could not be applied again with another pod template.
                kind => panic!("{name} holds a {kind}, which nothing here knows"),
            }
        }
    }
}

#[apply(test)]
fn linters_report_only_documented_exceptions() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for name in OVERLAYS {
        let file = dir.path().join(format!("{name}.yaml"));
        fs::write(&file, render(&k3s().join("overlays").join(name))).expect("written");
        let mut checkov = tool("checkov/bin/checkov");
        checkov.arg("-f").arg(&file).args(["--framework", "kubernetes", "--compact", "--quiet", "--skip-download"]);
        let checked = checkov.args(["--skip-check", &EXPLAINED.join(",")]).output().expect("it can be run");
        let said = text(&checked.stdout);
        assert!(
            checked.status.success() && said.contains("Failed checks: 0"),
            "{name}: {said}{}",
            text(&checked.stderr)
        );
    }
    let checked = tool("bin/hadolint").arg("Dockerfile").current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let checked = checked.expect("it can be run");
    assert!(checked.status.success(), "{}", text(&checked.stdout));
}

#[apply(test)]
fn ci_workflow_passes_actionlint() {
    // A digest would keep the compiler from its fixes of bugs.
    let options = ["--ignore", "unpinned-images", "--shellcheck=", ".github/workflows/ci.yml"];
    let checked = tool("bin/jactionlint").args(options).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let checked = checked.expect("it can be run");
    assert!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
}

/// The values in the table of the environments.
#[apply(test)]
fn overlays_match_table_of_environments() {
    let expected = [
        ("dev", "edi-dev", 1, ["50m", "128Mi", "500m", "512Mi"], ["5Gi", "1Gi", "500Mi"], "ReadWriteOnce", "* * * * *"),
        (
            "staging",
            "edi-staging",
            2,
            ["100m", "256Mi", "750m", "768Mi"],
            ["10Gi", "2Gi", "1Gi"],
            "ReadWriteOnce",
            "*/5 * * * *",
        ),
        ("prod", "edi", 3, ["100m", "256Mi", "1000m", "1Gi"], ["20Gi", "5Gi", "1Gi"], "ReadWriteMany", "*/5 * * * *"),
    ];
    for (name, namespace, replicas, resources, sizes, mode, schedule) in expected {
        let all = overlay(name);
        assert_eq!(find(&all, "Namespace", namespace)["kind"], "Namespace");
        for object in all.iter().filter(|object| object["kind"] != "Namespace") {
            assert_eq!(object["metadata"]["namespace"], namespace, "{object:#}");
        }
        let web: Deployment = typed(find(&all, "Deployment", "bots-webserver"));
        let queue: Deployment = typed(find(&all, "Deployment", "bots-jobqueue"));
        let count = |deployment: &Deployment| deployment.spec.as_ref().and_then(|spec| spec.replicas);
        assert_eq!((count(&web), count(&queue)), (Some(replicas), Some(1)), "{name}");
        let pod = web.spec.expect("it has one").template.spec.expect("it has one");
        let given = container(&pod).resources.clone().expect("it has some");
        let (requests, limits) = (given.requests.expect("some"), given.limits.expect("some"));
        let found = [&requests["cpu"].0, &requests["memory"].0, &limits["cpu"].0, &limits["memory"].0];
        assert_eq!(found.map(|quantity| canonical(quantity)), resources.map(canonical), "{name}");
        for (claim, size) in ["bots-data", "bots-logs", "bots-environment"].iter().zip(sizes) {
            let spec = &find(&all, "PersistentVolumeClaim", claim)["spec"];
            assert_eq!(spec["resources"]["requests"]["storage"], size, "{name} {claim}");
            assert_eq!(spec["accessModes"], serde_json::json!([mode]), "{name} {claim}");
            assert!(spec["storageClassName"].is_string(), "{name} {claim}");
        }
        let engine: CronJob = typed(find(&all, "CronJob", "bots-engine"));
        assert_eq!(engine.spec.expect("it has one").schedule, schedule, "{name}");
    }
}

/// What pods are granted that is the same in every environment: an engine in the queue's pod has what that pod has.
#[apply(test)]
fn engine_and_queue_resources_match_table() {
    let expected = [
        ("bots-jobqueue", ["100m", "256Mi", "500m", "512Mi"]),
        ("bots-engine", ["200m", "512Mi", "2", "2Gi"]),
        ("bots-engine-now", ["200m", "512Mi", "2", "2Gi"]),
    ];
    for name in OVERLAYS {
        let pods: BTreeMap<String, PodSpec> = pods(&overlay(name)).into_iter().collect();
        for (workload, resources) in expected {
            let given = container(&pods[workload]).resources.clone().expect("it has some");
            let (requests, limits) = (given.requests.expect("some"), given.limits.expect("some"));
            let found = [&requests["cpu"].0, &requests["memory"].0, &limits["cpu"].0, &limits["memory"].0];
            assert_eq!(found.map(String::as_str), resources, "{name}: {workload}");
        }
    }
}

/// Kubernetes stores quantities in canonical form: with another form each apply would report a change.
#[apply(test)]
fn quantities_are_in_canonical_form() {
    assert_eq!(["1000m", "1500m", "1", "1024Mi", "500Mi"].map(canonical), ["1", "1500m", "1", "1Gi", "500Mi"]);
    for name in OVERLAYS {
        let mut found = Vec::new();
        overlay(name).iter().for_each(|object| collect_quantities(object, &mut found));
        assert!(found.len() > 30, "{name}: {found:?}");
        found.iter().for_each(|quantity| assert_eq!(canonical(quantity), *quantity, "{name}"));
    }
}

fn collect_quantities(value: &Value, found: &mut Vec<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        if key == "requests" || key == "limits" {
            found
                .extend(value.as_object().into_iter().flatten().filter_map(|(_, one)| one.as_str().map(str::to_owned)));
        } else {
            collect_quantities(value, found);
        }
    }
    value.as_array().into_iter().flatten().for_each(|value| collect_quantities(value, found));
}

/// A quantity as the API server returns it: no fractions, and the largest suffix that keeps it an integer.
fn canonical(quantity: &str) -> String {
    const BINARY: [&str; 5] = ["", "Ki", "Mi", "Gi", "Ti"];
    let digits = quantity.find(|c: char| !c.is_ascii_digit()).unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(digits);
    let mut number: u64 = number.parse().unwrap_or_else(|error| panic!("{quantity}: {error}"));
    if suffix == "m" {
        return if number.is_multiple_of(1000) { (number / 1000).to_string() } else { quantity.to_owned() };
    }
    let mut power = BINARY.iter().position(|known| *known == suffix).unwrap_or_else(|| panic!("{quantity}"));
    while power > 0 && number.is_multiple_of(1024) {
        (number, power) = (number / 1024, power + 1);
    }
    format!("{number}{}", BINARY[power])
}

/// A mount inside another volume needs a directory there, which a runtime without permissions on the file server cannot
/// create.
#[apply(test)]
fn nested_mount_points_are_created_by_bots_user() {
    for name in OVERLAYS {
        for (workload, pod) in pods(&overlay(name)) {
            assert_eq!(unmade_mount_points(&pod), [""; 0], "{name}: {workload}");
        }
    }
}

/// Every variable belongs to bots-ctl or is read by the settings.py of the same directory, and bots-ctl accepts them
/// together.
#[apply(test)]
fn every_variable_is_known_and_valid() {
    let settings = fs::read_to_string(k3s().join("base/config/settings.py")).expect("readable");
    for name in OVERLAYS {
        let all = overlay(name);
        for (workload, pod) in pods(&all) {
            let mut variables = environment(&all, container(&pod));
            let known = known_variables();
            for variable in variables.keys() {
                let plain = variable.strip_suffix("_FILE").unwrap_or(variable);
                let is_read = settings.contains(&format!("\"{plain}\""));
                assert!(known.contains(plain) || is_read, "{name}: {workload} has {variable}, which nothing reads");
            }
            // The files are there in the pod alone: any file shows that the names are taken.
            let secret = tempfile::NamedTempFile::new().expect("made");
            fs::write(secret.path(), "0123456789abcdef0123456789abcdef").expect("written");
            for (_, value) in variables.iter_mut().filter(|(variable, _)| variable.ends_with("_FILE")) {
                *value = secret.path().display().to_string();
            }
            let (_, faults) = Config::read(&variables, &[], None, Path::new("/home/bots"));
            assert!(faults.is_empty(), "{name}: {workload}: {faults:?}");
        }
    }
}

fn known_variables() -> BTreeSet<String> {
    let (config, _) = Config::read(&BTreeMap::new(), &[], None, Path::new("/home/bots"));
    config.effective_settings.iter().map(|shown| shown.setting.env.to_owned()).collect()
}

/// The stop sequence fits into the grace period of the kubelet, and bots-ctl knows that period.
#[apply(test)]
fn the_grace_period_covers_the_stop_sequence() {
    for (workload, pod) in pods(&overlay("prod")) {
        let all = overlay("prod");
        let variables = environment(&all, container(&pod));
        let granted = pod.termination_grace_period_seconds.expect("it is set");
        assert_eq!(variables["BOTS_CTL_GRACE_PERIOD"], format!("{granted}s"), "{workload}");
        let variables = variables.into_iter().filter(|(name, _)| !name.ends_with("_FILE"));
        let mut variables: BTreeMap<_, _> = variables.collect();
        variables.insert("KUBERNETES_SERVICE_HOST".into(), "10.0.0.1".into());
        let (config, _) = Config::read(&variables, &[], None, Path::new("/home/bots"));
        let times = match workload.as_str() {
            "bots-webserver" => config.stop.of(ServiceName::Webserver),
            "bots-jobqueue" => config.stop.of(ServiceName::Jobqueue),
            "bots-dirmonitor" => config.stop.of(ServiceName::Dirmonitor),
            _ => config.stop.of(ServiceName::Engine),
        };
        let needed = (times.drain + times.timeout).as_secs_f64();
        let reserve = 3.0;
        assert!(needed + reserve <= granted as f64, "{workload}: {needed} s and a reserve of 3 s in {granted} s");
    }
}

/// Probes use the port of bots-ctl's listener, and its paths.
#[apply(test)]
fn probes_use_port_and_paths_of_health_listener() {
    for name in OVERLAYS {
        for (workload, pod) in pods(&overlay(name)) {
            let container = container(&pod);
            let probes = [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
            if probes.iter().all(|probe| probe.is_none()) {
                assert_eq!(pod.restart_policy.as_deref(), Some("Never"), "{workload} runs always, but has no probe");
                continue;
            }
            for (probe, path) in probes.into_iter().zip(["startup", "live", "ready"]) {
                let (port, asked, _) = http_probe(container, probe.as_ref().expect("all three"));
                assert_eq!((port, asked), (9180, format!("/health/{path}")), "{workload}");
            }
        }
    }
}

#[apply(test)]
fn every_pod_is_restricted_and_uses_same_image() {
    for name in OVERLAYS {
        let all = overlay(name);
        for (workload, pod) in pods(&all) {
            let container = container(&pod);
            assert_eq!(container.image.as_deref(), Some("registry.example.com/bots-ctl:0.1.0"), "{workload}");
            assert!(container.command.is_none(), "{workload}: the image's entrypoint is bots-ctl");
            assert_eq!(pod.automount_service_account_token, Some(false), "{workload}");
            let context = pod.security_context.clone().expect("it has one");
            let user = (context.run_as_non_root, context.run_as_user, context.run_as_group, context.fs_group);
            assert_eq!(user, (Some(true), Some(10001), Some(10001), Some(10001)), "{workload}");
            assert_eq!(context.seccomp_profile.expect("set").type_, "RuntimeDefault", "{workload}");
            let context = container.security_context.clone().expect("it has one");
            assert_eq!(context.allow_privilege_escalation, Some(false), "{workload}");
            assert_eq!(context.read_only_root_filesystem, Some(true), "{workload}");
            let capabilities = context.capabilities.expect("set");
            assert_eq!((capabilities.drop, capabilities.add), (Some(vec!["ALL".to_owned()]), None), "{workload}");
            for mount in container.volume_mounts.iter().flatten() {
                assert!(mount.sub_path.is_none(), "{workload}: {} would never change", mount.mount_path);
            }
        }
    }
}

#[apply(test)]
fn selectors_and_references_resolve() {
    for name in OVERLAYS {
        let all = overlay(name);
        let deployments: Vec<Deployment> = of_kind(&all, "Deployment");
        let labels = |deployment: &Deployment| {
            deployment.spec.as_ref().and_then(|spec| spec.template.metadata.clone()).and_then(|meta| meta.labels)
        };
        let matches = |wanted: &BTreeMap<String, String>| {
            let holds = |has: &BTreeMap<String, String>| wanted.iter().all(|(key, value)| has.get(key) == Some(value));
            deployments.iter().filter(|deployment| labels(deployment).is_some_and(|has| holds(&has))).count()
        };
        for deployment in &deployments {
            let selector = deployment.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone());
            assert_eq!(matches(&selector.expect("it has some")), 1, "{name}: {:?}", deployment.metadata.name);
        }
        for service in of_kind::<Service>(&all, "Service") {
            let spec = service.spec.expect("it has one");
            assert_eq!(matches(&spec.selector.expect("it has one")), 1, "{name}: {:?}", service.metadata.name);
        }
        for budget in of_kind::<PodDisruptionBudget>(&all, "PodDisruptionBudget") {
            let selector = budget.spec.and_then(|spec| spec.selector).and_then(|selector| selector.match_labels);
            assert_eq!(matches(&selector.expect("it has one")), 1, "{name}");
        }
        for ingress in of_kind::<Ingress>(&all, "Ingress") {
            let spec = ingress.spec.expect("it has one");
            assert!(spec.tls.is_some_and(|tls| !tls.is_empty()), "{name}: TLS");
            let rule = &spec.rules.expect("it has some")[0];
            let backend = rule.http.as_ref().expect("it has one").paths[0].backend.service.clone().expect("a service");
            find(&all, "Service", &backend.name);
        }
        for (_, pod) in pods(&all) {
            find(&all, "ServiceAccount", pod.service_account_name.as_deref().expect("it has one"));
            for volume in pod.volumes.iter().flatten() {
                if let Some(claim) = &volume.persistent_volume_claim {
                    find(&all, "PersistentVolumeClaim", &claim.claim_name);
                }
                if let Some(map) = &volume.config_map {
                    find(&all, "ConfigMap", &map.name);
                }
            }
        }
    }
}

/// Two queues at once are fine, two rollouts of it are not: the new one would never become ready.
#[apply(test)]
fn only_web_ui_uses_rolling_update() {
    for deployment in of_kind::<Deployment>(&overlay("prod"), "Deployment") {
        let strategy = deployment.spec.and_then(|spec| spec.strategy).expect("it has one");
        let is_web = deployment.metadata.name.as_deref() == Some("bots-webserver");
        assert_eq!(strategy.type_.as_deref(), Some(if is_web { "RollingUpdate" } else { "Recreate" }));
        let unavailable = strategy.rolling_update.and_then(|rolling| rolling.max_unavailable);
        assert_eq!(unavailable, is_web.then_some(IntOrString::Int(0)));
    }
}

#[apply(test)]
fn scheduled_engine_forbids_concurrency_and_retries() {
    let all = overlay("prod");
    let engine: CronJob = typed(find(&all, "CronJob", "bots-engine"));
    let spec = engine.spec.expect("it has one");
    assert_eq!(spec.concurrency_policy.as_deref(), Some("Forbid"));
    assert_eq!(spec.suspend, None);
    let job = spec.job_template.spec.expect("it has one");
    assert_eq!(job.backoff_limit, Some(0));
    let pod = job.template.spec.expect("it has one");
    let args = container(&pod).args.clone().expect("it has some");
    assert_eq!(args, ["engine", "--new", "--success-exit-codes", "2"]);
    for on_demand in ["bots-engine-now", "bots-init-db", "bots-config-check"] {
        let job: CronJob = typed(find(&all, "CronJob", on_demand));
        assert_eq!(job.spec.and_then(|spec| spec.suspend), Some(true), "{on_demand}");
    }
}

/// A pod that is deleted finishes its run: its Job has not failed before.
#[apply(test)]
fn jobs_wait_for_end_of_deleted_pod() {
    for name in ["bots-engine", "bots-engine-now", "bots-init-db"] {
        let job: CronJob = typed(find(&overlay("prod"), "CronJob", name));
        let job = job.spec.and_then(|spec| spec.job_template.spec).expect("it has one");
        assert_eq!(job.pod_replacement_policy.as_deref(), Some("Failed"), "{name}");
    }
}

/// The objects applied first, by their label, are the check and its inputs from the same change.
#[apply(test)]
fn preflight_label_selects_config_check_and_inputs() {
    for name in OVERLAYS {
        let all = overlay(name);
        let is_labelled = |object: &&Value| object["metadata"]["labels"]["bots-ctl/preflight"] == "true";
        let first: Vec<Value> = all.iter().filter(is_labelled).cloned().collect();
        let (_, pod) = pods(&first).into_iter().next().expect("the check");
        assert_eq!(container(&pod).args.clone().expect("some"), ["config", "check"]);
        assert_eq!(environment(&first, container(&pod))["DB_ENGINE"], "mysql", "{name}");
        for map in pod.volumes.iter().flatten().filter_map(|volume| volume.config_map.as_ref()) {
            find(&first, "ConfigMap", &map.name);
        }
        assert_eq!(first.len(), 3, "{name}: {first:#?}");
    }
}

#[apply(test)]
fn config_map_files_parse() {
    let map: ConfigMap = typed(find(&overlay("dev"), "ConfigMap", "bots-config"));
    let files = map.data.expect("it holds some");
    let ini = BotsIni::parse(&files["bots.ini"]).unwrap_or_else(|errors| panic!("{errors:?}"));
    assert_eq!(ini.get("jobqueue", "enabled").map(|entry| entry.value), Some("True"));
    let mut python = Command::new("python3");
    python.args(["-c", "import ast, sys; ast.parse(sys.argv[1])", &files["settings.py"]]);
    assert!(python.status().expect("Python can be run").success());
}

/// The keys that pods mount are those of the template, and git would not take the filled-in file.
#[apply(test)]
fn secrets_are_complete_and_stay_out_of_git() {
    let keys = secret_keys();
    for (workload, pod) in pods(&overlay("prod")) {
        let secrets = pod.volumes.iter().flatten().filter_map(|volume| volume.secret.as_ref());
        for item in secrets.flat_map(|secret| secret.items.iter().flatten()) {
            assert!(keys.contains(&item.key), "{workload} mounts {}, which no template has", item.key);
        }
    }
    let copy = copy();
    for name in OVERLAYS {
        let dir = copy.path().join("secrets").join(name);
        fs::copy(k3s().join("secrets/secrets.env.example"), dir.join("secrets.env")).expect("copied");
        let all = objects(&render(&dir));
        let secret: Secret = typed(find(&all, "Secret", "bots-secrets"));
        assert_eq!(secret.data.expect("some").into_keys().collect::<Vec<_>>(), keys);
        let all = overlay(name);
        let namespace = &find(&all, "Deployment", "bots-webserver")["metadata"]["namespace"];
        assert_eq!(secret.metadata.namespace.as_deref(), namespace.as_str());

        let ignored = Command::new("git")
            // Root may test what another user has checked out.
            .args(["-c", "safe.directory=*", "check-ignore", "--quiet", &format!("k3s/secrets/{name}/secrets.env")])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(ignored.expect("git can be run").success(), "{name}");
    }
}
