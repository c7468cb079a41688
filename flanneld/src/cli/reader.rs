//! Converts settings to [`Options`].

use super::go_flags::{Given, HIDDEN, Origin, Setting};
use super::table::flags;
use super::{CliError, Criteria, LogFormat, LogOptions, NexthopThreshold, NodeOptions, Options, Warning};
use crate::flag::{Flag, Kind};
use crate::store::{KUBERNETES_FLAGS, LEASE_DIR, Ownership, PAIRS, StoreOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Converts settings.
pub(super) struct Reader<'a> {
    given: &'a Given,
    env: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(given: &'a Given, env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { given, env, warnings: given.ignored.iter().cloned().collect() }
    }

    /// Returns the last setting of a flag, or its default.
    pub(super) fn setting(&self, name: &str) -> Setting {
        self.given.all(name).last().cloned().unwrap_or_else(|| {
            let flag = flags().find(|flag| flag.name == name).expect("every name here is in the table");
            Setting { flag, origin: Origin::Default, text: flag.default.to_owned() }
        })
    }

    pub(super) fn options(mut self) -> Result<Options, CliError> {
        let lease_time = self.lease_time()?;
        let store = self.store()?;
        Ok(Options {
            node: self.node(store.ownership())?,
            store,
            subnet_file: self.path("subnet-file")?,
            state_dir: self.path("state-dir")?,
            lease_time,
            renew_margin: self.renew_margin(lease_time)?,
            firewall_resync: self.firewall_resync()?,
            healthz: self.healthz()?,
            status_socket: self.optional("status-socket").map(|setting| setting.text.into()),
            log: self.log()?,
            warnings: self.warnings,
            settings: self.given.iter().map(redacted).collect(),
        })
    }

    /// Returns a setting; `None` if its text is empty.
    fn optional(&self, name: &str) -> Option<Setting> {
        Some(self.setting(name)).filter(|setting| !setting.text.is_empty())
    }

    fn path(&self, name: &str) -> Result<PathBuf, CliError> {
        let setting = self.setting(name);
        if setting.text.is_empty() {
            return Err(setting.wrong("the path of a file or directory", setting.flag.default));
        }
        Ok(PathBuf::from(setting.text))
    }

    fn warn(&mut self, setting: String, reason: impl Into<String>) {
        self.warnings.push(Warning { setting, reason: reason.into() });
    }

    /// Checks the switches of Kubernetes, also where another store is chosen; returns whether Kubernetes is.
    fn check_kubernetes(&self) -> Result<bool, CliError> {
        for flag in KUBERNETES_FLAGS.iter().filter(|flag| flag.kind == Kind::Switch) {
            self.setting(flag.name).switch()?;
        }
        let is_chosen = StoreOptions::is_kubernetes(|flag| Some(self.setting(flag.name).text));
        match self.optional("lease-dir") {
            Some(directory) if is_chosen => {
                let [kubernetes, ..] = KUBERNETES_FLAGS;
                let kubernetes = self.setting(kubernetes.name);
                Err(CliError::contradiction(
                    kubernetes.name(),
                    directory.name(),
                    "only one store can be used",
                ))
            }
            _ => Ok(is_chosen),
        }
    }

    /// Kubernetes as the store. The lifetime of a lease is that of its node.
    fn kubernetes(&mut self) -> Result<StoreOptions, CliError> {
        let options = StoreOptions::kubernetes(|flag| Some(self.setting(flag.name).text), self.env)
            .map_err(|error| CliError::usage(error.to_string()))?;
        options.check().map_err(|error| CliError { text: error.to_string(), exit_code: 1 })?;
        let is_unused = |name: &str| {
            name.starts_with("etcd-") || matches!(name, "lease-time" | "subnet-lease-renew-margin")
        };
        for setting in self.given.iter().filter(|setting| is_unused(setting.flag.name)) {
            self.warn(setting.name(), "leases are annotations of Kubernetes nodes (--kube-subnet-mgr)");
        }
        Ok(options)
    }

    /// Names settings of Kubernetes where another store is chosen.
    fn warn_without_kubernetes(&mut self) {
        let [selects, others @ ..] = KUBERNETES_FLAGS;
        let is_unused = |name: &str| others.iter().any(|flag| flag.name == name);
        for setting in self.given.iter().filter(|setting| is_unused(setting.flag.name)) {
            self.warn(setting.name(), format!("it needs {}", selects.dashed()));
        }
    }

    fn store(&mut self) -> Result<StoreOptions, CliError> {
        if self.check_kubernetes()? {
            return self.kubernetes();
        }
        self.warn_without_kubernetes();
        let mut unused = Vec::new();
        if let Some(directory) = self.optional(LEASE_DIR.name) {
            let reason = format!("leases are in the directory of {}", directory.name());
            let given = self.given.iter().filter(|setting| setting.flag.name.starts_with("etcd-"));
            given.for_each(|setting| unused.push((setting.clone(), reason.clone())));
        } else {
            // Compatibility: Go ignores one without the other.
            for (one, other, reason) in PAIRS {
                for (one, other) in [(one, other), (other, one)] {
                    if let (Some(alone), None) = (self.optional(one.name), self.optional(other.name)) {
                        unused.push((alone, format!("{reason}: {} is missing", other.dashed())));
                    }
                }
            }
        }
        let is_unused = |flag: &Flag| unused.iter().any(|(setting, _)| setting.flag.name == flag.name);
        let options =
            StoreOptions::from_flags(|flag| (!is_unused(flag)).then(|| self.setting(flag.name).text));
        for (setting, reason) in unused {
            self.warn(setting.name(), reason);
        }
        // Nothing else can be invalid: halves of pairs are left out.
        options.check().map_err(|_| {
            let rule = "http://host:port or https://host:port, several separated by commas";
            self.setting("etcd-endpoints").wrong(rule, "http://192.0.2.1:2379,http://192.0.2.2:2379")
        })?;
        Ok(options)
    }

    fn node(&self, ownership: Ownership) -> Result<NodeOptions, CliError> {
        Ok(NodeOptions {
            ownership,
            interface: self.interface()?,
            ip_masq: self.setting("ip-masq").switch()?,
            fully_random: !self.setting("ip-masq-fully-random-disable").switch()?,
            forward_rules: self.setting("iptables-forward-rules").switch()?,
            blackhole_route: self.setting("ip-blackhole-route").switch()?,
            nexthops: self.nexthops()?,
        })
    }

    fn nexthops(&self) -> Result<NexthopThreshold, CliError> {
        let rule = "a number of peers, or 0 for no nexthop objects";
        let peers = self.setting("nexthop-objects-from").integer(0..=i64::from(u32::MAX), rule)?;
        Ok(NexthopThreshold(usize::try_from(peers).ok().filter(|peers| *peers > 0)))
    }

    fn interface(&self) -> Result<Criteria, CliError> {
        let texts = |name| self.given.all(name).iter().map(|setting| setting.text.clone()).collect();
        let can_reach = match self.optional("iface-can-reach") {
            Some(setting) => Some(
                setting.text.parse().map_err(|_| setting.wrong("an IPv4 or IPv6 address", "192.0.2.1"))?,
            ),
            None => None,
        };
        Ok(Criteria {
            names: texts("iface"),
            regexes: texts("iface-regex"),
            can_reach,
            public_ip: self.public_ip()?,
            public_ipv6: self.public_ipv6()?,
        })
    }

    fn public_ip(&self) -> Result<Option<Ipv4Addr>, CliError> {
        let Some(setting) = self.optional("public-ip") else { return Ok(None) };
        match setting.text.parse::<IpAddr>().map(|address| address.to_canonical()) {
            Ok(IpAddr::V4(address))
                if !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast() =>
            {
                Ok(Some(address))
            }
            Ok(IpAddr::V6(_)) => {
                Err(setting.wrong("the IPv4 address of one host (IPv6 is for --public-ipv6)", "192.0.2.1"))
            }
            _ => Err(setting.wrong("the IPv4 address of one host", "192.0.2.1")),
        }
    }

    fn public_ipv6(&self) -> Result<Option<Ipv6Addr>, CliError> {
        let Some(setting) = self.optional("public-ipv6") else { return Ok(None) };
        // Go formats mapped and low addresses as dotted quads, which no parser accepts as IPv6.
        let hidden_v4 = |address: Ipv6Addr| address != Ipv6Addr::LOCALHOST && address.to_ipv4().is_some();
        match setting.text.parse::<Ipv6Addr>() {
            Ok(address) if !address.is_multicast() && !hidden_v4(address) => Ok(Some(address)),
            _ => Err(setting.wrong("the IPv6 address of one host", "2001:db8::1")),
        }
    }

    fn lease_time(&self) -> Result<Duration, CliError> {
        let setting = self.setting("lease-time");
        parse_duration(&setting.text)
            .filter(|time| (MIN_LEASE_TIME..=MAX_LEASE_TIME).contains(time))
            .ok_or_else(|| setting.wrong("a time of 2s to 8760h in whole h, m and s", setting.flag.default))
    }

    fn renew_margin(&self, lease_time: Duration) -> Result<Duration, CliError> {
        let setting = self.setting("subnet-lease-renew-margin");
        let minutes = setting.integer(1..=1439, "a number of minutes from 1 to 1439")?;
        let margin = Duration::from_secs(60 * minutes.unsigned_abs());
        if margin < lease_time {
            return Ok(margin);
        }
        if setting.origin == Origin::Default {
            return Ok(lease_time / 2);
        }
        let fix = "the lifetime of a lease must exceed the renew margin";
        Err(CliError::contradiction(setting, self.setting("lease-time"), fix))
    }

    fn firewall_resync(&self) -> Result<Duration, CliError> {
        let setting = self.setting("iptables-resync");
        let seconds = setting.integer(1..=i64::from(i32::MAX), "a number of seconds, at least 1")?;
        Ok(Duration::from_secs(seconds.unsigned_abs()))
    }

    fn healthz(&self) -> Result<Option<SocketAddr>, CliError> {
        let setting = self.setting("healthz-ip");
        let address = match setting.text.as_str() {
            // Compatibility: both are names that Go listens on.
            "" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            text => {
                text.parse().map_err(|_| setting.wrong("an IPv4 or IPv6 address", setting.flag.default))?
            }
        };
        // Compatibility: Go takes everything below 1 for "off".
        let port = self
            .setting("healthz-port")
            .integer(i64::MIN..=65535, "a port up to 65535, or 0 for no health checks")?;
        let port = u16::try_from(port).ok().filter(|port| *port > 0);
        Ok(port.map(|port| SocketAddr::new(address, port)))
    }

    fn log(&self) -> Result<LogOptions, CliError> {
        let range = i64::from(i32::MIN)..=i64::from(i32::MAX);
        let level = self.setting("v").integer(range, "a number in decimal digits")?;
        let format = self.setting("log-format");
        Ok(LogOptions {
            verbosity: i32::try_from(level).expect("the range is that of the type"),
            format: match format.text.as_str() {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                _ => return Err(format.wrong("text or json", "text")),
            },
        })
    }
}

/// etcd raises shorter ones (its default election time).
const MIN_LEASE_TIME: Duration = Duration::from_secs(2);
const MAX_LEASE_TIME: Duration = Duration::from_secs(8760 * 3600);

fn redacted(setting: &Setting) -> Setting {
    let mut setting = setting.clone();
    if setting.is_secret() {
        setting.text = HIDDEN.to_owned();
    }
    setting
}

/// Parses a duration in the syntax of Go, in whole numbers: `24h`, `1h30m`, `90s`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "h" => 3600,
            "m" => 60,
            "s" => 1,
            _ => return None,
        };
        total = total.checked_add(Duration::from_secs(number.checked_mul(seconds)?))?;
        rest = &rest[unit..];
    }
    Some(total)
}
