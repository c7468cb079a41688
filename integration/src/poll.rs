//! Polls an endpoint of a daemon all the time, so that no state in between is missed.

use anyhow::{Result, ensure};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::http;
use crate::netns::Netns;

const INTERVAL: Duration = Duration::from_millis(5);

/// Answers of `/readyz` until it is stopped.
pub struct Readiness {
    stop: Arc<AtomicBool>,
    poller: JoinHandle<Vec<(Duration, Result<http::Response>)>>,
}

impl Readiness {
    pub(crate) fn watch(netns: &Netns, address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stop_there, netns) = (Arc::clone(&stop), netns.clone());
        let poller = thread::spawn(move || {
            let (started, mut answers) = (Instant::now(), Vec::new());
            while !stop_there.load(Ordering::Relaxed) {
                answers.push((started.elapsed(), http::get(&netns, address, "/readyz")));
                thread::sleep(INTERVAL);
            }
            answers
        });
        Self { stop, poller }
    }

    /// Stops; fails unless every answer was 200.
    pub fn expect_always(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let answers = match self.poller.join() {
            Ok(answers) => answers,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        ensure!(answers.len() > 10, "only {} answers", answers.len());
        for (after, answer) in answers {
            let answer = answer?;
            ensure!(answer.status == 200, "{} after {after:?}: {}", answer.status, answer.body);
        }
        Ok(())
    }
}
