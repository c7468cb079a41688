//! The process contract of CNI: the order of the checks, and what is printed.
//!
//! Compatibility: the order is that of Go's `pkg/skel`, but the guard against the plugin's own namespace runs before the
//! work, not after it.

use flannel_core::json::Value;
use std::ffi::OsString;
use std::io::Read;

use crate::environment::{Command, Environment, Refusal};
use crate::error::{CniError, Code, errno_text};
use crate::netns;
use crate::request::{Request, parse_config};
use crate::version::{self, Version};

/// Does the work of one command that prints nothing.
pub(crate) type Handler = fn(&Request) -> Result<(), CniError>;

/// A plugin: its name and its commands.
pub(crate) struct Plugin {
    pub(crate) name: &'static str,
    /// The oldest version of the CNI protocol that it supports.
    pub(crate) oldest: Version,
    /// Returns the result to print.
    pub(crate) add: fn(&Request) -> Result<Value, CniError>,
    pub(crate) del: Handler,
    pub(crate) check: Handler,
    pub(crate) gc: Handler,
    pub(crate) status: Handler,
}

/// What the process prints and returns.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) success: bool,
}

impl Plugin {
    /// Runs one operation.
    pub(crate) fn run(&self, lookup: impl Fn(&str) -> Option<OsString>, stdin: impl Read) -> Outcome {
        match Environment::read(lookup) {
            Err(Refusal::About) => Outcome { stdout: String::new(), stderr: self.about(), success: true },
            Err(Refusal::Error(error)) => Outcome::failure(&error),
            Ok(environment) => {
                let deleting = environment.command == Command::Del;
                match self.serve(environment, stdin) {
                    Ok(stdout) => Outcome { stdout, stderr: String::new(), success: true },
                    Err(error) if deleting => Outcome::failure(&error.reworded_for_del()),
                    Err(error) => Outcome::failure(&error),
                }
            }
        }
    }

    fn about(&self) -> String {
        let versions: Vec<_> = Version::since(self.oldest).map(Version::as_str).collect();
        format!(
            "CNI plugin {} {}\nCNI protocol versions supported: {}\n",
            self.name,
            env!("CARGO_PKG_VERSION"),
            versions.join(", ")
        )
    }

    fn serve(&self, environment: Environment, mut stdin: impl Read) -> Result<String, CniError> {
        if environment.command == Command::Version {
            return Ok(version::answer(self.oldest));
        }
        let mut text = Vec::with_capacity(1 << 13);
        stdin.read_to_end(&mut text).map_err(|error| {
            CniError::new(Code::IoFailure, format!("error reading from stdin: {}", errno_text(&error)))
        })?;
        let config = parse_config(&text)?;
        let least = match &environment.command {
            Command::Check => Version::V0_4_0,
            Command::Gc | Command::Status => Version::V1_1_0,
            Command::Add | Command::Del | Command::Version => Version::V0_1_0,
            Command::Unknown(command) => {
                let msg = format!("unknown CNI_COMMAND: {command}");
                return Err(CniError::new(Code::InvalidEnvironment, msg));
            }
        };
        if least > Version::V0_1_0 {
            version::require(&config, environment.command.as_str(), least)?;
        }
        let version = version::of_config(&config, self.oldest)?;
        if matches!(environment.command, Command::Add | Command::Del) {
            netns::guard(&environment)?;
        }
        let request = Request { environment, network: config.text("name").to_owned(), version, config };
        if request.environment.command == Command::Add {
            return Ok((self.add)(&request)?.to_pretty());
        }
        self.call(&request).map(|()| String::new())
    }

    /// Does the work of a command that prints nothing.
    pub(crate) fn call(&self, request: &Request) -> Result<(), CniError> {
        let handler = match request.environment.command {
            Command::Del => self.del,
            Command::Check => self.check,
            Command::Gc => self.gc,
            _ => self.status,
        };
        handler(request)
    }
}

impl Outcome {
    fn failure(error: &CniError) -> Self {
        Self { stdout: error.to_json(), stderr: String::new(), success: false }
    }
}
