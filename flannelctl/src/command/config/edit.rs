//! `config edit`: opens the config in an editor until it is valid, as kubectl does.

use anyhow::{Context as _, ensure};
use flannel_core::config::NetworkConfig;
use flannel_core::error::chain;
use std::env;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use super::write;
use crate::failure::{Failure, Kind};
use crate::flags::DryRun;
use crate::node::cluster::Cluster;
use crate::session::Session;

/// Initial text for a store without a config.
const TEMPLATE: &str = r#"{
  "Network": "10.244.0.0/16",
  "EnableNFTables": true,
  "Backend": { "Type": "vxlan" }
}
"#;

pub(super) async fn run(session: &Session, dry_run: DryRun) -> anyhow::Result<()> {
    let (store, cluster) = Cluster::writable(session).await?;
    let before = cluster.config.as_ref().map_or(TEMPLATE, |config| config.text.as_str());
    // The config may contain keys; temporary files are readable by their owner only.
    let mut file = tempfile::Builder::new().prefix("flannel-config-").suffix(".json").tempfile()?;
    file.write_all(before.as_bytes())?;
    let mut last = before.to_owned();
    let mut fault = None;
    let (text, config) = loop {
        open(file.path())?;
        let text =
            without_comments(&fs::read_to_string(file.path()).context("could not read the edited file")?);
        if text == last && cluster.config.is_some() {
            let kept = if text == before { None } else { Some(file.keep()?.1) };
            return Err(cancelled(kept.as_deref(), fault).into());
        }
        match NetworkConfig::parse_for(&text, store.ownership()) {
            Ok(config) => break (text, config),
            Err(error) => {
                let why = chain(&error);
                let reason = format!("# Invalid: {why}\n# Fix it, or save it unchanged to cancel.\n");
                fs::write(file.path(), format!("{reason}{text}"))
                    .context("could not write the file with the error")?;
                if text == last {
                    return Err(cancelled(Some(&file.keep()?.1), Some(why)).into());
                }
                fault = Some(why);
                last = text;
            }
        }
    };
    let written = write(session, &store, &cluster, (&text, &config), dry_run).await;
    if written.is_err() {
        session.output.message(&format!("the edited config is in {}", file.keep()?.1.display()));
    }
    written
}

fn cancelled(kept: Option<&Path>, fault: Option<String>) -> Failure {
    let fix = match kept {
        Some(path) => format!("The edited config is in {}.", path.display()),
        None => "Change the text to write it.".to_owned(),
    };
    let reason = match fault {
        Some(why) => format!("invalid config: {why}"),
        None => "the text is unchanged".to_owned(),
    };
    Failure::new(Kind::Refused, format!("nothing was written: {reason}"), fix)
}

/// Removes the comments at the beginning that this command added.
fn without_comments(text: &str) -> String {
    text.split_inclusive('\n').skip_while(|line| line.starts_with('#')).collect()
}

/// The variables may contain arguments, so a shell evaluates them.
fn open(path: &Path) -> anyhow::Result<()> {
    let editor = ["VISUAL", "EDITOR"]
        .into_iter()
        .find_map(|name| env::var(name).ok().filter(|editor| !editor.trim().is_empty()))
        .unwrap_or_else(|| "vi".to_owned());
    let status = Command::new("sh").args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(path).status();
    let status = status.with_context(|| format!("could not start the editor {editor}"))?;
    ensure!(status.success(), "the editor {editor} failed ({status}), nothing was written");
    Ok(())
}
