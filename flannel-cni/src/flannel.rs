//! The flannel plugin: makes the config of a delegate from `subnet.env` and lets the delegate work.

use flannel_core::json::{Object, Value};

use crate::delegate;
use crate::environment::{Command, Environment};
use crate::error::{CniError, Code, chain, note};
use crate::invoke::{Call, CallError};
use crate::native::bridge;
use crate::netconf::{self, Attachment, NetConf, NetConfError};
use crate::plugin::{Plugin, Request};
use crate::result::{CniResult, ResultError};
use crate::scratch::Scratch;
use crate::subnet_env::{SubnetEnv, SubnetEnvError};
use crate::version::Version;

mod gc;

/// The flannel plugin.
pub(crate) const PLUGIN: Plugin = Plugin { name: "flannel", add, del, check, gc: gc::gc, status };

/// Why an operation of flannel failed, where it is not the delegate's error.
#[derive(Debug, thiserror::Error)]
enum FlannelError {
    #[error("failed to load flannel netconf file")]
    NetConf(#[source] NetConfError),
    #[error("failed to load flannel 'subnet.env' file: {0}. Check the flannel pod log for this node.")]
    SubnetEnv(String),
    #[error("failed to delegate {verb}: {reason}")]
    Delegate { verb: String, reason: String },
}

/// A config for the delegate and its bytes, which are what was saved.
struct DelegateConf {
    object: Object,
    text: Vec<u8>,
}

impl DelegateConf {
    fn new(object: Object) -> Self {
        let text = Value::Object(object.clone()).to_compact().into_bytes();
        Self { object, text }
    }

    /// A saved config, if it is still one.
    fn saved(text: Vec<u8>) -> Result<Self, String> {
        match Value::parse(&text).map_err(|error| error.to_string())? {
            Value::Object(object) => {
                netconf::check_base(&object).map_err(|error| error.to_string())?;
                Ok(Self { object, text })
            }
            other => Err(format!("it is a JSON {}, not an object", other.kind())),
        }
    }

    fn member(&self, name: &str) -> &str {
        self.object.field(name).and_then(Value::as_str).unwrap_or_default()
    }
}

fn add(request: &Request) -> Result<String, CniError> {
    let conf = load(request)?;
    let env = SubnetEnv::wait_and_read(&conf.subnet_file, conf.subnet_file_patience)
        .map_err(|error| subnet_env_error(&error, Code::TryAgainLater, Code::Internal))?;
    let delegate = DelegateConf::new(delegate::netconf(&conf, &env)?);
    Scratch::new(&conf.data_dir).save(&attachment(&request.environment), &delegate.text)?;
    let text = String::from_utf8_lossy(&delegate.text);
    note!("delegateAdd: netconf sent to delegate plugin:\n{text}");

    match run_delegate(&Command::Add, &delegate, &request.environment, conf.native) {
        Ok(result) => print(&result.unwrap_or_default(), delegate.member("cniVersion")),
        Err(error) => {
            // What it did before it failed goes away at once; the saved config stays for the DEL that follows.
            if !matches!(error, CallError::Find(_))
                && let Err(error) = run_delegate(&Command::Del, &delegate, &request.environment, conf.native)
            {
                complain("could not undo a failed ADD", &delegate_error(&Command::Del, error).msg);
            }
            Err(delegate_error(&Command::Add, error))
        }
    }
}

/// Undoes an ADD by the saved config, or where that is lost by one that is made from what is there. The saved
/// config is forgotten only when the delegate has succeeded, so that a DEL can be repeated.
fn del(request: &Request) -> Result<String, CniError> {
    let (conf, problem) = NetConf::parse_leniently(&request.config);
    if let Some(problem) = problem {
        complain("a wrong config does not keep DEL from cleaning up", &chain(&problem));
    }
    let scratch = Scratch::new(&conf.data_dir);
    let attachment = attachment(&request.environment);
    let saved = load_saved(&scratch, &attachment);

    // A file of the container alone may belong to another network: then this one is cleaned up as well.
    let certain = saved
        .as_ref()
        .is_some_and(|(saved, for_interface)| *for_interface || saved.member("name") == conf.name);
    if let Some((saved, _)) = &saved {
        run_delegate(&Command::Del, saved, &request.environment, conf.native)
            .map_err(|error| delegate_error(&Command::Del, error))?;
    }
    if !certain {
        let rebuilt = rebuild(&conf);
        match run_delegate(&Command::Del, &rebuilt, &request.environment, conf.native) {
            Ok(_) => {}
            // What is not installed has made nothing that could be undone.
            Err(CallError::Find(error)) => complain("nothing to clean up with", &error.to_string()),
            Err(error) => return Err(delegate_error(&Command::Del, error)),
        }
    }
    scratch.remove(&attachment)?;
    Ok(String::new())
}

fn check(request: &Request) -> Result<String, CniError> {
    let conf = load(request)?;
    let Some(prev_result) = conf.prev_result.clone() else {
        let msg = "required prevResult missing: CHECK compares with the result of ADD";
        return Err(CniError::new(Code::InvalidNetworkConfig, msg));
    };
    let scratch = Scratch::new(&conf.data_dir);
    let saved = match load_saved(&scratch, &attachment(&request.environment)) {
        Some((saved, _)) => saved.object,
        None => {
            let env = SubnetEnv::read(&conf.subnet_file)
                .map_err(|error| subnet_env_error(&error, Code::TryAgainLater, Code::Internal))?;
            delegate::netconf(&conf, &env)?
        }
    };
    let mut delegate = saved;
    delegate.insert("prevResult", prev_result);
    // The runtime has converted the result to the version of today's config.
    if !conf.cni_version.is_empty() {
        delegate.insert("cniVersion", conf.cni_version.as_str());
    }
    let delegate = DelegateConf::new(sorted(delegate));
    run_delegate(&Command::Check, &delegate, &request.environment, conf.native)
        .map_err(|error| delegate_error(&Command::Check, error))?;
    Ok(String::new())
}

/// Ready if an ADD would find what it needs. A full address range is not told here: runtimes take an error for a broken node.
fn status(request: &Request) -> Result<String, CniError> {
    let conf = load(request)?;
    let env = SubnetEnv::read(&conf.subnet_file)
        .map_err(|error| subnet_env_error(&error, Code::PluginNotAvailable, Code::PluginNotAvailable))?;
    let delegate = DelegateConf::new(delegate::netconf(&conf, &env)?);
    run_delegate(&Command::Status, &delegate, &request.environment, conf.native)
        .map_err(|error| delegate_error(&Command::Status, error))?;
    Ok(String::new())
}

/// Every call of a delegate goes through here. An ADD answers with a result.
fn run_delegate(
    command: &Command,
    delegate: &DelegateConf,
    environment: &Environment,
    native: bool,
) -> Result<Option<CniResult>, CallError> {
    if native
        && delegate::kind(&delegate.object) == "bridge"
        && bridge::check_supported(&delegate.object).is_ok()
    {
        return run_bridge(command, delegate, environment).map_err(CallError::Failed);
    }
    let call = Call {
        command: command.clone(),
        program: delegate::kind(&delegate.object),
        netconf: &delegate.text,
        environment,
    };
    let stdout = match call.run() {
        // Nobody is there to undo the rest: at least the interface and the addresses go.
        Err(CallError::Find(_)) if *command == Command::Del && native && call.program == "bridge" => {
            return run_bridge(command, delegate, environment).map_err(CallError::Failed);
        }
        other => other?,
    };
    if *command != Command::Add {
        return Ok(None);
    }
    let (result, _) =
        CniResult::parse(&stdout, delegate.member("cniVersion")).map_err(|error: ResultError| {
            let failed = FlannelError::Delegate { verb: "add".to_owned(), reason: chain(&error) };
            CallError::Failed(failed.into())
        })?;
    Ok(Some(result))
}

/// The delegate of nearly all clusters, without a process.
fn run_bridge(
    command: &Command,
    delegate: &DelegateConf,
    environment: &Environment,
) -> Result<Option<CniResult>, CniError> {
    let config = &delegate.object;
    match command {
        Command::Add => return bridge::add(config, environment).map(Some),
        Command::Del => bridge::del(config, environment)?,
        Command::Check => bridge::check(config, environment)?,
        Command::Gc => bridge::gc(config)?,
        Command::Status => bridge::status(config)?,
        // Nothing else is ever forwarded.
        Command::Version | Command::Unknown(_) => {}
    }
    Ok(None)
}

/// Prints in the version of the config that the delegate had, whatever version it answered in.
fn print(result: &CniResult, version: &str) -> Result<String, CniError> {
    let version = Version::parse(version).unwrap_or(Version::NEWEST);
    Ok(result.to_value(version)?.to_pretty())
}

fn load(request: &Request) -> Result<NetConf, FlannelError> {
    NetConf::parse(&request.config).map_err(FlannelError::NetConf)
}

fn attachment(environment: &Environment) -> Attachment {
    Attachment { container_id: environment.container_id.clone(), ifname: environment.ifname.clone() }
}

/// The saved config, if it can be read and used, and whether it is certainly that of this interface.
fn load_saved(scratch: &Scratch, attachment: &Attachment) -> Option<(DelegateConf, bool)> {
    let saved = match scratch.load(attachment) {
        Ok(saved) => saved?,
        Err(error) => {
            complain("failed to read the saved netconf", &error.to_string());
            return None;
        }
    };
    match DelegateConf::saved(saved.text) {
        Ok(delegate) => Some((delegate, saved.for_interface)),
        Err(reason) => {
            complain("failed to parse netconf", &reason);
            None
        }
    }
}

/// A config for cleaning up without the saved one.
fn rebuild(conf: &NetConf) -> DelegateConf {
    let env = SubnetEnv::read(&conf.subnet_file).ok();
    DelegateConf::new(delegate::netconf_for_cleaning(conf, env.as_ref()))
}

fn sorted(object: Object) -> Object {
    match Value::Object(object).sorted() {
        Value::Object(object) => object,
        // Sorting changes no type.
        _ => Object::new(),
    }
}

fn subnet_env_error(error: &SubnetEnvError, absent: Code, other: Code) -> CniError {
    let code = if error.is_absent() { absent } else { other };
    CniError::new(code, FlannelError::SubnetEnv(error.to_string()).to_string())
}

/// A delegate's own error passes through unchanged.
fn delegate_error(command: &Command, error: CallError) -> CniError {
    match error {
        CallError::Failed(error) => error,
        CallError::Find(error) => {
            let verb = command.as_str().to_lowercase();
            FlannelError::Delegate { verb, reason: error.to_string() }.into()
        }
    }
}

/// Tells on stderr, which runtimes log, what does not change the outcome.
fn complain(what: &str, why: &str) {
    note!("{what}: {why}");
}
