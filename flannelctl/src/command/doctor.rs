//! `flannelctl doctor`: reports problems of this node and how to fix them.

use clap::Args;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::path::PathBuf;

use crate::doctor::catalog::{CHECKS, Severity};
use crate::doctor::report::{Finding, Report};
use crate::doctor::{PLUGINS, Places, diagnose};
use crate::failure::{Kind, Outcome, fail};
use crate::node::cni::CONFIGS;
use crate::node::runtime::{Kind as RuntimeKind, Place, drop_ins};
use crate::output::{Cell, Form, Page, Style, Table};
use crate::session::Session;

/// Flags of `flannelctl doctor`.
#[derive(Args, Debug)]
pub(crate) struct DoctorArguments {
    /// Run only this check; repeatable
    #[arg(long, value_name = "ID")]
    check: Vec<String>,
    /// List all checks without running them
    #[arg(long)]
    list: bool,
    /// Directory of CNI configs
    #[arg(long, default_value = CONFIGS, value_name = "PATH")]
    cni_conf_dir: PathBuf,
    /// Directory of CNI plugins; repeatable
    #[arg(long, default_values = PLUGINS, value_name = "PATH")]
    cni_bin_dir: Vec<PathBuf>,
    /// Configuration file of containerd [default: /etc/containerd/config.toml]
    #[arg(long, value_name = "FILE")]
    containerd_config: Option<PathBuf>,
    /// Socket of containerd [default: the one in its configuration file, or /run/containerd/containerd.sock]
    #[arg(long, value_name = "PATH")]
    containerd_socket: Option<PathBuf>,
    /// Configuration file of CRI-O; those in FILE.d are read, too [default: /etc/crio/crio.conf]
    #[arg(long, value_name = "FILE")]
    crio_config: Option<PathBuf>,
    /// Socket of CRI-O [default: the one in its configuration file, or /var/run/crio/crio.sock]
    #[arg(long, value_name = "PATH")]
    crio_socket: Option<PathBuf>,
    /// Flags of flanneld, if it is not running
    #[arg(last = true, value_name = "FLANNELD FLAGS")]
    flanneld: Vec<OsString>,
}

pub(crate) async fn run(session: &Session, arguments: DoctorArguments) -> anyhow::Result<Outcome> {
    if arguments.list {
        session.output.page(&list())?;
        return Ok(Outcome::Fine);
    }
    if let Some(unknown) = arguments.check.iter().find(|id| !CHECKS.iter().any(|check| check.id == **id)) {
        let message = format!("unknown check {unknown}");
        return fail(Kind::Usage, message, "Run `flannelctl doctor --list` to see all checks.");
    }
    let places = Places {
        cni_configs: arguments.cni_conf_dir,
        cni_plugins: arguments.cni_bin_dir,
        runtimes: vec![
            place(RuntimeKind::Containerd, arguments.containerd_config, arguments.containerd_socket)?,
            place(RuntimeKind::Crio, arguments.crio_config, arguments.crio_socket)?,
        ],
    };
    let mut report = diagnose(session, &places, &arguments.flanneld).await?;
    report.only(&arguments.check);
    let checked = if arguments.check.is_empty() { CHECKS.len() } else { arguments.check.len() };
    session.output.page(&page(&report, checked, session.output.form))?;
    Ok(if report.findings.is_empty() { Outcome::Fine } else { Outcome::Findings })
}

/// The place of a runtime according to flags. A file that is specified must exist; a socket may be in the form of crictl,
/// `unix:///PATH`.
fn place(kind: RuntimeKind, file: Option<PathBuf>, socket: Option<PathBuf>) -> anyhow::Result<Place> {
    let socket = socket.map(|socket| match socket.to_str().and_then(|text| text.strip_prefix("unix://")) {
        Some(path) => path.into(),
        None => socket,
    });
    let Some(file) = file else { return Ok(Place { socket, ..Place::of(kind) }) };
    let has_drop_ins = kind == RuntimeKind::Crio && drop_ins(&file).is_dir();
    let problem = match File::open(&file) {
        Ok(opened) if opened.metadata().is_ok_and(|metadata| metadata.is_dir()) => {
            "it is a directory".to_owned()
        }
        Ok(_) => String::new(),
        Err(error) if error.kind() == ErrorKind::NotFound && has_drop_ins => String::new(),
        Err(error) => error.to_string(),
    };
    if problem.is_empty() {
        return Ok(Place { kind, file, socket });
    }
    let message =
        format!("could not read {}, the configuration of {}: {problem}", file.display(), kind.name());
    let fix = format!("Specify the file, or omit the flag to use {}.", kind.file());
    fail(Kind::Usage, message, fix)
}

fn page(report: &Report, checked: usize, form: Form) -> Page {
    let value = serde_json::to_value(report).unwrap_or_else(|error| json!({"error": error.to_string()}));
    let page = match form {
        Form::Wide => {
            let mut table = Table::new(&["SEVERITY", "CHECK", "SUBJECT", "PROBLEM", "FIX"], &[]);
            for finding in &report.findings {
                let Finding { id, severity, subject, problem, fix, .. } = finding;
                let mut row = vec![Cell::from(severity.name()).styled(style(*severity))];
                row.extend([id, subject.as_str(), problem, fix].map(Cell::from));
                table.push(row);
            }
            Page::table(value, table)
        }
        _ => Page::lines(value, report.paragraphs(checked)),
    };
    page.named(report.findings.iter().map(|finding| finding.id))
}

const fn style(severity: Severity) -> Style {
    match severity {
        Severity::Error => Style::Bad,
        Severity::Warning => Style::Warning,
    }
}

fn list() -> Page {
    let mut table = Table::new(&["CHECK", "SEVERITY", "PROBLEM"], &["FIX"]);
    for check in CHECKS {
        table.push(vec![
            Cell::from(check.id),
            Cell::from(check.severity.name()).styled(style(check.severity)),
            Cell::from(check.problem),
            Cell::from(check.fix),
        ]);
    }
    let value = serde_json::to_value(CHECKS).unwrap_or(Value::Null);
    Page::table(value, table).named(CHECKS.iter().map(|check| check.id))
}
