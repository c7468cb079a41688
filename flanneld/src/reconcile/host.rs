//! What the loop learns from the host, and publishes about this node.

use flannel_core::claim::Wanted;
use flannel_core::cluster::Source;
use flannel_core::dataplane::{Dataplane, Op};
use flannel_core::desired::NextHops;
use flannel_core::family::Family;
use flannel_core::lease::{Lease, Subnets};
use std::sync::Arc;
use tokio::time::Instant;
use tracing::info;

use super::Reconciler;
use super::conditions::id as condition;
use crate::host::pods;
use crate::kernel::{Kernel, Observation};
use crate::status::{self, NodeReport, Reason};
use crate::store::OwnNode;

impl<K: Kernel> Reconciler<K> {
    /// Takes the public addresses that the store prescribes for this node. Unreadable ones leave the present ones in effect.
    pub(super) fn take_own_node(&mut self, own: Option<OwnNode>) {
        let Some(OwnNode { prescribed, fault, .. }) = own else { return };
        let is_readable = fault.is_none();
        self.reporter.set_condition(condition::PRESCRIBED, fault);
        if !is_readable {
            return;
        }
        self.reporter.outputs.memory.send_if_modified(|memory| {
            memory.prescribed.replace(prescribed).unwrap_or_default() != prescribed
        });
        if self.node.prescribe(prescribed) {
            self.pace.request(Reason::Config, Instant::now());
        }
    }

    /// Follows the host: its external interface and, at first, the addresses of the tunnel devices.
    pub(super) fn follow_host(&mut self, actual: &Dataplane) {
        let look = self.node.look(&self.target.facts);
        if self.reporter.check(condition::INTERFACE, look) == Some(true) {
            let external = self.node.external();
            info!(
                link = %external.name,
                mtu_bytes = external.mtu,
                public = %external.public,
                "external interface changed"
            );
        }
        let public = self.node.external().public;
        let is_ours = |lease: &&Arc<Lease>| {
            Family::ALL
                .into_iter()
                .find(|family| public.get(*family).is_some())
                .is_some_and(|family| lease.attrs.public_address(family) == public.get(family).copied())
        };
        let published = self.store.cluster.leases().find(is_ours).map(|lease| lease.attrs.clone());
        let random_mac = self.own.random_mac;
        let settled = self.node.settle_endpoints(actual, &self.own.macs, published.as_ref(), random_mac);
        self.own.macs.extend(settled);
        let (hardware, macs) = (self.node.hardware(), &self.own.macs);
        self.reporter.outputs.memory.send_if_modified(|memory| {
            let changed = memory.hardware != hardware || memory.macs != *macs;
            (memory.hardware, memory.macs) = (hardware, macs.clone());
            changed
        });
        if let Some(attrs) = self.reporter.check(condition::ATTRS, self.node.attrs()) {
            let networks = self.node.config().networks();
            status::set(&self.reporter.outputs.attrs, Some(Wanted { attrs, networks }));
        }
    }

    /// Decides where the next hops of routes to so many peers are, and logs a change.
    pub(super) fn choose_next_hops(&mut self, peers: usize, observed: &Observation) -> NextHops {
        let chosen = self.node.next_hops(peers, observed);
        if observed.has_nexthops {
            self.target.has_nexthops = Some(true);
        } else if self.node.changes_next_hops(peers, &chosen)
            && self.target.has_nexthops.replace(false).is_none()
        {
            info!(peers, "the kernel has no nexthop objects, routes contain their next hops");
        }
        let former = self.target.assembly.as_ref().map(|assembly| assembly.desired().next_hops());
        let uses = |next_hops: &NextHops| *next_hops != NextHops::InRoutes;
        if former.map_or(uses(&chosen), |former| uses(former) != uses(&chosen)) {
            let objects = if uses(&chosen) { "used" } else { "no longer used" };
            info!(peers, objects, "nexthop objects");
        }
        chosen
    }

    /// Requests a round if the number of peers needs another form of routes.
    pub(super) fn switch_next_hops(&mut self) {
        let Some(assembly) = self.target.assembly.as_ref().filter(|_| self.target.has_nexthops == Some(true))
        else {
            return;
        };
        if self.node.changes_next_hops(assembly.leases().len(), assembly.desired().next_hops()) {
            self.pace.request(Reason::Resync, Instant::now());
        }
    }

    /// Returns the operations that restore the gateways of pods.
    pub(super) fn restore_bridges(&mut self, own: &Subnets) -> Vec<Op> {
        let gateways = pods::gateways(own);
        let ops = self.bridges.repair(&gateways, &self.target.facts, Instant::now());
        self.reporter.set_condition(condition::BRIDGE, self.bridges.conflict(&gateways));
        ops
    }

    /// Hands the firewall and the CNI plugin what follows from our lease. Pods can start only when the tunnel device is
    /// in place; they keep what they have if it is removed later.
    pub(super) fn offer_services(&mut self, own: &Subnets) {
        status::set(&self.reporter.outputs.firewall, Some(self.node.firewall(own)));
        let env = self.reporter.check(condition::SUBNET_ENV, self.node.subnet_env(own));
        if let Some(env) = env.filter(|_| self.own.has_base) {
            status::set(&self.reporter.outputs.subnet_env, Some(env));
        }
    }

    /// Reports the state of this node after a full round.
    pub(super) fn report_node(&mut self) {
        let (config, external) = (self.node.config(), self.node.external().clone());
        let assembly = self.target.assembly.as_ref();
        self.reporter.report.peers_known = self.store.cluster.source() != Source::Nothing;
        self.reporter.count_all(&self.store.cluster, config);
        self.reporter.report.node = Some(NodeReport {
            backend: config.backend.name(),
            config_revision: self.store.in_force.as_ref().map(|config| config.revision),
            hardware: self.node.hardware(),
            pod_mtu: self.node.pod_mtu().ok(),
            tunnels: assembly.map_or_else(Vec::new, |it| it.desired().tunnels().cloned().collect()),
            external,
        });
    }
}
