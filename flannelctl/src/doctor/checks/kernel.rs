//! Kernel state: owned objects that are missing, out of sync or stale, according to the plan of the daemon.

use flannel_core::dataplane::{AddressKey, FdbKey, LinkChange, NeighbourKey, Op, PROTOCOL, Route, RouteKey};
use flannel_core::link::LinkName;
use flannel_core::obstacle::Blocker;
use ipnet::IpNet;
use std::collections::BTreeSet;

use crate::doctor::catalog::{
    Check, FDB_MISSING, FDB_STALE, FIREWALL_LEFTOVER, FIREWALL_RULES, NEIGHBOUR_STALE, NEIGHBOUR_WRONG,
    ROUTE_MISSING, ROUTE_SHADOWED, ROUTE_STALE, ROUTE_WRONG, VTEP_ADDRESS, VTEP_BLOCKED, VTEP_DOWN,
    VTEP_LEARNING, VTEP_LEFTOVER, VTEP_MAC, VTEP_MISSING, VTEP_MTU, VTEP_WRONG,
};
use crate::doctor::facts::Facts;
use crate::doctor::report::Report;
use crate::node::view::{Comparison, View};
use crate::output::text::join;

pub(super) fn check(facts: &Facts, report: &mut Report) {
    // Before the first start, nothing can be missing.
    if !facts.ran_before() {
        return;
    }
    firewall(facts, report);
    let Some(view) = facts.view() else { return };
    let Some(comparison) = view.comparison() else { return };
    let blocked = blocked(facts, report);
    let created = &created(comparison) | &blocked;
    let mut judge = Judge { facts, view, comparison, report, created, blocked };
    for op in &comparison.ops {
        judge.op(op);
    }
    judge.shadows();
}

fn firewall(facts: &Facts, report: &mut Report) {
    let Some(firewall) = &facts.firewall else { return };
    let (mode, other) = (firewall.mode, firewall.mode.other());
    if firewall.in_force == Ok(false) {
        report
            .find(&FIREWALL_RULES, mode, format!("{mode} rules are missing, changed or out of order"))
            .seen("the rules differ from those for lease and flags");
    }
    match &firewall.has_stale_rules {
        Ok(true) => {
            report
                .find(&FIREWALL_LEFTOVER, other, format!("stale rules of {other} are in effect, too"))
                .seen(format!("the network config selects {mode}"));
        }
        Ok(false) => {}
        Err(reason) => report.skip(&FIREWALL_LEFTOVER, reason),
    }
}

/// Devices that cannot be created or set up. Routes in the way are reported as `route-shadowed`.
fn blocked(facts: &Facts, report: &mut Report) -> BTreeSet<LinkName> {
    let devices = facts.obstacles.iter().filter(|obstacle| !matches!(obstacle.blocker, Blocker::Route(..)));
    devices
        .map(|obstacle| {
            report
                .find(&VTEP_BLOCKED, &obstacle.link, obstacle.to_string())
                .seen(format!("the kernel cannot provide {}", obstacle.link))
                .fix(obstacle.fix());
            obstacle.link.clone()
        })
        .collect()
}

/// Devices that must be created. Objects on them are missing because the device is.
fn created(comparison: &Comparison) -> BTreeSet<LinkName> {
    let names = comparison.ops.iter().filter_map(|op| match op {
        Op::CreateLink(name, _) => Some(name.clone()),
        _ => None,
    });
    names.collect()
}

struct Judge<'a> {
    facts: &'a Facts,
    view: &'a View,
    comparison: &'a Comparison,
    report: &'a mut Report,
    created: BTreeSet<LinkName>,
    /// Devices that are reported as such.
    blocked: BTreeSet<LinkName>,
}

impl Judge<'_> {
    fn find(&mut self, check: &Check, subject: impl ToString, problem: impl Into<String>, op: &Op) {
        self.report.find(check, subject, problem).seen(format!("pending: {op}"));
    }

    fn op(&mut self, op: &Op) {
        let actual = &self.comparison.actual;
        let (check, subject, problem) = match op {
            Op::CreateLink(name, _) if self.blocked.contains(name) => return,
            Op::CreateLink(name, _) if actual.links.contains_key(name) => {
                (&VTEP_WRONG, name.to_string(), format!("{name} is incompatible"))
            }
            Op::CreateLink(name, _) => {
                (&VTEP_MISSING, name.to_string(), format!("the tunnel device {name} does not exist"))
            }
            Op::DeleteLink(name) if !self.created.contains(name) => {
                (&VTEP_LEFTOVER, name.to_string(), format!("{name} belongs to another config"))
            }
            Op::SetLink(name, change) => return self.link(name, change, op),
            Op::AddAddress(AddressKey { link, net }) if !self.created.contains(link) => {
                (&VTEP_ADDRESS, link.to_string(), format!("{link} lacks the address {net}"))
            }
            Op::DeleteAddress(AddressKey { link, net }) => {
                (&VTEP_ADDRESS, link.to_string(), format!("{link} has the unexpected address {net}"))
            }
            // A device whose MAC changes loses neighbours that are in sync; those are no findings.
            Op::SetNeighbour(key @ NeighbourKey { link, address }, mac)
                if !self.created.contains(link)
                    && actual.neighbours.get(key).is_none_or(|found| found.mac != Some(*mac)) =>
            {
                let problem = format!("the MAC of {address} is missing or out of sync");
                (&NEIGHBOUR_WRONG, address.to_string(), problem)
            }
            Op::DeleteNeighbour(NeighbourKey { address, .. }) => {
                (&NEIGHBOUR_STALE, address.to_string(), format!("no node uses {address} any more"))
            }
            Op::SetFdb(key @ FdbKey { link, mac }, to) if !self.created.contains(link) => {
                match actual.fdb.get(key).map(|entry| entry.destinations.as_slice()) {
                    Some(found) if found != [*to] => {
                        let found = join(found, " and ");
                        (&FDB_STALE, mac.to_string(), format!("{mac} leads to {found} instead of {to}"))
                    }
                    _ => {
                        let problem = format!("{to} is unreachable: no FDB entry of {mac}");
                        (&FDB_MISSING, mac.to_string(), problem)
                    }
                }
            }
            Op::DeleteFdb(FdbKey { mac, .. }, to) => {
                (&FDB_STALE, mac.to_string(), format!("{mac} still leads to {to}"))
            }
            Op::SetRoute(key, route) => return self.route(key, route, op),
            // An object that a route refers to goes with the route.
            Op::DeleteNexthop(id)
                if !actual.routes.values().any(|route| route.target.object() == Some(*id)) =>
            {
                (&ROUTE_STALE, id.to_string(), format!("no route refers to the owned nexthop object {id}"))
            }
            Op::DeleteRoute(RouteKey { destination, .. }, _) => {
                let problem = format!("an owned route leads to {destination}, which has no lease");
                (&ROUTE_STALE, destination.to_string(), problem)
            }
            _ => return,
        };
        self.find(check, subject, problem, op);
    }

    fn link(&mut self, name: &LinkName, change: &LinkChange, op: &Op) {
        let found = self.facts.observation.dataplane.links.get(name);
        if let Some(desired) = change.mac {
            let mac =
                found.and_then(|link| link.mac).map_or_else(|| "none".to_owned(), |mac| mac.to_string());
            let problem = format!("{name} has the MAC {mac}, but other nodes send to {desired}");
            self.find(&VTEP_MAC, name, problem, op);
        }
        if let Some(desired) = change.mtu {
            let mtu = found.map_or(0, |link| link.mtu);
            self.find(&VTEP_MTU, name, format!("{name} has MTU {mtu} instead of {desired}"), op);
        }
        if change.up == Some(true) && !self.blocked.contains(name) {
            self.find(&VTEP_DOWN, name, format!("{name} is down"), op);
        }
        if let Some(kind) = &change.kind {
            let problem = format!("{name} does not have the setting {}", kind.changeable());
            self.find(&VTEP_LEARNING, name, problem, op);
        }
    }

    fn route(&mut self, key: &RouteKey, desired: &Route, op: &Op) {
        // The kernel removes the routes of a device that is removed or down.
        let links = &self.facts.observation.dataplane.links;
        let lost = |name: &LinkName| links.get(name).is_none_or(|link| !link.up);
        if desired.target.link().is_some_and(|name| self.created.contains(name) || lost(name)) {
            return;
        }
        let destination = key.destination;
        let blocking = self.facts.obstacles.iter().find_map(|obstacle| match &obstacle.blocker {
            Blocker::Route(blocked, by, _) if blocked == key => Some((obstacle, by)),
            _ => None,
        });
        if let Some((obstacle, by)) = blocking {
            // A preferred route is reported as such.
            if by.destination != destination || by.metric >= key.metric {
                let found =
                    self.report.find(&ROUTE_MISSING, destination, format!("no route to {destination}"));
                found.seen(obstacle.to_string()).fix(obstacle.fix());
            }
            return;
        }
        let (check, problem) = match self.comparison.actual.routes.get(key) {
            None => (&ROUTE_MISSING, format!("no route to {destination}")),
            Some(found) if found.each().any(|route| route.protocol == PROTOCOL) => {
                (&ROUTE_WRONG, format!("the route to {destination} is out of sync"))
            }
            Some(found) => return self.shadowed(destination, *key, found),
        };
        self.find(check, destination, problem, op);
    }

    fn shadowed(&mut self, hidden: IpNet, key: RouteKey, route: &Route) {
        let by = key.destination;
        let part = if by == hidden { String::new() } else { format!("{by}, a part of ") };
        let text = Op::DeleteRoute(key, route.clone()).to_string();
        self.report
            .find(&ROUTE_SHADOWED, by, format!("traffic for {part}{hidden} takes an unmanaged route"))
            .seen(text.replacen("route del ", "ip route: ", 1))
            .fix(format!("ip {text}"));
    }

    /// Unmanaged routes that are more specific than owned ones, or preferred to them.
    fn shadows(&mut self) {
        let facts = self.facts;
        let own: Vec<IpNet> = self.view.own.iter().flat_map(|own| own.subnets.iter()).collect();
        let desired: Vec<RouteKey> = self.comparison.assembly.dataplane().routes.keys().copied().collect();
        for (key, route) in &facts.observation.dataplane.routes {
            let hides = |desired: &&RouteKey| {
                let longer = desired.destination.contains(&key.destination)
                    && key.destination.prefix_len() > desired.destination.prefix_len();
                let preferred = desired.destination == key.destination && key.metric < desired.metric;
                (longer || preferred) && !own.contains(&desired.destination)
            };
            let unmanaged = route.each().any(|route| route.protocol != PROTOCOL);
            if let Some(hidden) = desired.iter().find(hides).filter(|_| unmanaged) {
                self.shadowed(hidden.destination, *key, route);
            }
        }
    }
}
