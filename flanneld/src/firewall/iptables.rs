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

/// What is known of the programs of one family.
#[derive(Debug, Default)]
struct Seen {
    version: Option<Version>,
    /// It has been said that an unwanted family cannot be read.
    warned: bool,
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
        let result = self.payload_or_error(family, desired).await;
        if result.is_err() {
            // The programs may be replaced by others: ask for their version again.
            self.seen(family).version = None;
        }
        match result {
            Err(error) if desired.family(family).is_empty() => {
                self.unwanted_and_unreadable(family, &error);
                Ok(None)
            }
            result => result,
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
        if rules.is_fully_random() && !self.version(family).await?.is_some_and(|v| v.has_random_fully()) {
            return Ok(desired.clone().without_fully_random(family).family(family).clone());
        }
        Ok(rules.clone())
    }

    /// The version, asked for once; `None` if what the program says is no version.
    async fn version(&mut self, family: Family) -> Result<Option<Version>, FirewallError> {
        if self.seen(family).version.is_none() {
            let output = self.tools.program(family, "").argument("--version").run().await;
            let output = output.map_err(|source| tool_error(family, "ask for the version of", source))?;
            let version = Version::parse(&output);
            match &version {
                Some(version) => debug!(%family, %version, "using iptables"),
                None => warn!(%family, output = output.trim(), "iptables tells no version, taken as old"),
            }
            self.seen(family).version = version;
        }
        Ok(self.seen(family).version)
    }

    async fn restore(&mut self, family: Family, payload: &str) -> Result<(), FirewallError> {
        let mut program = self.tools.program(family, "-restore").argument("--noflush");
        if self.version(family).await?.is_some_and(|version| version.has_restore_wait()) {
            program = program.argument("--wait");
        }
        let result = program.stdin(payload).run().await;
        if result.is_err() {
            self.seen(family).version = None;
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
            match self.version(family).await {
                Ok(Some(Version { variant: Variant::Nftables, .. }))
                | Err(FirewallError::ToolMissing { .. }) => {}
                Ok(_) | Err(_) => return None,
            }
        }
        self.nft.generation().await
    }
}
