//! The process contract of CNI: which checks come in which order, and what is printed.
//!
//! Compatibility: the order is that of Go's `pkg/skel`, but the guard against our own namespace stands before the
//! work, not behind it.

use flannel_core::json::Object;
use std::ffi::OsString;
use std::io::Read;

use crate::environment::{Command, Environment, Refusal};
use crate::error::{CniError, Code, errno_text};
use crate::version::{self, Version};
use crate::{flannel, native, netconf, netns};

/// Does one command; answers with what goes to stdout.
pub(crate) type Handler = fn(&Request) -> Result<String, CniError>;

/// A plugin: its name and what it does.
pub(crate) struct Plugin {
    pub(crate) name: &'static str,
    pub(crate) add: Handler,
    pub(crate) del: Handler,
    pub(crate) check: Handler,
    pub(crate) gc: Handler,
    pub(crate) status: Handler,
}

/// A checked operation.
pub(crate) struct Request {
    pub(crate) environment: Environment,
    /// The object on stdin.
    pub(crate) config: Object,
}

/// What the process prints and returns.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) success: bool,
}

impl Plugin {
    /// The plugin of a program's name. Every name that is not one of a delegate's is flannel's: installers append versions.
    pub(crate) fn named(program: &str) -> &'static Self {
        match program {
            "bandwidth" => &native::bandwidth::PLUGIN,
            "bridge" => &native::bridge::PLUGIN,
            "loopback" => &native::loopback::PLUGIN,
            "host-local" => &native::host_local::PLUGIN,
            "portmap" => &native::portmap::PLUGIN,
            _ => &flannel::PLUGIN,
        }
    }

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
        let versions: Vec<_> = Version::ALL.iter().map(|version| version.as_str()).collect();
        format!(
            "CNI plugin {} {}\nCNI protocol versions supported: {}\n",
            self.name,
            env!("CARGO_PKG_VERSION"),
            versions.join(", ")
        )
    }

    fn serve(&self, environment: Environment, mut stdin: impl Read) -> Result<String, CniError> {
        if environment.command == Command::Version {
            return Ok(version::answer());
        }
        let mut text = Vec::with_capacity(1 << 13);
        stdin.read_to_end(&mut text).map_err(|error| {
            CniError::new(Code::IoFailure, format!("error reading from stdin: {}", errno_text(&error)))
        })?;
        let config = netconf::parse_stdin(&text)?;
        let request = Request { environment, config };
        let handler = match &request.environment.command {
            Command::Add => self.add,
            Command::Del => self.del,
            Command::Check => {
                version::require(&request.config, "CHECK", Version::V0_4_0)?;
                self.check
            }
            Command::Gc => {
                version::require(&request.config, "GC", Version::V1_1_0)?;
                self.gc
            }
            Command::Status => {
                version::require(&request.config, "STATUS", Version::V1_1_0)?;
                self.status
            }
            // Answered above.
            Command::Version => return Ok(version::answer()),
            Command::Unknown(command) => {
                let msg = format!("unknown CNI_COMMAND: {command}");
                return Err(CniError::new(Code::InvalidEnvironment, msg));
            }
        };
        version::of_config(&request.config)?;
        if matches!(request.environment.command, Command::Add | Command::Del) {
            netns::guard(&request.environment)?;
        }
        handler(&request)
    }
}

impl Outcome {
    fn failure(error: &CniError) -> Self {
        Self { stdout: error.to_json(), stderr: String::new(), success: false }
    }
}
