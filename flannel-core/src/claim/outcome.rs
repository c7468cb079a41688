//! What the outcome of a write means for the claim.

use std::time::Duration;

use super::{Claim, Failure, Holding, Phase, Problem, RENEW, RENEW_PAUSE};
use crate::lease::LeaseAttrs;
use crate::store::Held;

impl Claim {
    /// A record was to be created with `attrs`.
    pub fn created(&mut self, attrs: LeaseAttrs, outcome: Result<Held, Failure>, now: Duration) {
        let Phase::Create(subnets, _) = self.state.phase else { return };
        match outcome {
            Ok(held) => {
                self.hold(Holding {
                    subnets,
                    attrs,
                    revision: held.revision,
                    grant: held.grant,
                    expires: held.remaining.map(|left| now + left),
                    created: Some(held.revision),
                    confirmed: true,
                });
                self.state.acquire.reset();
                self.state.phase = Phase::Held(now);
            }
            Err(failure) => {
                if matches!(failure, Failure::Unanswered(_)) {
                    // It may yet be created. Whoever tries the same key again cannot end up with two.
                    self.wish = Some(subnets);
                }
                self.read_again(failure, now);
            }
        }
    }

    /// Our record was to be changed to `attrs`.
    pub fn updated(&mut self, attrs: LeaseAttrs, outcome: Result<Held, Failure>, now: Duration) {
        match (outcome, &mut self.state.own) {
            (Ok(held), Some(own)) => {
                own.attrs = attrs;
                own.revision = held.revision;
                own.grant = held.grant;
                own.expires = held.remaining.map(|left| now + left).or(own.expires);
                self.state.doubtful.clear();
                self.state.problem = None;
                // Whoever damages a record again and again is not answered at once each time.
                if !std::mem::take(&mut self.damaged) {
                    self.state.acquire.reset();
                }
            }
            (Ok(_), None) => {}
            (Err(failure), _) => {
                if matches!(failure, Failure::Unanswered(_)) {
                    self.state.doubt(attrs);
                }
                self.read_again(failure, now);
            }
        }
    }

    /// Our record was to be prolonged.
    pub fn renewed(&mut self, outcome: Result<Held, Failure>, now: Duration) {
        match (outcome, &mut self.state.own) {
            (Ok(held), Some(own)) => {
                own.expires = held.remaining.map(|left| now + left);
                // A grant that a Go daemon made may be shorter than our margin; without a pause we would spin.
                let pause = held.remaining.unwrap_or(RENEW.cap) / 3;
                if matches!(self.state.problem, Some(Problem::StoreAway(_))) {
                    self.state.problem = None;
                }
                self.renew.reset();
                self.state.acquire.reset();
                self.state.phase = Phase::Held(now + pause.max(RENEW_PAUSE));
            }
            (Ok(_), None) => {}
            (Err(Failure::Raced), _) => self.read_again(Failure::Raced, now),
            (Err(Failure::Unanswered(reason)), own) => {
                let delay = self.renew.delay();
                // Several attempts also for a lease that is short, or nearly over.
                let left = own.as_ref().and_then(|own| own.expires).map(|end| end.saturating_sub(now));
                let delay = match left {
                    Some(left) if !left.is_zero() => delay.min(left / 4).max(RENEW_PAUSE),
                    _ => delay,
                };
                self.state.problem = Some(Problem::StoreAway(reason));
                self.state.phase = Phase::Held(now + delay);
            }
        }
    }

    /// A record was to be deleted.
    pub fn deleted(&mut self, outcome: Result<(), Failure>, now: Duration) {
        let Phase::Delete(subnets, _) = self.state.phase else { return };
        if let Err(failure) = outcome {
            return self.read_again(failure, now);
        }
        self.state.phase = Phase::Read(now);
        match self.state.own.take_if(|own| own.subnets == subnets) {
            Some(own) if own.confirmed => self.lose(subnets),
            // What the config still allows of it is kept: a node that gets IPv6 keeps its IPv4 subnet.
            _ => drop(self.wish.get_or_insert(subnets)),
        }
    }
}
