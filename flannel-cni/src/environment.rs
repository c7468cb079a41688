//! The parameters of one operation: environment variables, checked in the order of Go's library, because users see
//! which error comes first.

use flannel_core::host_local::Attachment;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{CniError, Code};

/// A command of the CNI protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
    /// An error, but only after stdin has been read and checked.
    Unknown(String),
}

impl Command {
    const ALL: [(Self, &str); 6] = [
        (Self::Add, "ADD"),
        (Self::Del, "DEL"),
        (Self::Check, "CHECK"),
        (Self::Gc, "GC"),
        (Self::Status, "STATUS"),
        (Self::Version, "VERSION"),
    ];

    fn parse(text: &str) -> Self {
        let known = Self::ALL.into_iter().find(|(_, name)| *name == text);
        known.map_or_else(|| Self::Unknown(text.to_owned()), |(command, _)| command)
    }

    pub(crate) fn as_str(&self) -> &str {
        if let Self::Unknown(text) = self {
            return text;
        }
        Self::ALL.iter().find(|(command, _)| command == self).map_or("", |(_, name)| name)
    }
}

/// The checked environment. Variables that a command does not require may be empty or invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Environment {
    pub(crate) command: Command,
    pub(crate) attachment: Attachment,
    pub(crate) netns: PathBuf,
    pub(crate) args: String,
    pub(crate) path: OsString,
    /// The operation may run in the namespace of the plugin itself.
    pub(crate) netns_override: bool,
}

/// The reason not to run an operation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Called without a command, probably by a person: print the name and versions.
    About,
    Error(CniError),
}

impl Environment {
    /// Reads and checks the variables.
    pub(crate) fn read(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, Refusal> {
        let value = |name| lookup(name).unwrap_or_default();
        let text = |name| value(name).to_string_lossy().into_owned();
        let command = text("CNI_COMMAND");
        if command.is_empty() {
            return Err(Refusal::About);
        }
        let command = Command::parse(&command);
        let attachment = matches!(command, Command::Add | Command::Check | Command::Del);
        let netns_needed = matches!(command, Command::Add | Command::Check);
        let path_needed = attachment || matches!(command, Command::Gc | Command::Status);

        let environment = Self {
            command,
            attachment: Attachment { container_id: text("CNI_CONTAINERID"), ifname: text("CNI_IFNAME") },
            netns: value("CNI_NETNS").into(),
            args: text("CNI_ARGS"),
            path: value("CNI_PATH"),
            netns_override: matches!(text("CNI_NETNS_OVERRIDE").to_lowercase().as_str(), "1" | "true"),
        };
        let Attachment { container_id, ifname } = &environment.attachment;
        if attachment && !container_id.is_empty() {
            check_container_id(container_id).map_err(Refusal::Error)?;
        }
        if attachment && !ifname.is_empty() {
            check_ifname(ifname).map_err(Refusal::Error)?;
        }
        let required = [
            ("CNI_CONTAINERID", attachment && container_id.is_empty()),
            ("CNI_NETNS", netns_needed && environment.netns.as_os_str().is_empty()),
            ("CNI_IFNAME", attachment && ifname.is_empty()),
            ("CNI_PATH", path_needed && environment.path.is_empty()),
        ];
        let missing: Vec<_> =
            required.into_iter().filter_map(|(name, lacks)| lacks.then_some(name)).collect();
        if missing.is_empty() {
            Ok(environment)
        } else {
            let msg = format!("required env variables [{}] missing", missing.join(","));
            Err(Refusal::Error(CniError::new(Code::InvalidEnvironment, msg)))
        }
    }

    /// `CNI_ARGS` of a command that concerns a container.
    pub(crate) fn args(&self) -> &str {
        if matches!(self.command, Command::Gc | Command::Status) { "" } else { &self.args }
    }
}

/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`, the form of container ids and network names.
pub(crate) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn check_container_id(id: &str) -> Result<(), CniError> {
    if is_identifier(id) {
        return Ok(());
    }
    Err(CniError::new(Code::InvalidEnvironment, "invalid characters in containerID").with_details(id))
}

fn check_ifname(name: &str) -> Result<(), CniError> {
    let error = |msg: &str| Err(CniError::new(Code::InvalidEnvironment, msg));
    if name.len() > 15 {
        return Err(CniError::new(Code::InvalidEnvironment, "interface name is too long")
            .with_details("interface name should be less than 16 characters"));
    }
    if name == "." || name == ".." {
        return error("interface name is . or ..");
    }
    if name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace()) {
        return error("interface name contains / or : or whitespace characters");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
