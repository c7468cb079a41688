//! iptables mode: flannel's chains in the tables of iptables, read with `iptables-save` and written with `iptables-restore`, one
//! process each per family. To find stale rules no process is started; to remove them, only for the legacy variant.

use async_trait::async_trait;
use flannel_core::family::{DualStack, Family};
use flannel_core::message::nftables::{Message, Query};
use flannel_core::ruleset::iptables::{self, Observed, Variant, Version, leftover};
use flannel_core::ruleset::{FamilyRuleset, Ruleset};
use std::path::PathBuf;
use std::time::Duration;
use tracing::{debug, info, warn};

use super::netfilter::NetfilterError;
use super::{Firewall, FirewallError, Nft, legacy, variant};
use crate::exec::{self, ExecError, Program};

/// A limit is needed because `--wait` waits for the lock of iptables indefinitely. In large clusters the lock is held for seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// Names of the programs.
#[derive(Clone, Debug)]
pub struct Tools {
    /// The part after `ip` or `ip6`: `tables`, or `tables-legacy` or `tables-nft` to select a variant.
    pub stem: &'static str,
    /// The lock file of the legacy variant, if not the default (`XTABLES_LOCKFILE`).
    pub lock_file: Option<PathBuf>,
}

/// That of the default variant.
const DEFAULT: &str = "tables";
pub(super) const LEGACY: &str = "tables-legacy";
const NFTABLES: &str = "tables-nft";

impl Default for Tools {
    /// The default variant of the host.
    fn default() -> Self {
        Self { stem: DEFAULT, lock_file: None }
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

/// flannel's chains in the tables `nat` and `filter`.
pub struct Iptables {
    tools: Tools,
    /// The programs of each family. Reset after an error, because they may have been replaced.
    programs: DualStack<Programs>,
    /// Access to nf_tables, which the nftables variant uses.
    nft: Nft,
}

#[derive(Clone, Copy, Debug)]
enum Programs {
    Missing,
    /// The version is unknown; assumed to be old.
    Unknown,
    Known(Version),
}

impl Programs {
    fn is(self, capable: impl FnOnce(&Version) -> bool) -> bool {
        matches!(self, Self::Known(version) if capable(&version))
    }
}

impl Iptables {
    /// Returns a firewall that uses these programs, without starting any.
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        Self { tools, programs: DualStack::default(), nft: Nft::default() }
    }

    /// Returns the input of `iptables-restore` that repairs `family`, or `None` if it is in sync.
    async fn payload(&mut self, family: Family, desired: &Ruleset) -> Result<Option<String>, FirewallError> {
        let rules = self.supported(family, desired).await?;
        let observed = save(&self.tools, family).await?;
        Ok(iptables::payload(family, &rules, &observed)?)
    }

    async fn is_in_sync(&mut self, family: Family, desired: &Ruleset) -> Result<bool, FirewallError> {
        if desired.family(family).is_empty() {
            return Ok(!self.has_stale(family).await?);
        }
        self.select_variant().await?;
        Ok(self.payload(family, desired).await?.is_none())
    }

    async fn repair(&mut self, family: Family, desired: &Ruleset) -> Result<(), FirewallError> {
        if desired.family(family).is_empty() {
            return self.clear(family).await;
        }
        self.select_variant().await?;
        match self.payload(family, desired).await? {
            Some(payload) => {
                let waits = self.programs(family).await?.is(Version::has_random_fully_and_wait);
                restore(&self.tools, family, waits, &payload).await
            }
            None => Ok(()),
        }
    }

    /// Returns the rules without options that the programs do not support.
    async fn supported(&mut self, family: Family, desired: &Ruleset) -> Result<FamilyRuleset, FirewallError> {
        let rules = desired.family(family);
        if rules.is_fully_random() && !self.programs(family).await?.is(Version::has_random_fully_and_wait) {
            return Ok(desired.clone().without_fully_random(family).family(family).clone());
        }
        Ok(rules.clone())
    }

    /// Selects the variant that the host uses if both are installed and none is the default.
    async fn select_variant(&mut self) -> Result<(), FirewallError> {
        let is_installed = |stem| exec::is_installed(&format!("ip{stem}"));
        if self.tools.stem != DEFAULT
            || is_installed(DEFAULT)
            || ![LEGACY, NFTABLES].map(is_installed).contains(&true)
        {
            return Ok(());
        }
        self.tools.stem = match variant::of_host(&mut self.nft).await? {
            Variant::Legacy => LEGACY,
            Variant::Nftables => NFTABLES,
        };
        self.programs = DualStack::default();
        info!(variant = self.tools.stem, "iptables variant of this host selected");
        Ok(())
    }

    /// Returns the programs, which are queried once.
    async fn programs(&mut self, family: Family) -> Result<Programs, FirewallError> {
        if let Some(programs) = self.programs.get(family) {
            return Ok(*programs);
        }
        let programs = match self.tools.program(family, "").argument("--version").run().await {
            Ok(output) => match Version::parse(&output) {
                Some(version) => {
                    debug!(%family, %version, "using iptables");
                    Programs::Known(version)
                }
                None => {
                    warn!(%family, output = output.trim(), "could not determine the version of iptables, assuming an old one");
                    Programs::Unknown
                }
            },
            Err(ExecError::NotFound { .. }) => Programs::Missing,
            Err(source) => return Err(tool_error(family, "query the version of the program for", source)),
        };
        *self.programs.slot(family) = Some(programs);
        Ok(programs)
    }
}

/// Removal of stale rules.
impl Iptables {
    async fn has_stale(&mut self, family: Family) -> Result<bool, FirewallError> {
        Ok(!self.in_nftables(family).await?.is_empty() || in_legacy(family)?)
    }

    /// Returns flannel's chains in nf_tables.
    async fn in_nftables(
        &mut self,
        family: Family,
    ) -> Result<Vec<(&'static str, &'static str)>, NetfilterError> {
        let mut found = Vec::new();
        for chain in leftover::chains() {
            match self.nft.query(&leftover::query(family, chain)).await {
                Ok(answer) if !answer.is_empty() => found.push(chain),
                Err(error) if !error.means_no_nftables() => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(found)
    }

    async fn clear(&mut self, family: Family) -> Result<(), FirewallError> {
        let mut commands = Vec::new();
        for chain in self.in_nftables(family).await? {
            let rules = self.nft.query(&Query::Rules(family.into(), chain.0.to_owned())).await?;
            let rules = rules.into_iter().filter_map(|message| match message {
                Message::Rule(rule) => Some(rule),
                _ => None,
            });
            commands.extend(leftover::removal(family, chain, &rules.collect::<Vec<_>>()));
        }
        if !commands.is_empty() {
            self.nft.commit(&commands).await?;
        }
        if !in_legacy(family)? {
            return Ok(());
        }
        let tools = self.legacy_tools(family).await;
        let observed = save(&tools, family).await.map_err(|error| match error {
            FirewallError::ToolMissing { program, .. } => FirewallError::LegacyToolMissing { program },
            error => error,
        })?;
        match iptables::payload(family, Ruleset::default().family(family), &observed)? {
            Some(payload) => restore(&tools, family, true, &payload).await,
            None => Ok(()),
        }
    }

    /// Returns the programs that change legacy rules, whatever the default variant of the host.
    async fn legacy_tools(&mut self, family: Family) -> Tools {
        let stem = match self.programs(family).await {
            Ok(Programs::Known(Version { variant: Variant::Legacy, .. })) => self.tools.stem,
            _ => LEGACY,
        };
        Tools { stem, ..self.tools.clone() }
    }
}

/// Returns whether a legacy table contains one of flannel's chains.
fn in_legacy(family: Family) -> Result<bool, FirewallError> {
    for (table, chain) in leftover::chains() {
        let entries = legacy::entries(family, table);
        let entries = entries.map_err(|source| FirewallError::Legacy { family, table, source })?;
        if entries.is_some_and(|entries| leftover::declares(family, &entries, chain)) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn save(tools: &Tools, family: Family) -> Result<Observed, FirewallError> {
    Ok(Observed::parse(&save_text(tools, family).await?, family))
}

pub(super) async fn save_text(tools: &Tools, family: Family) -> Result<String, FirewallError> {
    let save = tools.program(family, "-save").run().await;
    save.map_err(|source| tool_error(family, "read", source))
}

pub(super) async fn restore(
    tools: &Tools,
    family: Family,
    waits: bool,
    payload: &str,
) -> Result<(), FirewallError> {
    let mut program = tools.program(family, "-restore").argument("--noflush");
    if waits {
        program = program.argument("--wait");
    }
    let result = program.stdin(payload).run().await;
    result.map(drop).map_err(|source| tool_error(family, "set", source))
}

fn tool_error(family: Family, action: &'static str, source: ExecError) -> FirewallError {
    match source {
        ExecError::NotFound { program } => FirewallError::ToolMissing { program, family },
        source => FirewallError::Tool { action, family, source },
    }
}

/// Handles the families in sequence, so that there is one writer at a time.
#[async_trait]
impl Firewall for Iptables {
    async fn verify(&mut self, desired: &Ruleset) -> Result<bool, FirewallError> {
        let mut in_sync = true;
        for family in Family::ALL {
            let result = self.is_in_sync(family, desired).await;
            in_sync &= result.inspect_err(|_| *self.programs.slot(family) = None)?;
        }
        Ok(in_sync)
    }

    async fn replace(&mut self, desired: &Ruleset) -> Result<(), FirewallError> {
        let mut result = Ok(());
        for family in Family::ALL {
            let done = self.repair(family, desired).await;
            let done = done.inspect_err(|_| *self.programs.slot(family) = None);
            // A failure in one family does not affect the other.
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
