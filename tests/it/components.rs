//! The components of the manifests: each in each overlay, with its promised objects and without forbidden ones.

use std::fs;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, PodSpec};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde_json::Value;

use crate::support::kustomize::{
    OVERLAYS, find, k3s, of_kind, overlay_with, pods, secret_keys, text, tool, typed, unmade_mount_points,
};

/// Kinds that are not of Kubernetes itself.
const FOREIGN: [&str; 4] = ["PodMonitor", "PrometheusRule", "Sensor", "SealedSecret"];

/// All of them but what deployments and jobs are made with.
fn components() -> Vec<String> {
    let entries = fs::read_dir(k3s().join("components")).expect("readable");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name != "mount-points");
    names.sort();
    names
}

#[apply(test)]
fn every_component_fits_every_overlay() {
    for component in components() {
        for name in OVERLAYS {
            let all = overlay_with(name, &component);
            let of = format!("{component} in {name}");
            if name == "dev" {
                validate(&all, &of);
            }
            let namespace = &find(&all, "Deployment", "bots-webserver")["metadata"]["namespace"];
            for object in all.iter().filter(|object| object["kind"] != "Namespace") {
                assert_eq!(&object["metadata"]["namespace"], namespace, "{of}: {object:#}");
            }
            for (workload, pod) in pods(&all) {
                check_pod(&pod, &format!("{of}: {workload}"));
            }
            check_promise(&component, &all, &of);
        }
    }
}

fn validate(objects: &[Value], of: &str) {
    let known = objects.iter().filter(|object| !FOREIGN.iter().any(|kind| object["kind"] == *kind));
    let documents: Vec<String> = known.map(|object| serde_yaml_ng::to_string(object).expect("it is YAML")).collect();
    let file = tempfile::NamedTempFile::with_suffix(".yaml").expect("made");
    fs::write(file.path(), documents.join("---\n")).expect("written");
    let checked = tool("bin/kubernetes-validate").args(["--strict", "-k", "1.37.0"]).arg(file.path()).output();
    let checked = checked.expect("it can be run");
    assert!(checked.status.success(), "{of}: {}", text(&checked.stdout));
}

/// The pod conforms to PodSecurity `restricted`, also with third-party images; and only bots-ctl has access to the keys
/// of Bots.
fn check_pod(pod: &PodSpec, of: &str) {
    assert_eq!(pod.automount_service_account_token, Some(false), "{of}");
    let context = pod.security_context.clone().expect("it has one");
    assert_eq!((context.run_as_non_root, context.run_as_user), (Some(true), Some(10001)), "{of}");
    assert_eq!(context.seccomp_profile.expect("set").type_, "RuntimeDefault", "{of}");
    assert_eq!(unmade_mount_points(pod), [""; 0], "{of}");
    for container in pod.containers.iter().chain(pod.init_containers.iter().flatten()) {
        let image = container.image.clone().expect("it has one");
        assert!(image.contains(':'), "{of}: {image} has no version");
        let context = container.security_context.clone().expect("it has one");
        assert_eq!(context.allow_privilege_escalation, Some(false), "{of}");
        assert_eq!(context.read_only_root_filesystem, Some(true), "{of}");
        assert_eq!(context.capabilities.expect("set").drop, Some(vec!["ALL".to_owned()]), "{of}");
        let is_ours = image.contains("bots-ctl");
        for mount in container.volume_mounts.iter().flatten().filter(|mount| mount.name == "environment" && !is_ours) {
            assert!(mount.sub_path.is_some(), "{of}: {} shows secret-key and admin-password", mount.mount_path);
        }
    }
}

fn check_promise(component: &str, all: &[Value], of: &str) {
    match component {
        "sensor" => {
            drop((of_kind::<Role>(all, "Role"), of_kind::<RoleBinding>(all, "RoleBinding")));
            let trigger = &find(all, "Sensor", "bots-engine")["spec"]["triggers"][0]["template"];
            let job = &trigger["k8s"]["source"]["resource"]["spec"];
            assert_eq!(job, &find(all, "CronJob", "bots-engine-now")["spec"]["jobTemplate"]["spec"], "{of}");
            let image = &job["template"]["spec"]["containers"][0]["image"];
            assert_eq!(image, "registry.example.com/bots-ctl:0.1.0", "{of}");
            let binding: RoleBinding = typed(find(all, "RoleBinding", "bots-sensor"));
            let namespace = binding.metadata.namespace;
            assert_eq!(binding.subjects.expect("some")[0].namespace, namespace, "{of}");
        }
        // Its kinds are custom resources: monitoring.rs checks their content.
        "monitoring" => drop((find(all, "PodMonitor", "bots"), find(all, "PrometheusRule", "bots"))),
        "autoscaling" => {
            assert_eq!(of_kind::<HorizontalPodAutoscaler>(all, "HorizontalPodAutoscaler").len(), 1, "{of}");
            let web: Deployment = typed(find(all, "Deployment", "bots-webserver"));
            assert_eq!(web.spec.expect("it has one").replicas, None, "{of}: each apply would set it back");
        }
        "postgresql" | "sqlite" => {
            let map: ConfigMap = typed(find(all, "ConfigMap", "bots-env"));
            assert_eq!(map.data.expect("some")["DB_ENGINE"], component, "{of}");
        }
        "sealed-secrets" => {
            let sealed = &find(all, "SealedSecret", "bots-secrets")["spec"]["encryptedData"];
            let keys = sealed.as_object().map(|keys| keys.keys().cloned().collect());
            assert_eq!(keys, Some(secret_keys()), "{of}");
        }
        "filebrowser" => {
            let hosts = ["bots-webserver", "bots-filebrowser"]
                .map(|name| find(all, "Ingress", name)["spec"]["rules"][0]["host"].clone());
            assert_ne!(hosts[0], hosts[1], "{of}");
        }
        _ => {}
    }
}
