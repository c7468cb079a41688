//! Measures paths.

use flannel_core::backend::{Probe, Via};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use super::TestArguments;
use super::report::{Path, Report, RoundTrip};
use super::target::{Plan, Target};
use crate::node::icmp::{Answer, Echo, EchoError};
use crate::output::Output;

/// Pause between requests to one node; a burst would measure queues.
const PAUSE: Duration = Duration::from_millis(10);
/// Number of packets per size before it is considered too large.
const TRIES: u32 = 3;

impl TestArguments {
    /// Measures all paths of a plan, several at a time.
    pub(super) async fn run(&self, plan: Plan, output: Output) -> anyhow::Result<Report> {
        let total = plan.targets.len();
        let measured = stream::iter((0_u16..).zip(plan.targets))
            .map(|(number, target)| self.path(&plan.own, target, number))
            .buffer_unordered(self.parallel.into());
        let (mut measured, mut paths) = (pin!(measured), Vec::new());
        output.progress(&format!("0 of {total} paths"));
        while let Some(path) = measured.try_next().await? {
            paths.push(path);
            output.progress(&format!("{} of {total} paths", paths.len()));
        }
        output.progress("");
        let mut report = Report { nodes: plan.nodes, paths, ..Report::default() };
        report.sort();
        Ok(report)
    }

    async fn path(&self, from: &str, target: Target, number: u16) -> Result<Path, EchoError> {
        let Target { probe: Probe { address, via, fallback, .. }, .. } = target;
        let path = self.probe(from, &target, (address, via), number).await?;
        let Some(fallback) = fallback.filter(|_| path.received == 0) else { return Ok(path) };
        let underlay = self.probe(from, &target, (fallback, Via::Underlay), number).await?;
        // Without any reply, the first target is reported.
        Ok(if underlay.received == 0 { path } else { underlay })
    }

    async fn probe(
        &self,
        from: &str,
        target: &Target,
        (address, via): (IpAddr, Via),
        number: u16,
    ) -> Result<Path, EchoError> {
        let mut path = Path {
            from: from.to_owned(),
            to: target.to.clone(),
            family: target.family,
            target: address,
            via,
            sent: self.count,
            received: 0,
            round_trip_milliseconds: None,
            largest_packet_bytes: None,
            expected_packet_bytes: target.probe.mtu,
            problem: None,
        };
        let mut echo = match Echo::open(address, number) {
            Ok(echo) => echo,
            Err(error @ EchoError::NotPermitted) => return Err(error),
            Err(EchoError::Socket { source, .. }) => {
                path.problem = Some(source.to_string());
                return Ok(path);
            }
        };
        let (mut times, limit) = (Vec::new(), Duration::from_millis(self.timeout));
        for number in 0..self.count {
            if number > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            match echo.exchange(SMALL, limit).await {
                Answer::After(time) => times.push(time),
                Answer::Lost(why) => path.problem = why.or(path.problem),
                Answer::TooLarge => path.problem = Some("packets of 84 bytes do not pass".to_owned()),
            }
        }
        path.received = u32::try_from(times.len()).unwrap_or(u32::MAX);
        path.round_trip_milliseconds = RoundTrip::of(times);
        if !self.no_size && path.received > 0 {
            path.largest_packet_bytes = echo.largest(path.expected_packet_bytes, TRIES, limit).await;
        }
        Ok(path)
    }
}

/// Packet size of `ping`: 56 bytes after the IPv4 and ICMP headers.
const SMALL: u32 = 84;
