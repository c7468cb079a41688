//! `flannelctl doctor`: what is wrong with this node, and what mends it.

use clap::Args;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::PathBuf;

use crate::doctor::catalog::{CHECKS, Severity};
use crate::doctor::report::Report;
use crate::doctor::{PLUGINS, Places, diagnose};
use crate::failure::{Failure, Kind, Outcome};
use crate::node::cni::CONFIGS;
use crate::output::{Cell, Form, Page, Style, Table};
use crate::session::Session;

/// Flags of `flannelctl doctor`.
#[derive(Args, Debug)]
pub(crate) struct DoctorArguments {
    /// Only this check; may be repeated
    #[arg(long, value_name = "ID")]
    check: Vec<String>,
    /// Show all checks, and make none
    #[arg(long)]
    list: bool,
    /// Where the container runtime has its CNI configs
    #[arg(long, default_value = CONFIGS, value_name = "PATH")]
    cni_conf_dir: PathBuf,
    /// Where it has its CNI plugins; may be repeated
    #[arg(long, default_values = PLUGINS, value_name = "PATH")]
    cni_bin_dir: Vec<PathBuf>,
    /// Flags that flanneld will be started with, where it does not run
    #[arg(last = true, value_name = "FLANNELD FLAGS")]
    flanneld: Vec<OsString>,
}

pub(crate) async fn run(session: &Session, arguments: DoctorArguments) -> anyhow::Result<Outcome> {
    if arguments.list {
        session.output.page(&list())?;
        return Ok(Outcome::Fine);
    }
    if let Some(unknown) = arguments.check.iter().find(|id| !CHECKS.iter().any(|check| check.id == **id)) {
        let message = format!("there is no check {unknown}");
        return Err(Failure::new(Kind::Usage, message, "flannelctl doctor --list shows all").into());
    }
    let places = Places { cni_configs: arguments.cni_conf_dir, cni_plugins: arguments.cni_bin_dir };
    let mut report = diagnose(session, &places, &arguments.flanneld).await?;
    report.only(&arguments.check);
    let checked = if arguments.check.is_empty() { CHECKS.len() } else { arguments.check.len() };
    session.output.page(&page(&report, checked, session.output.form()))?;
    Ok(if report.has_findings() { Outcome::Findings } else { Outcome::Fine })
}

fn page(report: &Report, checked: usize, form: Form) -> Page {
    let value = serde_json::to_value(report).unwrap_or_else(|error| json!({"error": error.to_string()}));
    let names = report.findings.iter().map(|finding| finding.id.to_owned()).collect();
    let page = match form {
        Form::Wide => {
            let mut table = Table::new(&["SEVERITY", "CHECK", "SUBJECT", "PROBLEM", "MEND"], &[]);
            for finding in &report.findings {
                table.push(vec![
                    Cell::from(finding.severity.to_string()).styled(style(finding.severity)),
                    Cell::from(finding.id),
                    Cell::from(finding.subject.as_str()),
                    Cell::from(finding.problem.as_str()),
                    Cell::from(finding.mend.as_str()),
                ]);
            }
            Page::table(value, table)
        }
        _ => Page::lines(value, report.paragraphs(checked)),
    };
    page.named(names)
}

const fn style(severity: Severity) -> Style {
    match severity {
        Severity::Error => Style::Bad,
        Severity::Warning => Style::Warning,
        Severity::Info => Style::Plain,
    }
}

fn list() -> Page {
    let mut table = Table::new(&["CHECK", "SEVERITY", "MEANING"], &["MEND"]);
    for check in CHECKS {
        table.push(vec![
            Cell::from(check.id),
            Cell::from(check.severity.to_string()).styled(style(check.severity)),
            Cell::from(check.meaning),
            Cell::from(check.mend),
        ]);
    }
    let value = serde_json::to_value(CHECKS).unwrap_or(Value::Null);
    Page::table(value, table).named(CHECKS.iter().map(|check| check.id.to_owned()).collect())
}
