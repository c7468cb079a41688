//! End-to-end tests: `cargo xtask e2e` runs each in a process and a sandbox of its own.
#![forbid(unsafe_code)]

mod adopt;
mod alloc;
mod blackhole;
mod claim;
mod conflict;
mod connectivity;
mod containerd;
mod crowd;
mod demo;
mod direct_routing;
mod doctor;
mod doctor_store;
mod firewall;
mod flannelctl;
mod harness;
mod host_gw;
mod idle;
mod inspect;
mod interface;
mod kernel_state;
mod outage;
mod packages;
mod pages;
mod podman;
mod reference;
mod repair;
mod restart;
mod secure;
mod startup;
mod status;
mod stress;
mod support_bundle;
mod vlan;
mod vxlan;
mod watchdog;
