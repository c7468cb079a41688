//! Kernel state: owned objects that are missing, out of sync or stale, according to the plan of the daemon.

use flannel_core::dataplane::{FdbKey, LinkChange, Op, PROTOCOL, Route, RouteKey};
use flannel_core::link::LinkName;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::doctor::catalog::{
    Check, FDB_MISSING, FDB_STALE, FIREWALL_LEFTOVER, FIREWALL_RULES, NEIGHBOUR_STALE, NEIGHBOUR_WRONG,
    ROUTE_MISSING, ROUTE_SHADOWED, ROUTE_STALE, ROUTE_WRONG, VTEP_ADDRESS, VTEP_DOWN, VTEP_LEARNING,
    VTEP_LEFTOVER, VTEP_MAC, VTEP_MISSING, VTEP_MTU, VTEP_WRONG,
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
    let mut judge = Judge { facts, view, comparison, report, gone: gone(comparison) };
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
            .seen("the rules differ from those for lease and flags")
            .fix(facts.restart());
    }
    match &firewall.leftover {
        Ok(true) => {
            report
                .find(&FIREWALL_LEFTOVER, other, format!("stale rules of {other} are in effect, too"))
                .seen(format!("the network config selects {mode}"))
                .fix(facts.restart());
        }
        Ok(false) => {}
        Err(reason) => report.skip(&FIREWALL_LEFTOVER, reason),
    }
}

/// Devices that must be created. Objects on them are missing for that reason.
fn gone(comparison: &Comparison) -> BTreeSet<LinkName> {
    let created = comparison.ops.iter().filter_map(|op| match op {
        Op::CreateLink(name, _) => Some(name.clone()),
        _ => None,
    });
    created.collect()
}

struct Judge<'a> {
    facts: &'a Facts,
    view: &'a View,
    comparison: &'a Comparison,
    report: &'a mut Report,
    gone: BTreeSet<LinkName>,
}

impl Judge<'_> {
    fn find(&mut self, check: &Check, subject: impl ToString, problem: impl Into<String>, op: &Op) {
        self.report.find(check, subject, problem).seen(format!("pending: {op}")).fix(self.facts.restart());
    }

    fn op(&mut self, op: &Op) {
        let actual = &self.comparison.actual;
        match op {
            Op::CreateLink(name, _) if actual.links.contains_key(name) => {
                self.find(&VTEP_WRONG, name, format!("{name} is incompatible"), op);
            }
            Op::CreateLink(name, _) => {
                self.find(&VTEP_MISSING, name, format!("the tunnel device {name} does not exist"), op);
            }
            Op::DeleteLink(name) if !self.gone.contains(name) => {
                self.find(&VTEP_LEFTOVER, name, format!("{name} belongs to another config"), op);
            }
            Op::SetLink(name, change) => self.link(name, change, op),
            Op::AddAddress(key) if !self.gone.contains(&key.link) => {
                self.find(
                    &VTEP_ADDRESS,
                    &key.link,
                    format!("{} lacks the address {}", key.link, key.net),
                    op,
                );
            }
            Op::DeleteAddress(key) => {
                self.find(
                    &VTEP_ADDRESS,
                    &key.link,
                    format!("{} has the unexpected address {}", key.link, key.net),
                    op,
                );
            }
            // A device whose MAC changes loses neighbours that are in sync; those are no findings.
            Op::SetNeighbour(key, mac)
                if !self.gone.contains(&key.link)
                    && actual.neighbours.get(key).is_none_or(|found| found.mac != Some(*mac)) =>
            {
                let problem = format!("the MAC of {} is missing or out of sync", key.address);
                self.find(&NEIGHBOUR_WRONG, key.address, problem, op);
            }
            Op::DeleteNeighbour(key) => {
                let problem = format!("no node uses {} any more", key.address);
                self.find(&NEIGHBOUR_STALE, key.address, problem, op);
            }
            Op::SetFdb(key, destination) if !self.gone.contains(&key.link) => {
                self.forwarding(key, *destination, op);
            }
            Op::DeleteFdb(key, destination) => {
                self.find(&FDB_STALE, key.mac, format!("{} still leads to {destination}", key.mac), op);
            }
            Op::SetRoute(key, route) => self.route(key, route, op),
            Op::DeleteRoute(key, _) => {
                let problem = format!("an owned route leads to {}, which has no lease", key.destination);
                self.find(&ROUTE_STALE, key.destination, problem, op);
            }
            _ => {}
        }
    }

    fn link(&mut self, name: &LinkName, change: &LinkChange, op: &Op) {
        let found = self.facts.observation.dataplane.links.get(name);
        if let Some(wanted) = change.mac {
            let mac =
                found.and_then(|link| link.mac).map_or_else(|| "none".to_owned(), |mac| mac.to_string());
            let problem = format!("{name} has the MAC {mac}, but other nodes send to {wanted}");
            self.find(&VTEP_MAC, name, problem, op);
        }
        if let Some(wanted) = change.mtu {
            let mtu = found.map_or(0, |link| link.mtu);
            self.find(&VTEP_MTU, name, format!("{name} has MTU {mtu} instead of {wanted}"), op);
        }
        if change.up == Some(true) {
            self.find(&VTEP_DOWN, name, format!("{name} is down"), op);
        }
        if let Some(kind) = &change.kind {
            let problem = format!("{name} does not have the setting {}", kind.changeable());
            self.find(&VTEP_LEARNING, name, problem, op);
        }
    }

    fn forwarding(&mut self, key: &FdbKey, wanted: IpAddr, op: &Op) {
        let found = self.comparison.actual.fdb.get(key).map(|entry| entry.destinations.as_slice());
        match found {
            Some(found) if found != [wanted] => {
                let problem = format!("{} leads to {} instead of {wanted}", key.mac, join(found, " and "));
                self.find(&FDB_STALE, key.mac, problem, op);
            }
            _ => {
                let problem = format!("{wanted} is unreachable: no FDB entry of {}", key.mac);
                self.find(&FDB_MISSING, key.mac, problem, op);
            }
        }
    }

    fn route(&mut self, key: &RouteKey, wanted: &Route, op: &Op) {
        // The kernel removes the routes of a device that is removed or down.
        let links = &self.facts.observation.dataplane.links;
        let lost = |name: &LinkName| links.get(name).is_none_or(|link| !link.up);
        if wanted.target.link().is_some_and(|name| self.gone.contains(name) || lost(name)) {
            return;
        }
        let destination = key.destination;
        match self.comparison.actual.routes.get(key) {
            None => {
                self.find(&ROUTE_MISSING, destination, format!("no route to {destination}"), op);
            }
            Some(found) if found.each().any(|route| route.protocol == PROTOCOL) => {
                self.find(
                    &ROUTE_WRONG,
                    destination,
                    format!("the route to {destination} is out of sync"),
                    op,
                );
            }
            Some(found) => self.shadowed(destination, *key, found),
        }
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
        let wanted: Vec<RouteKey> = self.comparison.assembly.dataplane().routes.keys().copied().collect();
        for (key, route) in &facts.observation.dataplane.routes {
            let hides = |wanted: &&RouteKey| {
                let longer = wanted.destination.contains(&key.destination)
                    && key.destination.prefix_len() > wanted.destination.prefix_len();
                let preferred = wanted.destination == key.destination && key.metric < wanted.metric;
                (longer || preferred) && !own.contains(&wanted.destination)
            };
            let unmanaged = route.each().any(|route| route.protocol != PROTOCOL);
            if let Some(hidden) = wanted.iter().find(hides).filter(|_| unmanaged) {
                self.shadowed(hidden.destination, *key, route);
            }
        }
    }
}
