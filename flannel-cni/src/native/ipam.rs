//! Address management of an interface: host-local in this process, any other plugin as a process from `CNI_PATH`.

use flannel_core::family::Family;
use flannel_core::json::{Object, Value};
use std::path::Path;

use super::host_local;
use crate::environment::Command;
use crate::error::{CniError, Context};
use crate::invoke::{self, CallError};
use crate::request::Request;
use crate::result::CniResult;

const HOST_LOCAL: &str = "host-local";

/// Returns the plugin that a config requests; empty if the interface has no addresses.
pub(crate) fn plugin_of(config: &Object) -> &str {
    config.object("ipam").map_or("", |ipam| ipam.text("type"))
}

/// The address management for an ADD.
pub(crate) enum Ipam {
    HostLocal(host_local::Config),
    Program,
}

impl Ipam {
    /// Finds the plugin of a config, if it requests one, so that nothing is created without it.
    pub(crate) fn find(request: &Request) -> Result<Option<Self>, CniError> {
        match plugin_of(&request.config) {
            "" => Ok(None),
            HOST_LOCAL => Ok(Some(Self::HostLocal(host_local::Config::parse(request)?))),
            plugin => {
                refuse_recursion(plugin)?;
                invoke::find(plugin, &request.environment.path).map_err(missing)?;
                Ok(Some(Self::Program))
            }
        }
    }

    /// Allocates addresses.
    pub(crate) fn add(&self, request: &Request) -> Result<CniResult, CniError> {
        let result = match self {
            Self::HostLocal(config) => host_local::add(config, &request.environment)?,
            Self::Program => {
                let output = run(request, Command::Add)?;
                CniResult::parse(&output, request.version.as_str())
                    .context(|| format!("invalid result of {}", plugin_of(&request.config)))?
            }
        };
        if result.ips.is_empty() {
            return Err(CniError::internal("IPAM plugin returned missing IP config"));
        }
        Ok(result)
    }

    /// Returns the families of the addresses, if they are known in advance.
    pub(crate) fn families(&self) -> Vec<Family> {
        match self {
            Self::HostLocal(config) => config.families(),
            Self::Program => Vec::new(),
        }
    }

    /// Returns the directory of the addresses in use, if there is one.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match self {
            Self::HostLocal(config) => Some(&config.directory),
            Self::Program => None,
        }
    }
}

/// Does the work of a command that returns nothing.
pub(crate) fn call(request: &Request, command: Command) -> Result<(), CniError> {
    if plugin_of(&request.config) != HOST_LOCAL {
        return run(request, command).map(drop);
    }
    let mut request = request.clone();
    request.environment.command = command;
    host_local::PLUGIN.call(&request)
}

/// Refuses plugins that would be started again, without end, by the program that they start.
fn refuse_recursion(plugin: &str) -> Result<(), CniError> {
    if !matches!(plugin, "bridge" | "flannel") {
        return Ok(());
    }
    Err(CniError::internal(format!(
        "ipam.type is {plugin:?}, which does not allocate addresses: set it to {HOST_LOCAL:?}, for example"
    )))
}

/// Runs the plugin with the complete config.
fn run(request: &Request, command: Command) -> Result<Vec<u8>, CniError> {
    refuse_recursion(plugin_of(&request.config))?;
    let mut environment = request.environment.clone();
    environment.command = command;
    let config = Value::Object(request.config.clone()).to_compact();
    invoke::run(plugin_of(&request.config), config.as_bytes(), &environment).map_err(|error| match error {
        CallError::Find(error) => missing(error),
        CallError::Failed(error) => error,
    })
}

fn missing(error: String) -> CniError {
    let advice = "install the plugin in a directory of CNI_PATH, or set ipam.type to host-local";
    CniError::internal(error).with_details(advice)
}
