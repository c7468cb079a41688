//! The limits in the config.

use flannel_core::json::{GoStruct, Object, TypeError};
use flannel_core::message::traffic::TokenBucket;

use crate::error::{CniError, Context};

/// The longest time that a packet is queued.
const LATENCY_MICROS: u64 = 25_000;
/// The largest burst in bytes that the kernel can represent.
const BURST_MAX: u64 = u32::MAX as u64 - 1;

/// The limits of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// On traffic to the container.
    pub(crate) ingress: Option<Limit>,
    /// On traffic from the container.
    pub(crate) egress: Option<Limit>,
}

/// A limit, in bits per second and bits; both are positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    rate: u64,
    burst: u64,
}

impl Limit {
    /// Returns the limit in the kernel's form.
    pub(crate) fn bucket(&self) -> TokenBucket {
        TokenBucket::new(self.rate / 8, self.burst / 8, LATENCY_MICROS)
    }
}

impl Config {
    /// Reads the config itself, if it has any of the keys, else `runtimeConfig.bandwidth`.
    pub(crate) fn parse(config: &Object) -> Result<Self, CniError> {
        let numbers = limits(config).context(|| "failed to parse network configuration".to_owned())?;
        let [ingress_rate, ingress_burst, egress_rate, egress_burst] = numbers;
        Ok(Self {
            ingress: limit(ingress_rate, ingress_burst).context(|| "ingress".to_owned())?,
            egress: limit(egress_rate, egress_burst).context(|| "egress".to_owned())?,
        })
    }
}

/// Returns the numbers of the config or, if it has none, of the runtime.
fn limits(config: &Object) -> Result<[u64; 4], TypeError> {
    let mut found = numbers(config)?;
    if found.is_none() {
        let member = |object, name| GoStruct::new(object, "PluginConf").object(name, "object");
        let runtime = member(config, "runtimeConfig")?;
        let bandwidth = runtime.map(|runtime| member(runtime, "bandwidth")).transpose()?.flatten();
        found = bandwidth.map(numbers).transpose()?.flatten();
    }
    Ok(found.unwrap_or_default())
}

fn limit(rate: u64, burst: u64) -> Result<Option<Limit>, CniError> {
    let problem = match (rate, burst) {
        (0, 0) => return Ok(None),
        (_, 0) => "if rate is set, burst must also be set",
        (0, _) => "if burst is set, rate must also be set",
        (_, burst) if burst / 8 > BURST_MAX => "burst cannot be more than 4GB",
        (1..8, _) | (_, 1..8) => "rate and burst must be at least 8 bits, because the kernel counts bytes",
        (rate, burst) => return Ok(Some(Limit { rate, burst })),
    };
    Err(CniError::internal(problem))
}

/// Reads rates and bursts, ingress first; `None` if all of them are absent.
fn numbers(object: &Object) -> Result<Option<[u64; 4]>, TypeError> {
    let keys = GoStruct::new(object, "BandwidthEntry");
    let names = ["ingressRate", "ingressBurst", "egressRate", "egressBurst"];
    let mut numbers = [None; 4];
    for (number, name) in numbers.iter_mut().zip(names) {
        *number = keys.integer(name, "uint64")?;
    }
    Ok(numbers.iter().any(Option::is_some).then(|| numbers.map(Option::unwrap_or_default)))
}

#[cfg(test)]
mod tests;
