//! Sends, waits and counts.

use flannel_core::backend::Via;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;
use tokio::task::JoinSet;

use super::report::{Path, Report, RoundTrip};
use super::target::{Plan, Target};
use crate::node::icmp::{Answer, Echo, EchoError};
use crate::output::Output;

/// How it is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measurement {
    pub(super) count: u32,
    pub(super) limit: Duration,
    /// Look for the largest packet.
    pub(super) size: bool,
    pub(super) parallel: usize,
}

/// Between two requests to one node: a burst would measure queues.
const PAUSE: Duration = Duration::from_millis(10);
/// Of each size so many packets are sent before it counts as too large.
const TRIES: u32 = 3;

impl Measurement {
    /// Measures all paths of a plan, some at a time.
    pub(super) async fn run(self, plan: Plan, output: Output) -> anyhow::Result<Report> {
        let total = plan.targets.len();
        let from = plan.own.key.clone();
        let mut waiting: VecDeque<(u16, Target)> = (0_u16..).zip(plan.targets).collect();
        let (mut running, mut paths) = (JoinSet::new(), Vec::new());
        loop {
            while running.len() < self.parallel
                && let Some((number, target)) = waiting.pop_front()
            {
                let from = from.clone();
                running.spawn(async move { self.path(from, target, number).await });
            }
            output.progress(&format!("{} of {total} paths", paths.len()));
            match running.join_next().await {
                Some(path) => paths.push(path??),
                None => break,
            }
        }
        output.progress("");
        let mut report = Report { nodes: plan.nodes, paths, ..Report::default() };
        report.sort();
        Ok(report)
    }

    async fn path(self, from: String, target: Target, number: u16) -> Result<Path, EchoError> {
        let path = self.to(&from, &target, target.address, target.via, number).await?;
        match target.otherwise {
            Some(other) if path.received == 0 => {
                let underlay = self.to(&from, &target, other, Via::Underlay, number).await?;
                // Nothing at all: what was meant is what is reported.
                Ok(if underlay.received == 0 { path } else { underlay })
            }
            _ => Ok(path),
        }
    }

    async fn to(
        self,
        from: &str,
        target: &Target,
        address: IpAddr,
        via: Via,
        number: u16,
    ) -> Result<Path, EchoError> {
        let mut path = Path {
            from: from.to_owned(),
            to: target.to.clone(),
            family: target.family.into(),
            target: address,
            via,
            sent: self.count,
            received: 0,
            round_trip_ms: None,
            largest_packet: None,
            expected_packet: target.expected,
            problem: None,
        };
        let own = u16::try_from(std::process::id() & 0xffff).unwrap_or(0);
        let mut echo = match Echo::open(address, own.wrapping_add(number)) {
            Ok(echo) => echo,
            Err(error @ EchoError::NotPermitted) => return Err(error),
            Err(EchoError::Socket { source, .. }) => {
                path.problem = Some(source.to_string());
                return Ok(path);
            }
        };
        let mut times = Vec::new();
        for number in 0..self.count {
            if number > 0 {
                tokio::time::sleep(PAUSE).await;
            }
            match echo.exchange(SMALL, self.limit).await {
                Ok(Answer::After(time)) => times.push(time),
                Ok(Answer::Lost(why)) => path.problem = why.or(path.problem),
                Ok(Answer::TooLarge) => {
                    path.problem = Some("the path carries no packet of 84 bytes".to_owned())
                }
                Err(error) => path.problem = Some(error.to_string()),
            }
        }
        path.received = u32::try_from(times.len()).unwrap_or(u32::MAX);
        path.round_trip_ms = RoundTrip::of(times);
        if self.size && path.received > 0 {
            path.largest_packet = echo.largest(target.expected, TRIES, self.limit).await.unwrap_or_default();
        }
        Ok(path)
    }
}

/// What `ping` sends: 56 bytes behind the headers of IPv4.
const SMALL: u32 = 84;
