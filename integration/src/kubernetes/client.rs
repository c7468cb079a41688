//! A client of the API server: `curl` for single requests, `kubectl` for what users do with it.

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::netns::Netns;

/// Who sends a request.
#[derive(Clone, Debug)]
pub enum Identity {
    /// A client certificate and its key.
    Certificate(PathBuf, PathBuf),
    /// A token, such as that of a service account.
    Token(String),
}

impl Identity {
    /// A client certificate and its key.
    #[must_use]
    pub fn certificate((certificate, key): (PathBuf, PathBuf)) -> Self {
        Self::Certificate(certificate, key)
    }
}

/// The response to a request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body: JSON, or a string if it is not.
    pub body: Value,
}

/// A client of the API server with one identity, in one network namespace.
#[derive(Clone, Debug)]
pub struct Client {
    netns: Netns,
    server: String,
    ca: PathBuf,
    identity: Identity,
    kubeconfig: PathBuf,
}

/// Separates body and status in the output of `curl`.
const SEPARATOR: char = '\u{1e}';

impl Client {
    /// Writes a kubeconfig for this identity to `file`.
    pub fn new(netns: &Netns, server: &str, ca: &Path, identity: Identity, file: &Path) -> Result<Self> {
        let config = kubeconfig(server, ca, &identity)?;
        fs::write(file, config.to_string()).with_context(|| format!("could not write {}", file.display()))?;
        Ok(Self {
            netns: netns.clone(),
            server: server.to_owned(),
            ca: ca.to_owned(),
            identity,
            kubeconfig: file.to_owned(),
        })
    }

    /// Returns its kubeconfig, which holds certificates and keys and so does not depend on other files.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Returns its identity.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Sends a request without a body, such as `GET /api/v1/nodes`.
    pub fn call(&self, method: &str, path: &str) -> Result<Answer> {
        self.send(method, path, None)
    }

    /// Returns an object or a list.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path)?.succeeded(&format!("GET {path}"))
    }

    /// Creates an object in a collection, such as `/api/v1/nodes`.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        let content = Some(("application/json", object));
        self.send("POST", path, content)?.succeeded(&format!("POST {path}"))
    }

    /// Deletes an object.
    pub fn delete(&self, path: &str) -> Result<Value> {
        self.call("DELETE", path)?.succeeded(&format!("DELETE {path}"))
    }

    /// Changes an object by a merge patch: `null` removes a key.
    pub fn patch(&self, path: &str, change: &Value) -> Result<Value> {
        self.try_patch(path, change)?.succeeded(&format!("PATCH {path}"))
    }

    /// The same, whether it succeeds or not.
    pub fn try_patch(&self, path: &str, change: &Value) -> Result<Answer> {
        self.send("PATCH", path, Some(("application/merge-patch+json", change)))
    }

    /// Sends a request with a body, if any, of this content type.
    pub fn send(&self, method: &str, path: &str, content: Option<(&str, &Value)>) -> Result<Answer> {
        let mut words = vec!["curl", "--silent", "--show-error", "--max-time", "20", "--request", method];
        let ca = self.ca.display().to_string();
        words.extend(["--cacert", &ca]);
        let identity = self.curl_identity();
        words.extend(identity.iter().map(String::as_str));
        let mut input = String::new();
        let kind;
        if let Some((content_type, body)) = content {
            kind = format!("Content-Type: {content_type}");
            words.extend(["--header", &kind, "--data-binary", "@-"]);
            input = body.to_string();
        }
        let url = format!("{}{path}", self.server);
        let status = format!("{SEPARATOR}%{{http_code}}");
        words.extend(["--write-out", &status, &url]);
        let output = self.netns.feed(&words, &input)?;
        let (body, status) = output.rsplit_once(SEPARATOR).context("curl printed no status")?;
        let body = serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()));
        Ok(Answer { status: status.parse().context("curl printed no status")?, body })
    }

    fn curl_identity(&self) -> [String; 4] {
        match &self.identity {
            Identity::Certificate(certificate, key) => [
                "--cert".to_owned(),
                certificate.display().to_string(),
                "--key".to_owned(),
                key.display().to_string(),
            ],
            Identity::Token(token) => [
                "--header".to_owned(),
                format!("Authorization: Bearer {token}"),
                "--header".to_owned(),
                "Accept: application/json".to_owned(),
            ],
        }
    }

    /// Returns a line of `kubectl` with these words as a command, for [`Netns::run`].
    #[must_use]
    pub fn kubectl_line(&self, words: &str) -> String {
        format!("kubectl {} {words}", self.kubectl_flags().join(" "))
    }

    /// By default, `kubectl` would keep a cache in the home directory of the user.
    fn kubectl_flags(&self) -> [String; 2] {
        let cache = self.kubeconfig.with_extension("cache");
        [format!("--kubeconfig={}", self.kubeconfig.display()), format!("--cache-dir={}", cache.display())]
    }

    /// Runs `kubectl` with words that are separated by white space. Returns its stdout.
    pub fn kubectl(&self, words: &str) -> Result<String> {
        let words: Vec<&str> = words.split_whitespace().collect();
        self.kubectl_words(&words)
    }

    /// Runs `kubectl` with these words. Returns its stdout.
    pub fn kubectl_words(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new("kubectl");
        command.args(self.kubectl_flags()).args(words).stdin(Stdio::null());
        self.netns.checked(&mut command)
    }

    /// Creates the objects of a list, which may be many: `kubectl create`.
    pub fn create_all(&self, list: &Value) -> Result<String> {
        let [kubeconfig, cache] = self.kubectl_flags();
        let words = ["kubectl", &kubeconfig, &cache, "create", "--validate=false", "-f", "-"];
        self.netns.feed(&words, &list.to_string())
    }

    /// Creates or changes the objects of a manifest: `kubectl apply`, with more flags if needed.
    pub fn apply(&self, manifest: &str, flags: &[&str]) -> Result<String> {
        let [kubeconfig, cache] = self.kubectl_flags();
        let mut words = vec!["kubectl", &kubeconfig, &cache, "apply"];
        words.extend(flags);
        words.extend(["-f", "-"]);
        self.netns.feed(&words, manifest)
    }
}

impl Answer {
    /// Returns the body, or an error if the status is not one of success.
    pub fn succeeded(self, what: &str) -> Result<Value> {
        ensure!((200..300).contains(&self.status), "{what}: {} {}", self.status, self.message());
        Ok(self.body)
    }

    /// Fails unless the request was rejected with this status.
    pub fn rejected(&self, status: u16, what: &str) -> Result<()> {
        if self.status != status {
            bail!("{what}: {} instead of {status}: {}", self.status, self.message());
        }
        Ok(())
    }

    /// Returns the message of a `Status` object, otherwise the whole body.
    #[must_use]
    pub fn message(&self) -> String {
        self.body["message"].as_str().map_or_else(|| self.body.to_string(), str::to_owned)
    }
}

/// JSON is YAML, too.
fn kubeconfig(server: &str, ca: &Path, identity: &Identity) -> Result<Value> {
    let user = match identity {
        Identity::Certificate(certificate, key) => json!({
            "client-certificate-data": encoded(certificate)?,
            "client-key-data": encoded(key)?,
        }),
        Identity::Token(token) => json!({ "token": token }),
    };
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "lab",
            "cluster": {"server": server, "certificate-authority-data": encoded(ca)?},
        }],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "user"}}],
        "current-context": "lab",
    }))
}

fn encoded(file: &Path) -> Result<String> {
    let content = fs::read(file).with_context(|| format!("could not read {}", file.display()))?;
    Ok(STANDARD.encode(content))
}
