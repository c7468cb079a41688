//! A firewall in memory.

use async_trait::async_trait;
use flannel_core::ruleset::{Mode, Ruleset};
use nix::errno::Errno;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::firewall::{Firewall, FirewallError, NetfilterError};

/// Both modes of one host: what one firewall of it does the other sees.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeHost(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) nftables: Ruleset,
    pub(crate) iptables: Ruleset,
    /// Counts every change, and is told to those who ask if `notifies`.
    pub(crate) generation: u32,
    pub(crate) notifies: bool,
    /// So many calls fail from now on.
    pub(crate) fail_reads: u32,
    pub(crate) fail_writes: u32,
    /// Rules that are set do not last.
    pub(crate) forgets: bool,
    pub(crate) reads: u32,
    pub(crate) writes: u32,
    /// There was a moment without any rules after the first were set.
    pub(crate) interrupted: bool,
}

impl State {
    /// Somebody else changes our rules.
    pub(crate) fn damage(&mut self, mode: Mode, rules: Ruleset) {
        *self.rules(mode) = rules;
        self.generation += 1;
    }

    pub(crate) fn rules(&mut self, mode: Mode) -> &mut Ruleset {
        match mode {
            Mode::Nftables => &mut self.nftables,
            Mode::Iptables => &mut self.iptables,
        }
    }
}

impl FakeHost {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Reads and writes up to now.
    pub(crate) fn calls(&self) -> (u32, u32) {
        let state = self.state();
        (state.reads, state.writes)
    }

    pub(crate) fn firewall(&self, mode: Mode) -> FakeFirewall {
        FakeFirewall { host: self.clone(), mode }
    }
}

pub(crate) struct FakeFirewall {
    host: FakeHost,
    mode: Mode,
}

fn refused(request: &str) -> FirewallError {
    let (request, text) = (request.to_owned(), String::new());
    NetfilterError::Refused { request, command: None, errno: Errno::EPERM, text }.into()
}

#[async_trait]
impl Firewall for FakeFirewall {
    async fn verify(&mut self, desired: &Ruleset) -> Result<bool, FirewallError> {
        let mut state = self.host.state();
        state.reads += 1;
        if let Some(left) = state.fail_reads.checked_sub(1) {
            state.fail_reads = left;
            return Err(refused("read"));
        }
        Ok(state.rules(self.mode) == desired)
    }

    async fn replace(&mut self, desired: &Ruleset) -> Result<(), FirewallError> {
        let mut state = self.host.state();
        state.writes += 1;
        if let Some(left) = state.fail_writes.checked_sub(1) {
            state.fail_writes = left;
            return Err(refused("write"));
        }
        if !state.forgets {
            let empty = Ruleset::default();
            let had_rules = state.nftables != empty || state.iptables != empty;
            *state.rules(self.mode) = desired.clone();
            state.interrupted |= had_rules && state.nftables == empty && state.iptables == empty;
        }
        state.generation += 1;
        Ok(())
    }

    async fn generation(&mut self) -> Option<u32> {
        let state = self.host.state();
        state.notifies.then_some(state.generation)
    }
}
