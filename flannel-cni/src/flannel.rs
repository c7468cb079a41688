//! The flannel plugin: builds the config of a delegate from `subnet.env` and calls the delegate.

use flannel_core::json::{Object, Value};

use crate::delegate;
use crate::environment::{Command, Environment};
use crate::error::{CniError, Code, Context, note};
use crate::invoke::{self, CallError};
use crate::native::bridge;
use crate::netconf::{self, NetConf};
use crate::plugin::Plugin;
use crate::request::Request;
use crate::result::CniResult;
use crate::scratch::Scratch;
use crate::subnet_env::{SubnetEnv, SubnetEnvError};
use crate::version::{self, Version};

mod gc;

/// The flannel plugin.
pub(crate) const PLUGIN: Plugin =
    Plugin { name: "flannel", oldest: Version::V0_1_0, add, del, check, gc: gc::gc, status };

/// A delegate: its request, and its config as bytes, which are the saved ones.
struct Delegate {
    request: Request,
    text: Vec<u8>,
    /// The bridge plugin runs in this process where that is possible.
    native: bool,
}

impl Delegate {
    fn new(object: Object, environment: &Environment, conf: &NetConf) -> Self {
        let text = Value::Object(object.clone()).to_compact().into_bytes();
        Self::with_text(object, text, environment, conf.native)
    }

    fn with_text(config: Object, text: Vec<u8>, environment: &Environment, native: bool) -> Self {
        let version = Version::parse(config.text("cniVersion")).unwrap_or(Version::NEWEST);
        let (environment, network) = (environment.clone(), config.text("name").to_owned());
        Self { request: Request { environment, network, version, config }, text, native }
    }

    /// A delegate with a saved config. The error is the reason why the config is unusable.
    fn saved(text: Vec<u8>, environment: &Environment, native: bool) -> Result<Self, String> {
        match Value::parse(&text).map_err(|error| error.to_string())? {
            Value::Object(object) => {
                netconf::check_base(&object).map_err(|error| error.to_string())?;
                Ok(Self::with_text(object, text, environment, native))
            }
            other => Err(format!("it is a JSON {}, not an object", other.kind())),
        }
    }

    /// A delegate for cleaning up without a saved config.
    fn rebuilt(conf: &NetConf, environment: &Environment) -> Self {
        let env = SubnetEnv::read(&conf.subnet_file).ok();
        Self::new(delegate::netconf_for_cleaning(conf, env.as_ref()), environment, conf)
    }

    /// Whether the delegate needs no process.
    fn is_native(&self) -> bool {
        self.native && self.request.config.text("type") == "bridge"
    }

    /// Fails if the delegate is not installed.
    fn find(&self) -> Result<(), CallError> {
        if self.is_native() {
            return Ok(());
        }
        let Request { environment, config, .. } = &self.request;
        invoke::find(config.text("type"), &environment.path).map(drop).map_err(CallError::Find)
    }

    /// Calls the delegate. An ADD returns a result.
    fn call(&mut self, command: Command) -> Result<Option<CniResult>, CallError> {
        self.request.environment.command = command;
        let Request { environment, config, .. } = &self.request;
        let program = config.text("type");
        if self.is_native() {
            return self.call_bridge().map_err(CallError::Failed);
        }
        let stdout = invoke::run(program, &self.text, environment)?;
        if environment.command != Command::Add {
            return Ok(None);
        }
        let result = CniResult::parse(&stdout, config.text("cniVersion"))
            .map_err(|error| CallError::Failed(delegate_error("add", &error.msg)))?;
        Ok(Some(result))
    }

    /// Calls the delegate; one that is not installed is an error like any other.
    fn require(&mut self, command: Command) -> Result<Option<CniResult>, CniError> {
        self.call(command).map_err(|error| self.error(error))
    }

    /// Calls the bridge plugin, the delegate of nearly all clusters, without a process.
    fn call_bridge(&self) -> Result<Option<CniResult>, CniError> {
        let request = &self.request;
        if matches!(request.environment.command, Command::Add | Command::Check | Command::Status) {
            version::of_config(&request.config, bridge::PLUGIN.oldest)?;
        }
        if request.environment.command == Command::Add {
            return bridge::add(request).map(Some);
        }
        bridge::PLUGIN.call(request).map(|()| None)
    }

    /// Returns the error object. That of a delegate is forwarded unchanged.
    fn error(&self, error: CallError) -> CniError {
        match error {
            CallError::Failed(error) => error,
            CallError::Find(error) => {
                let verb = self.request.environment.command.as_str().to_lowercase();
                delegate_error(&verb, &error.to_string())
            }
        }
    }
}

fn delegate_error(verb: &str, reason: &str) -> CniError {
    CniError::internal(format!("failed to delegate {verb}: {reason}"))
}

fn add(request: &Request) -> Result<Value, CniError> {
    let conf = load(request)?;
    let env = SubnetEnv::wait_and_read(&conf.subnet_file, conf.subnet_file_timeout)
        .map_err(|error| subnet_env_error(&error, Code::TryAgainLater, Code::Internal))?;
    let mut delegate = Delegate::new(delegate::netconf(&conf, &env)?, &request.environment, &conf);
    // Without a saved config, a DEL does not need a delegate that has done nothing.
    delegate.find().map_err(|error| delegate.error(error))?;
    Scratch::new(&conf.data_dir).save(&request.environment.attachment, &delegate.text)?;
    note!("delegateAdd: netconf sent to delegate plugin:\n{}", String::from_utf8_lossy(&delegate.text));

    match delegate.call(Command::Add) {
        // In the version of the delegate's config, whatever version it replied in.
        Ok(result) => Ok(result.unwrap_or_default().to_value(delegate.request.version)?),
        Err(error) => {
            // Undo at once what it did before it failed; the saved config is kept for the DEL that follows.
            let undo = !matches!(error, CallError::Find(_));
            let failure = delegate.error(error);
            if undo && let Err(error) = delegate.require(Command::Del) {
                note!("could not undo a failed ADD: {}", error.msg);
            }
            Err(failure)
        }
    }
}

/// Undoes an ADD with the saved config or, if that is lost, with one built from the network config. The saved config
/// is removed only after the delegate has succeeded, so that a DEL can be repeated.
fn del(request: &Request) -> Result<(), CniError> {
    let (conf, problem) = NetConf::parse_leniently(&request.config);
    if let Some(problem) = problem {
        note!("DEL ignores an invalid config: failed to load netconf: {problem}");
    }
    let scratch = Scratch::new(&conf.data_dir);
    let environment = &request.environment;
    let mut certain = false;
    if let Some((mut saved, for_interface)) = load_saved(&scratch, environment, conf.native) {
        // A file of the container alone may belong to another network; this network is then cleaned up as well.
        certain = for_interface || saved.request.network == conf.name;
        saved.require(Command::Del)?;
    }
    if !certain {
        let mut rebuilt = Delegate::rebuilt(&conf, environment);
        match rebuilt.call(Command::Del) {
            Ok(_) => {}
            // A delegate that is not installed has created nothing.
            Err(CallError::Find(error)) => note!("delegate skipped: {error}"),
            Err(error) => return Err(rebuilt.error(error)),
        }
    }
    Ok(scratch.remove(&environment.attachment)?)
}

fn check(request: &Request) -> Result<(), CniError> {
    let conf = load(request)?;
    let Some(prev_result) = conf.prev_result.clone() else {
        let msg = "required prevResult missing: CHECK compares the container with it";
        return Err(CniError::new(Code::InvalidNetworkConfig, msg));
    };
    let mut config = match load_saved(&Scratch::new(&conf.data_dir), &request.environment, conf.native) {
        Some((saved, _)) => saved.request.config,
        None => {
            let env = SubnetEnv::read(&conf.subnet_file)
                .map_err(|error| subnet_env_error(&error, Code::TryAgainLater, Code::Internal))?;
            delegate::netconf(&conf, &env)?
        }
    };
    config.insert("prevResult", prev_result);
    // The runtime has converted the result to the version of the current config.
    if !conf.cni_version.is_empty() {
        config.insert("cniVersion", conf.cni_version.as_str());
    }
    Delegate::new(config.sorted(), &request.environment, &conf).require(Command::Check)?;
    Ok(())
}

/// Succeeds if an ADD could run. A full address range is not an error here: runtimes would mark the node as not ready.
fn status(request: &Request) -> Result<(), CniError> {
    let conf = load(request)?;
    let env = SubnetEnv::read(&conf.subnet_file)
        .map_err(|error| subnet_env_error(&error, Code::PluginNotAvailable, Code::PluginNotAvailable))?;
    Delegate::new(delegate::netconf(&conf, &env)?, &request.environment, &conf).require(Command::Status)?;
    Ok(())
}

fn load(request: &Request) -> Result<NetConf, CniError> {
    NetConf::parse(&request.config)
        .context(|| "failed to load flannel netconf file: failed to load netconf".to_owned())
}

/// Returns a delegate with the saved config, if that is usable, and whether the config certainly belongs to this interface.
fn load_saved(scratch: &Scratch, environment: &Environment, native: bool) -> Option<(Delegate, bool)> {
    let saved = match scratch.load(&environment.attachment) {
        Ok(saved) => saved?,
        Err(error) => {
            note!("failed to read the saved netconf: {error}");
            return None;
        }
    };
    match Delegate::saved(saved.text, environment, native) {
        Ok(delegate) => Some((delegate, saved.for_interface)),
        Err(reason) => {
            note!("failed to parse netconf: {reason}");
            None
        }
    }
}

fn subnet_env_error(error: &SubnetEnvError, absent: Code, other: Code) -> CniError {
    let code = if error.is_absent() { absent } else { other };
    let msg = format!(
        "failed to load flannel 'subnet.env' file: {error}. Check the flannel pod log for this node."
    );
    CniError::new(code, msg)
}
