//! What several themes use: sandboxes, servers, pods, browsers, networks.

pub mod browser;
pub mod clock;
pub mod cluster;
pub mod demo_translation;
pub mod fake_kubelet;
pub mod fuse;
pub mod interruption;
pub mod kustomize;
pub mod needs;
pub mod network;
pub mod podman;
pub mod pods;
pub mod pooler;
pub mod sandbox;
pub mod schema;
pub mod servers;
pub mod simulation;
pub mod tcp_proxy;
