//! The nodes of the cluster as records of leases: what is known of each node, and what an event changes.
//!
//! Metadata has no podCIDR, which never changes once it is set; so it is remembered for each node, and a node that appears is
//! read once. An event that changes nothing for flannel, such as a heartbeat of a kubelet, ends here.

use flannel_core::kubernetes::{Annotations, Node, Prefix, Published};
use flannel_core::lease::{LeaseAttrs, Revision, Subnets};
use flannel_core::store::{Change, OwnNode, Prescribed, Record};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// Everything that is known about the nodes of the cluster.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    known: BTreeMap<Box<str>, Known>,
    /// This node.
    pub(super) own: Own,
}

/// A node.
#[derive(Debug)]
struct Known {
    uid: Box<str>,
    created: i64,
    /// Empty until it is assigned.
    assigned: Subnets,
    /// The key of its record, if it has one.
    key: Option<Box<str>>,
    /// Differs where the record differs.
    digest: u64,
}

/// This node.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) name: String,
    /// The subnets that it holds.
    pub(super) held: Option<Subnets>,
    /// The families of the network config, while it holds nothing.
    pub(super) families: (bool, bool),
    /// What it published last, as attributes and as annotations.
    pub(super) published: Option<(LeaseAttrs, Published)>,
    /// What was prescribed for it when it was seen last.
    prescribed: Result<Prescribed, String>,
}

impl Default for Own {
    fn default() -> Self {
        Self {
            name: String::new(),
            held: None,
            families: (false, false),
            published: None,
            prescribed: Ok(Prescribed::default()),
        }
    }
}

/// What is needed before an event can be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Nothing,
    /// The whole node.
    Node,
}

impl Own {
    /// Returns the published attributes of this node, as it wanted them: an administrator may have overwritten an address.
    /// `None` if they have to be published again.
    pub(super) fn attrs(&self, annotations: &Annotations, prefix: &Prefix) -> Option<LeaseAttrs> {
        if !annotations.is_managed() {
            return None;
        }
        if let Some((attrs, written)) = &self.published {
            let present = annotations.published();
            if Published::new(attrs, annotations, prefix).is_ok_and(|desired| desired == present) {
                return Some(attrs.clone());
            }
            // Another overwrite, or someone has removed some of them.
            if present.is_part_of(written) {
                return None;
            }
        }
        let is_reached = |attrs: &LeaseAttrs| attrs.public_ip.is_some() || attrs.public_ipv6.is_some();
        annotations.attrs(prefix).ok().filter(is_reached)
    }

    /// Returns the record of this node: under the key that it holds, and never with a family that the config does not have.
    fn lease(
        &self,
        assigned: &Subnets,
        node: &Annotations,
        prefix: &Prefix,
    ) -> Result<(Subnets, LeaseAttrs), String> {
        let (subnets, attrs) = node.lease(assigned, prefix)?;
        let (v4, v6) = self.families;
        let configured = Subnets { v4: subnets.v4.filter(|_| v4), v6: subnets.v6.filter(|_| v6) };
        let subnets = self.held.unwrap_or(configured);
        Ok((subnets, self.attrs(node, prefix).unwrap_or(attrs)))
    }
}

impl Nodes {
    /// Forgets all nodes but this one, before a listing.
    pub(super) fn clear(&mut self) {
        self.known.clear();
    }

    /// Takes a node of a listing; returns its record, if it has one.
    pub(super) fn list(&mut self, node: Node, prefix: &Prefix) -> Option<Record> {
        let (known, record) = self.read(&node, node.pod_cidrs.subnets(), prefix);
        self.known.insert(node.name.into_boxed_str(), known);
        record
    }

    /// Takes this node; returns what the daemon should know of it.
    pub(super) fn take_own(&mut self, node: &Node, prefix: &Prefix) -> OwnNode {
        self.own.prescribed = node.annotations.prescribed(prefix);
        let published = node.annotations.is_managed().then(|| node.annotations.attrs(prefix).ok()).flatten();
        OwnNode {
            prescribed: *self.own.prescribed.as_ref().unwrap_or(&Prescribed::default()),
            fault: self.own.prescribed.as_ref().err().cloned(),
            published,
        }
    }

    /// Returns the key of the record of this node.
    pub(super) fn own_key(&self) -> Option<String> {
        self.known.get(self.own.name.as_str())?.key.as_deref().map(str::to_owned)
    }

    /// Returns what is needed to apply a node that was added or changed.
    pub(super) fn need(&self, node: &Node) -> Need {
        if !node.annotations.is_managed() || !node.pod_cidrs.0.is_empty() {
            return Need::Nothing;
        }
        match self.known.get(node.name.as_str()) {
            Some(known) if *known.uid == *node.uid && !known.assigned.is_empty() => Need::Nothing,
            _ => Need::Node,
        }
    }

    /// Takes a node that was added or changed: its metadata, or, where [`Nodes::need`] requires it, the whole node.
    pub(super) fn apply(&mut self, node: Node, prefix: &Prefix) -> Vec<Change> {
        let is_prescribed =
            node.name == self.own.name && node.annotations.prescribed(prefix) != self.own.prescribed;
        let own = is_prescribed.then(|| Change::Own(self.take_own(&node, prefix)));
        let known = self.known.get(node.name.as_str()).filter(|known| *known.uid == *node.uid);
        let assigned = match known {
            _ if !node.pod_cidrs.0.is_empty() => node.pod_cidrs.subnets(),
            Some(known) => Ok(known.assigned),
            None => Ok(Subnets { v4: None, v6: None }),
        };
        let (mut new, mut record) = self.read(&node, assigned, prefix);
        let is_same = |new: &Known| known.is_some_and(|old| old.digest == new.digest);
        let holder =
            record.as_ref().filter(|_| !is_same(&new)).and_then(|it| self.holder(&it.key, &node.name));
        let mut demoted = None;
        if let Some(holder) = holder.map(str::to_owned) {
            if self.rank(&holder, self.known[&*holder].created) < self.rank(&node.name, new.created) {
                record = Some(new.contest(&node.name, &holder, node.revision));
            } else if let Some(known) = self.known.get_mut(&*holder) {
                demoted = Some(known.contest(&holder, &node.name, node.revision));
            }
        }
        let digest = new.digest;
        let old = self.known.insert(node.name.into_boxed_str(), new);
        if old.as_ref().is_some_and(|old| old.digest == digest) {
            return own.into_iter().collect();
        }
        let old_key = old.and_then(|old| old.key);
        let new_key = record.as_ref().map(|record| record.key.clone());
        let gone = old_key.filter(|key| new_key.as_deref() != Some(&**key));
        let put = demoted.into_iter().chain(record).map(Change::Put);
        let gone = gone.map(|key| Change::Delete { key: key.into_string() });
        own.into_iter().chain(gone).chain(put).collect()
    }

    /// Takes a node that was deleted.
    pub(super) fn delete(&mut self, name: &str) -> Vec<Change> {
        if name == self.own.name {
            self.own.published = None;
        }
        let key = self.known.remove(name).and_then(|known| known.key);
        key.map(|key| Change::Delete { key: key.into_string() }).into_iter().collect()
    }

    /// Whether another node has the podCIDR of this key, which happens only if someone assigns one twice.
    pub(super) fn is_shared(&self, key: &str) -> bool {
        let subnets = Subnets::parse_key(key).ok();
        self.known.values().any(|known| match known.key.as_deref() {
            Some(other) if is_without_subnet(other) => {
                subnets.is_some_and(|subnets| known.assigned.overlap(&subnets))
            }
            other => other == Some(key),
        })
    }

    /// Settles a listing in which nodes have one podCIDR: the first one keeps it.
    pub(super) fn settle(&mut self, records: &mut BTreeMap<String, Record>) {
        let mut holders: Vec<(&str, &str)> = records
            .iter()
            .filter(|(_, record)| !is_without_subnet(&record.key))
            .map(|(name, record)| (record.key.as_str(), name.as_str()))
            .collect();
        holders.sort_unstable();
        let shared = holders.chunk_by(|(one, _), (other, _)| one == other).filter(|chunk| chunk.len() > 1);
        let mut losers = Vec::new();
        for chunk in shared {
            let mut names: Vec<&str> = chunk.iter().map(|(_, name)| *name).collect();
            names.sort_by_key(|name| self.rank(name, self.known.get(*name).map_or(0, |known| known.created)));
            losers.extend(names[1..].iter().map(|name| ((*name).to_owned(), names[0].to_owned())));
        }
        for (name, holder) in losers {
            if let (Some(known), Some(record)) = (self.known.get_mut(&*name), records.get_mut(&name)) {
                *record = known.contest(&name, &holder, record.revision);
            }
        }
    }

    /// The node that has the record with this key, other than `name`.
    fn holder(&self, key: &str, name: &str) -> Option<&str> {
        let others = self.known.iter().filter(|(other, _)| &***other != name);
        others.filter(|(_, known)| known.key.as_deref() == Some(key)).map(|(other, _)| &**other).next()
    }

    /// The order of nodes with one podCIDR: this node, then the one that was created first.
    fn rank<'a>(&self, name: &'a str, created: i64) -> (bool, i64, &'a str) {
        (name != self.own.name, created, name)
    }

    /// Converts a node: what is to be remembered of it, and its record.
    fn read(
        &self,
        node: &Node,
        assigned: Result<Subnets, String>,
        prefix: &Prefix,
    ) -> (Known, Option<Record>) {
        let none = Subnets { v4: None, v6: None };
        let record = node.annotations.is_managed().then(|| {
            let lease = assigned.clone().and_then(|assigned| {
                if node.name == self.own.name {
                    self.own.lease(&assigned, &node.annotations, prefix)
                } else {
                    node.annotations.lease(&assigned, prefix)
                }
            });
            // A record that becomes unusable keeps its key, so that it takes the place of the lease.
            let known = self.known.get(node.name.as_str()).filter(|known| *known.uid == *node.uid);
            let key = known.and_then(|known| known.key.clone());
            let assigned = *assigned.as_ref().unwrap_or(&none);
            let key =
                key.map(str::into_string).or_else(|| (!assigned.is_empty()).then(|| assigned.to_string()));
            record(node, lease, key)
        });
        let known = Known {
            uid: node.uid.as_str().into(),
            created: node.created,
            assigned: assigned.unwrap_or(none),
            key: record.as_ref().map(|record| record.key.as_str().into()),
            digest: record.as_ref().map_or(0, |record| {
                // Of this node, an overwrite counts as well.
                digest(record, (node.name == self.own.name).then_some(&node.annotations))
            }),
        };
        (known, record)
    }
}

impl Known {
    /// Takes the podCIDR away: another node has it. Returns the record.
    fn contest(&mut self, name: &str, holder: &str, revision: Revision) -> Record {
        let cidrs: Vec<String> = self.assigned.iter().map(|net| net.to_string()).collect();
        let fault = format!(
            "node {name}: its podCIDR {} is also assigned to node {holder}, which keeps it. Run `kubectl delete node {name}` and \
             register the node again",
            cidrs.join(", ")
        );
        let record = Record {
            key: key_of(name),
            value: Vec::new(),
            revision,
            grant: None,
            fault: Some(fault),
            node: Some(name.to_owned()),
        };
        self.key = Some(record.key.as_str().into());
        self.digest = digest(&record, None);
        record
    }
}

/// A key that no subnet has: the closing bracket ends none.
fn key_of(name: &str) -> String {
    format!("(node {name})")
}

fn is_without_subnet(key: &str) -> bool {
    key.starts_with('(')
}

/// Returns the record of a node. `key` is that of a lease that cannot be used.
fn record(node: &Node, lease: Result<(Subnets, LeaseAttrs), String>, key: Option<String>) -> Record {
    let (key, value, fault) = match lease {
        Ok((subnets, attrs)) => (subnets.to_string(), attrs.to_json().into_bytes(), None),
        Err(reason) => {
            let key = key.unwrap_or_else(|| key_of(&node.name));
            (key, Vec::new(), Some(format!("node {}: {reason}", node.name)))
        }
    };
    Record { key, value, revision: node.revision, grant: None, fault, node: Some(node.name.clone()) }
}

/// Everything of a record but its revision, which every change of its node moves.
fn digest(record: &Record, annotations: Option<&Annotations>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&record.key, &record.value, &record.fault, annotations).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
