//! Removes secrets from texts: known ones, and text that resembles one.

use flanneld::store::StoreOptions;
use regex::Regex;
use serde_json::Value;
use std::sync::LazyLock;

const REMOVED: &str = "[removed]";
/// Parts of names whose values are secret.
const NAMES: [&str; 11] = [
    "password",
    "passwd",
    "psk",
    "secret",
    "token",
    "privatekey",
    "private_key",
    "private-key",
    "presharedkey",
    "key-data",
    "bearer",
];
/// Shorter secrets would remove large parts of the text.
const SHORTEST: usize = 4;

/// What resembles a secret, and its replacement.
static PATTERNS: LazyLock<[(Regex, &str); 3]> = LazyLock::new(|| {
    let pattern = |text: &str| Regex::new(text).expect("the pattern is valid");
    // The rest of the name, what separates it from the value, and the value: `"PSK":"…"`, `\"PSK\":\"…\"`,
    // `FLANNELD_ETCD_PASSWORD=…`, `--etcd-password …`, `token: …`.
    let (name, gap) = (NAMES.join("|"), r#"["\\':= ]*"#);
    let value = r#"[^"\\':=\s,}\]][^"\\'\s,}\]]*"#;
    [
        // A private key in PEM, with the lines that it begins and ends on.
        (
            pattern(r"(?m)^.*?-----BEGIN.*?PRIVATE KEY(?s:.*?)(?:-----END.*?PRIVATE KEY.*(?:\n|\z)|\z)"),
            "[removed]\n",
        ),
        // The login of `https://user:password@host`.
        (pattern(r#"://[^/",\s]*@"#), "://[removed]@"),
        (pattern(&format!("(?i)((?:{name})[a-z0-9_-]*(?:{gap}[:=]{gap}| {gap})){value}")), "${1}[removed]"),
    ]
});

/// The secrets of this node.
#[derive(Debug, Default)]
pub(super) struct Scrubber {
    known: Vec<String>,
}

impl Scrubber {
    /// Learns the secrets of a store.
    pub(super) fn learn_store(&mut self, store: &StoreOptions) {
        for secret in store.secrets() {
            self.learn(&secret);
        }
    }

    /// Learns the secrets of an environment.
    pub(super) fn learn_variables(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        for (_, value) in variables.into_iter().filter(|(name, _)| is_secret(name)) {
            self.learn(&value);
        }
    }

    fn learn(&mut self, secret: &str) {
        if secret.len() >= SHORTEST {
            // In JSON, it may be escaped.
            let quoted = Value::from(secret).to_string();
            self.known.extend([secret.to_owned(), quoted[1..quoted.len() - 1].to_owned()]);
        }
    }

    /// Learns the secrets of a network config, which other files may contain in other forms.
    pub(super) fn learn_config(&mut self, text: &str) {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        self.learn_members(&value);
    }

    fn learn_members(&mut self, value: &Value) {
        for (name, member) in value.as_object().into_iter().flatten() {
            match member {
                Value::String(secret) if is_secret(name) => self.learn(secret),
                member => self.learn_members(member),
            }
        }
    }

    /// The text without secrets.
    pub(super) fn clean(&self, text: &str) -> String {
        let clean = PATTERNS.iter().fold(text.to_owned(), |text, (pattern, replacement)| {
            pattern.replace_all(&text, *replacement).into_owned()
        });
        self.known.iter().fold(clean, |text, secret| text.replace(secret.as_str(), REMOVED))
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    NAMES.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests;
