//! iptables mode: our chains in the tables of iptables, read by `iptables-save` and written by `iptables-restore`,
//! one process each and family.

use flannel_core::family::Family;
use flannel_core::ruleset::iptables::{self, Observed, Variant, Version};
use flannel_core::ruleset::{FamilyRuleset, Ruleset};
use std::path::PathBuf;
use std::time::Duration;
use tracing::{debug, warn};

use super::{Firewall, FirewallError, Nft};
use crate::exec::{ExecError, Program};

/// `--wait` of iptables waits for its lock without end, and on a large cluster the lock is held for seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// Names of the programs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Between `ip`, `ip6` and the ends: `tables`, or `tables-legacy` and `tables-nft` to insist on a variant.
    pub stem: &'static str,
    /// Where the legacy variant takes its lock, if not in its usual place (`XTABLES_LOCKFILE`).
    pub lock_file: Option<PathBuf>,
}

impl Default for Tools {
    /// The variant that the host has chosen.
    fn default() -> Self {
        Self { stem: "tables", lock_file: None }
    }
}

impl Tools {
    fn name(&self, family: Family, end: &str) -> String {
        let start = match family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        format!("{start}{}{end}", self.stem)
    }

    fn program(&self, family: Family, end: &str) -> Program {
        let program = Program::new(&self.name(family, end), LIMIT);
        match &self.lock_file {
            Some(path) => program.variable("XTABLES_LOCKFILE", path),
            None => program,
        }
    }
}

/// Our chains in `nat` and `filter`.
#[derive(Debug)]
pub struct Iptables {
    tools: Tools,
    v4: Seen,
    v6: Seen,
    /// For the generation: the nftables variant works on nf_tables.
    nft: Nft,
}

/// What is known of the programs of one family. An error of a program forgets it: they may have been exchanged.
#[derive(Debug, Default)]
struct Seen {
    programs: Option<Programs>,
    /// It has been said that an unwanted family cannot be read.
    warned: bool,
}

#[derive(Clone, Copy, Debug)]
enum Programs {
    Missing,
    /// They tell no version: taken as old.
    Unknown,
    Known(Version),
}

impl Programs {
    fn is(self, capable: impl FnOnce(&Version) -> bool) -> bool {
        matches!(self, Self::Known(version) if capable(&version))
    }
}

impl Iptables {
    /// Rules by these programs. None is started yet.
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        Self { tools, v4: Seen::default(), v6: Seen::default(), nft: Nft::default() }
    }

    const fn seen(&mut self, family: Family) -> &mut Seen {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// What `iptables-restore` must read to put `family` right; `None` if it is right.
    async fn payload(&mut self, family: Family, desired: &Ruleset) -> Result<Option<String>, FirewallError> {
        match self.payload_or_error(family, desired).await {
            Err(error) if desired.family(family).is_empty() => {
                self.unwanted_and_unreadable(family, &error);
                Ok(None)
            }
            Err(error) => {
                self.seen(family).programs = None;
                Err(error)
            }
            payload => payload,
        }
    }

    async fn payload_or_error(
        &mut self,
        family: Family,
        desired: &Ruleset,
    ) -> Result<Option<String>, FirewallError> {
        let rules = self.supported(family, desired).await?;
        let save = self.tools.program(family, "-save").run().await;
        let save = save.map_err(|source| tool_error(family, "read", source))?;
        Ok(iptables::payload(family, &rules, &Observed::parse(&save, family))?)
    }

    /// A family in which nothing is wanted must not keep the daemon from being ready: without its programs there is
    /// nothing to clean, and with IPv6 switched off in the kernel they fail.
    fn unwanted_and_unreadable(&mut self, family: Family, error: &FirewallError) {
        if matches!(error, FirewallError::ToolMissing { .. }) {
            debug!(%family, %error, "no iptables, so there are no rules of ours to remove");
        } else if !std::mem::replace(&mut self.seen(family).warned, true) {
            let source = std::error::Error::source(error).map(ToString::to_string);
            warn!(%family, %error, source, "could not look for firewall rules of an earlier run");
        }
    }

    /// The rules as far as the programs know their options.
    async fn supported(&mut self, family: Family, desired: &Ruleset) -> Result<FamilyRuleset, FirewallError> {
        let rules = desired.family(family);
        if rules.is_fully_random() && !self.programs(family).await?.is(Version::has_random_fully) {
            return Ok(desired.clone().without_fully_random(family).family(family).clone());
        }
        Ok(rules.clone())
    }

    /// What the programs are, asked for once.
    async fn programs(&mut self, family: Family) -> Result<Programs, FirewallError> {
        if let Some(programs) = self.seen(family).programs {
            return Ok(programs);
        }
        let programs = match self.tools.program(family, "").argument("--version").run().await {
            Ok(output) => match Version::parse(&output) {
                Some(version) => {
                    debug!(%family, %version, "using iptables");
                    Programs::Known(version)
                }
                None => {
                    warn!(%family, output = output.trim(), "iptables tells no version, taken as old");
                    Programs::Unknown
                }
            },
            Err(ExecError::NotFound { .. }) => Programs::Missing,
            Err(source) => return Err(tool_error(family, "ask for the version of what sets", source)),
        };
        self.seen(family).programs = Some(programs);
        Ok(programs)
    }

    async fn restore(&mut self, family: Family, payload: &str) -> Result<(), FirewallError> {
        let mut program = self.tools.program(family, "-restore").argument("--noflush");
        if self.programs(family).await?.is(Version::has_restore_wait) {
            program = program.argument("--wait");
        }
        let result = program.stdin(payload).run().await;
        if result.is_err() {
            self.seen(family).programs = None;
        }
        result.map(drop).map_err(|source| tool_error(family, "set", source))
    }
}

fn tool_error(family: Family, action: &'static str, source: ExecError) -> FirewallError {
    match source {
        ExecError::NotFound { program } => FirewallError::ToolMissing { program, family },
        source => FirewallError::Tool { action, family, source },
    }
}

/// The families one after the other: one writer at a time.
impl Firewall for Iptables {
    async fn verify(&mut self, desired: &Ruleset) -> Result<bool, FirewallError> {
        let mut right = true;
        for family in Family::ALL {
            right &= self.payload(family, desired).await?.is_none();
        }
        Ok(right)
    }

    async fn replace(&mut self, desired: &Ruleset) -> Result<(), FirewallError> {
        let mut result = Ok(());
        for family in Family::ALL {
            let done = match self.payload(family, desired).await {
                Ok(Some(payload)) => self.restore(family, &payload).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            // A family that fails does not keep the other from being put right.
            if result.is_ok() {
                result = done;
            }
        }
        result
    }

    async fn generation(&mut self) -> Option<u32> {
        for family in Family::ALL {
            match self.programs(family).await.ok()? {
                Programs::Known(Version { variant: Variant::Nftables, .. }) | Programs::Missing => {}
                Programs::Known(_) | Programs::Unknown => return None,
            }
        }
        self.nft.generation().await
    }
}
