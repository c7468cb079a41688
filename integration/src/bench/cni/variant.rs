//! What is measured: kinds of pod networks, and how each side is told to make one.

use anyhow::Result;
use integration::Conflist;
use integration::peer::Peer;
use serde_json::{Value, json};

/// The MTU of a vxlan network over ordinary Ethernet.
const MTU: u32 = 1450;
/// Networks of the cluster, and the part of the node.
pub(super) const V4: (&str, &str) = ("10.244.0.0/16", "10.244.0.0/24");
pub(super) const V6: (&str, &str) = ("fd00:10:244::/56", "fd00:10:244::/64");
/// Host port of pod 0 where pods have one.
const FIRST_PORT: usize = 20_000;
/// A version of the CNI specification that all sides know.
const CNI_VERSION: &str = "1.0.0";

/// One kind of pod network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Variant {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) v6: bool,
    masquerade: bool,
    ports: bool,
    nftables: bool,
    /// Targets as "how many times faster than the peer": ADD, DEL, pods per second at 32 at once.
    pub(super) targets: Targets,
}

/// How many times as fast as the peer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Targets {
    pub(super) add: f64,
    pub(super) del: f64,
    pub(super) rate: f64,
}

const BRIDGE: Variant = Variant {
    name: "bridge",
    what: "bridge + host-local",
    v6: false,
    masquerade: false,
    ports: false,
    nftables: false,
    targets: Targets { add: 8.0, del: 1.0 / 0.7, rate: 8.0 },
};
const MASQUERADE: Variant = Variant {
    name: "masquerade-iptables",
    what: "+ masquerade, iptables",
    masquerade: true,
    targets: Targets { add: 12.0, del: 3.0, rate: 16.0 },
    ..BRIDGE
};
const PORTMAP: Variant = Variant {
    name: "portmap-iptables",
    what: "+ masquerade + portmap, one port, iptables",
    ports: true,
    targets: Targets { add: 20.0, del: 8.0, rate: 16.0 },
    ..MASQUERADE
};

pub(super) const VARIANTS: [Variant; 6] = [
    BRIDGE,
    Variant { name: "dual-stack", what: "bridge + host-local, IPv4 and IPv6", v6: true, ..BRIDGE },
    MASQUERADE,
    Variant { name: "masquerade-nftables", what: "+ masquerade, nftables", nftables: true, ..MASQUERADE },
    PORTMAP,
    Variant {
        name: "portmap-nftables",
        what: "+ masquerade + portmap, one port, nftables",
        nftables: true,
        ..PORTMAP
    },
];

impl Variant {
    /// The kernel's part alone is known for what needs no firewall.
    pub(super) fn has_bare(self) -> bool {
        !self.masquerade
    }

    /// The firewall that the peer uses: its own choice where it does not know ours.
    pub(super) fn peer_firewall(self, peer: &Peer) -> Result<Option<&'static str>> {
        if !self.masquerade {
            return Ok(None);
        }
        Ok(Some(if self.nftables && knows_nftables(peer)? { "nftables" } else { "iptables" }))
    }

    /// `subnet.env` as flanneld writes it.
    pub(super) fn subnet_env(self) -> String {
        // Where flanneld masquerades, the plugin does not.
        let mut text = format!(
            "FLANNEL_NETWORK={}\nFLANNEL_SUBNET={}\nFLANNEL_MTU={MTU}\nFLANNEL_IPMASQ={}\n",
            V4.0,
            V4.1.replace(".0/", ".1/"),
            !self.masquerade
        );
        if self.v6 {
            text += &format!(
                "FLANNEL_IPV6_NETWORK={}\nFLANNEL_IPV6_SUBNET={}\n",
                V6.0,
                V6.1.replace("::/", "::1/")
            );
        }
        text
    }

    /// The list with flannel first, as it is installed on nodes.
    pub(super) fn ours(self, pod: usize) -> Conflist {
        let mut delegate = json!({"hairpinMode": true, "isDefaultGateway": true});
        if self.nftables {
            delegate["ipMasqBackend"] = json!("nftables");
        }
        self.list(json!({"type": "flannel", "delegate": delegate}), self.nftables, pod)
    }

    /// The same for the plugins in a directory: with their flannel if they have one, otherwise with what it would hand
    /// to its delegate.
    pub(super) fn peers(self, peer: &Peer, pod: usize) -> Result<Conflist> {
        let nftables = self.nftables && knows_nftables(peer)?;
        let mut delegate = json!({"hairpinMode": true, "isDefaultGateway": true});
        if nftables {
            delegate["ipMasqBackend"] = json!("nftables");
        }
        if peer.has("flannel") {
            return Ok(self.list(json!({"type": "flannel", "delegate": delegate}), nftables, pod));
        }
        let (mut ranges, mut routes) = (json!([[{"subnet": V4.1}]]), json!([{"dst": V4.0}]));
        if self.v6 {
            ranges = json!([[{"subnet": V4.1}], [{"subnet": V6.1}]]);
            routes = json!([{"dst": V4.0}, {"dst": V6.0}]);
        }
        delegate["type"] = json!("bridge");
        delegate["isGateway"] = json!(true);
        delegate["ipMasq"] = json!(self.masquerade);
        delegate["mtu"] = json!(MTU);
        delegate["ipam"] = json!({"type": "host-local", "ranges": ranges, "routes": routes});
        Ok(self.list(delegate, nftables, pod))
    }

    fn list(self, first: Value, nftables: bool, pod: usize) -> Conflist {
        let list = Conflist::new("cbr0", CNI_VERSION, vec![first]);
        if !self.ports {
            return list;
        }
        let mut portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        if nftables {
            portmap["backend"] = json!("nftables");
        }
        let port = json!([{"hostPort": FIRST_PORT + pod, "containerPort": 80, "protocol": "tcp"}]);
        list.plugin(portmap).capability("portMappings", port)
    }

    /// What `kernel-work` is told of a pod.
    pub(super) fn places(self, pod: usize) -> Vec<String> {
        let host = pod + 2;
        let mut places = vec![format!("10.244.0.{host}/24,10.244.0.1,{},0.0.0.0/0", V4.0)];
        if self.v6 {
            places.push(format!("fd00:10:244::{host:x}/64,fd00:10:244::1,{},::/0", V6.0));
        }
        places
    }
}

/// Plugins before 1.6 have no nftables, and do not refuse the key that asks for it.
fn knows_nftables(peer: &Peer) -> Result<bool> {
    peer.knows("bridge", "ipMasqBackend")
}
