//! Kernel state: what of ours is missing, wrong or left over, as the plan of the daemon tells it.

use flannel_core::dataplane::{FdbKey, LinkChange, Op, PROTOCOL, Route, RouteKey};
use flannel_core::family::Family;
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

pub(super) fn check(facts: &Facts, report: &mut Report) {
    // Before there is a first daemon nothing can be missing.
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
    if firewall.in_force == Ok(false) {
        report.find(
            &FIREWALL_RULES,
            firewall.mode.to_string(),
            format!("our {} rules are missing, changed or in another order", firewall.mode),
            vec!["what is in force is not what lease and flags ask for".to_owned()],
            facts.restart(),
        );
    }
    match &firewall.leftover {
        Ok(true) => {
            report.find(
                &FIREWALL_LEFTOVER,
                firewall.mode.other().to_string(),
                format!("rules of ours are in {} too, and act", firewall.mode.other()),
                vec![format!("the network config wants {}", firewall.mode)],
                facts.restart(),
            );
        }
        Ok(false) => {}
        Err(reason) => report.skip(&FIREWALL_LEFTOVER, reason.clone()),
    }
}

/// Devices that have to be made: what belongs on them is missing for that reason.
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
        let seen = vec![format!("flanneld would run: {op}")];
        self.report.find(check, subject.to_string(), problem, seen, self.facts.restart());
    }

    fn op(&mut self, op: &Op) {
        let actual = &self.comparison.actual;
        match op {
            Op::CreateLink(name, _) if actual.links.contains_key(name) => {
                self.find(&VTEP_WRONG, name, format!("{name} cannot be the tunnel device as it is"), op);
            }
            Op::CreateLink(name, _) => {
                self.find(&VTEP_MISSING, name, format!("the tunnel device {name} is not there"), op);
            }
            Op::DeleteLink(name) if !self.gone.contains(name) => {
                self.find(&VTEP_LEFTOVER, name, format!("{name} is left from another config"), op);
            }
            Op::SetLink(name, change) => self.link(name, change, op),
            Op::AddAddress(key) if !self.gone.contains(&key.link) => {
                self.find(&VTEP_ADDRESS, &key.link, format!("{} lacks {}", key.link, key.net), op);
            }
            Op::DeleteAddress(key) => {
                self.find(&VTEP_ADDRESS, &key.link, format!("{} must not have {}", key.link, key.net), op);
            }
            // A device that gets another MAC will forget neighbours that are right: those are no finding.
            Op::SetNeighbour(key, mac)
                if !self.gone.contains(&key.link)
                    && actual.neighbours.get(key).is_none_or(|found| found.mac != Some(*mac)) =>
            {
                let problem = format!("the MAC behind {} is missing or wrong", key.address);
                self.find(&NEIGHBOUR_WRONG, key.address, problem, op);
            }
            Op::DeleteNeighbour(key) => {
                let problem = format!("nobody is behind {} any more", key.address);
                self.find(&NEIGHBOUR_STALE, key.address, problem, op);
            }
            Op::SetFdb(key, destination) if !self.gone.contains(&key.link) => {
                self.forwarding(key, *destination, op);
            }
            Op::DeleteFdb(key, destination) => {
                self.find(&FDB_STALE, key.mac, format!("{} is still sent to {destination}", key.mac), op);
            }
            Op::SetRoute(key, route) => self.route(key, route, op),
            Op::DeleteRoute(key, _) => {
                let problem = format!("a route of ours to {}, which nobody holds", key.destination);
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
            let problem = format!("{name} has the MAC {mac}, other nodes send to {wanted}");
            self.find(&VTEP_MAC, name, problem, op);
        }
        if let Some(wanted) = change.mtu {
            let mtu = found.map_or(0, |link| link.mtu);
            self.find(&VTEP_MTU, name, format!("{name} has MTU {mtu}, not {wanted}"), op);
        }
        if change.up == Some(true) {
            self.find(&VTEP_DOWN, name, format!("{name} is down"), op);
        }
        if let Some(kind) = &change.kind {
            self.find(
                &VTEP_LEARNING,
                name,
                format!("{name} does not have the setting {}", kind.changeable()),
                op,
            );
        }
    }

    fn forwarding(&mut self, key: &FdbKey, wanted: IpAddr, op: &Op) {
        let found = self.comparison.actual.fdb.get(key).map(|entry| entry.destinations.as_slice());
        match found {
            Some(found) if found != [wanted] => {
                let found: Vec<String> = found.iter().map(ToString::to_string).collect();
                let problem = format!("{} is sent to {}, not to {wanted}", key.mac, found.join(" and "));
                self.find(&FDB_STALE, key.mac, problem, op);
            }
            _ => {
                let problem = format!("{wanted} is not reached: nothing says where {} is", key.mac);
                self.find(&FDB_MISSING, key.mac, problem, op);
            }
        }
    }

    fn route(&mut self, key: &RouteKey, wanted: &Route, op: &Op) {
        // A device that is gone or down takes its routes with it.
        let links = &self.facts.observation.dataplane.links;
        let lost = |name: &LinkName| links.get(name).is_none_or(|link| !link.up);
        if wanted.target.link().is_some_and(|name| self.gone.contains(name) || lost(name)) {
            return;
        }
        let destination = key.destination;
        match self.comparison.actual.routes.get(key) {
            None => {
                self.find(&ROUTE_MISSING, destination, format!("there is no route to {destination}"), op);
            }
            Some(found) if found.each().any(|route| route.protocol == PROTOCOL) => {
                self.find(
                    &ROUTE_WRONG,
                    destination,
                    format!("the route to {destination} leads elsewhere"),
                    op,
                );
            }
            Some(found) => self.shadowed(destination, *key, found),
        }
    }

    fn shadowed(&mut self, hidden: IpNet, key: RouteKey, route: &Route) {
        let by = key.destination;
        let what = if by == hidden { String::new() } else { format!("for {by}, a part of ") };
        let text = Op::DeleteRoute(key, route.clone()).to_string();
        self.report.find(
            &ROUTE_SHADOWED,
            by.to_string(),
            format!("the traffic {what}{hidden} goes by a route of somebody else"),
            vec![text.replacen("route del ", "ip route: ", 1)],
            format!("ip {text}"),
        );
    }

    /// Routes of others that are longer than ours, or preferred to it.
    fn shadows(&mut self) {
        let facts = self.facts;
        let own: Vec<IpNet> = self
            .view
            .own
            .iter()
            .flat_map(|own| Family::ALL.into_iter().filter_map(|family| own.subnets.get(family)))
            .collect();
        let wanted: Vec<RouteKey> = self.comparison.assembly.dataplane().routes.keys().copied().collect();
        for (key, route) in &facts.observation.dataplane.routes {
            let hides = |wanted: &&RouteKey| {
                let longer = wanted.destination.contains(&key.destination)
                    && key.destination.prefix_len() > wanted.destination.prefix_len();
                let preferred = wanted.destination == key.destination && key.metric < wanted.metric;
                (longer || preferred) && !own.contains(&wanted.destination)
            };
            let foreign = route.each().any(|route| route.protocol != PROTOCOL);
            if let Some(hidden) = wanted.iter().find(hides).filter(|_| foreign) {
                self.shadowed(hidden.destination, *key, route);
            }
        }
    }
}
