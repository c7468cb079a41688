//! The limits in the config.

use flannel_core::json::{GoStruct, Object, TypeError};
use flannel_core::message::traffic::TokenBucket;

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

/// Invalid limits.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("failed to parse network configuration")]
    Type(#[from] TypeError),
    #[error("{0}: if rate is set, burst must also be set")]
    NoBurst(&'static str),
    #[error("{0}: if burst is set, rate must also be set")]
    NoRate(&'static str),
    #[error("{0}: burst cannot be more than 4GB")]
    Burst(&'static str),
    #[error("{0}: rate and burst must be at least 8 bits, because the kernel counts bytes")]
    Tiny(&'static str),
}

impl Limit {
    /// Returns the limit in the kernel's form.
    pub(crate) fn bucket(&self) -> TokenBucket {
        TokenBucket::new(self.rate / 8, self.burst / 8, LATENCY_MICROS)
    }
}

impl Config {
    /// Reads the config itself, if it has any of the keys, else `runtimeConfig.bandwidth`.
    pub(crate) fn parse(config: &Object) -> Result<Self, ConfigError> {
        let mut numbers = Numbers::parse(config)?;
        if numbers.is_none() {
            let member = |object, name| GoStruct::new(object, "PluginConf").object(name, "object");
            let runtime = member(config, "runtimeConfig")?;
            let bandwidth = runtime.map(|runtime| member(runtime, "bandwidth")).transpose()?.flatten();
            numbers = bandwidth.map(Numbers::parse).transpose()?.flatten();
        }
        let numbers = numbers.unwrap_or_default();
        let [ingress_rate, ingress_burst, egress_rate, egress_burst] = numbers.0;
        Ok(Self {
            ingress: limit("ingress", ingress_rate, ingress_burst)?,
            egress: limit("egress", egress_rate, egress_burst)?,
        })
    }
}

fn limit(direction: &'static str, rate: u64, burst: u64) -> Result<Option<Limit>, ConfigError> {
    match (rate, burst) {
        (0, 0) => Ok(None),
        (_, 0) => Err(ConfigError::NoBurst(direction)),
        (0, _) => Err(ConfigError::NoRate(direction)),
        (_, burst) if burst / 8 > BURST_MAX => Err(ConfigError::Burst(direction)),
        (1..8, _) | (_, 1..8) => Err(ConfigError::Tiny(direction)),
        (rate, burst) => Ok(Some(Limit { rate, burst })),
    }
}

const NAMES: [&str; 4] = ["ingressRate", "ingressBurst", "egressRate", "egressBurst"];

/// The values of [`NAMES`].
#[derive(Clone, Copy, Debug, Default)]
struct Numbers([u64; 4]);

impl Numbers {
    /// `None` if all of them are absent.
    fn parse(object: &Object) -> Result<Option<Self>, TypeError> {
        let keys = GoStruct::new(object, "BandwidthEntry");
        let mut numbers = Self::default();
        let mut any = false;
        for (number, name) in numbers.0.iter_mut().zip(NAMES) {
            if let Some(found) = keys.integer(name, "uint64")? {
                *number = found;
                any = true;
            }
        }
        Ok(any.then_some(numbers))
    }
}

#[cfg(test)]
mod tests;
