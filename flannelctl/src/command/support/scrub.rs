//! Removes secrets from texts: known ones, and text that resembles one.

use flanneld::store::StoreOptions;
use serde_json::Value;

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

/// The secrets of this node.
#[derive(Debug, Default)]
pub(super) struct Scrubber {
    known: Vec<String>,
}

impl Scrubber {
    /// Learns the secrets of a store.
    pub(super) fn learn_store(&mut self, store: &StoreOptions) {
        for secret in store.secrets() {
            self.learn(Some(&secret));
        }
    }

    /// Learns the secrets of an environment.
    pub(super) fn learn_variables(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        for (_, value) in variables.into_iter().filter(|(name, _)| is_secret(name)) {
            self.learn(Some(&value));
        }
    }

    fn learn(&mut self, secret: Option<&str>) {
        if let Some(secret) = secret.filter(|secret| secret.len() >= SHORTEST) {
            self.known.push(secret.to_owned());
            // As escaped in JSON.
            let quoted = Value::from(secret).to_string();
            let quoted = &quoted[1..quoted.len() - 1];
            if quoted != secret {
                self.known.push(quoted.to_owned());
            }
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
                Value::String(secret) if is_secret(name) => self.learn(Some(secret)),
                member => self.learn_members(member),
            }
        }
    }

    /// The text without secrets.
    pub(super) fn clean(&self, text: &str) -> String {
        let mut clean = String::with_capacity(text.len());
        let mut in_key = false;
        for line in text.split_inclusive('\n') {
            let begins = line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
            let ends = line.contains("-----END") && line.contains("PRIVATE KEY");
            if begins || in_key {
                if begins {
                    clean.push_str(&format!("{REMOVED}\n"));
                }
                in_key = (in_key || begins) && !ends;
                continue;
            }
            clean.push_str(&without_values(&without_logins(line)));
        }
        self.known.iter().fold(clean, |text, secret| text.replace(secret.as_str(), REMOVED))
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    NAMES.iter().any(|part| name.contains(part))
}

/// Removes the login of `https://user:password@host`.
fn without_logins(line: &str) -> String {
    let mut clean = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end = after
            .find(|c: char| c == '/' || c == '"' || c == ',' || c.is_whitespace())
            .unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(login) => {
                clean.push_str(REMOVED);
                &after[login..]
            }
            None => after,
        };
    }
    clean + rest
}

/// Removes the values of secret names: `"PSK":"…"`, `\"PSK\":\"…\"`, `FLANNELD_ETCD_PASSWORD=…`, `--etcd-password …`, `token: …`.
fn without_values(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut clean = String::new();
    let mut done = 0;
    while let Some(found) =
        NAMES.iter().filter_map(|name| Some((done + lower[done..].find(name)?, name.len()))).min()
    {
        let (at, length) = found;
        // The rest of the name, and what is between it and its value.
        let name_end = at + length;
        let tail = &line[name_end..];
        let in_name =
            tail.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))).unwrap_or(tail.len());
        let after_name = &tail[in_name..];
        let gap = after_name
            .find(|c: char| !matches!(c, '"' | '\\' | '\'' | ':' | '=' | ' '))
            .unwrap_or(after_name.len());
        let separated = after_name[..gap].contains([':', '=']) || after_name.starts_with(' ');
        let start = name_end + in_name + gap;
        if !separated || start >= line.trim_end().len() {
            clean.push_str(&line[done..name_end]);
            done = name_end;
            continue;
        }
        let value = &line[start..];
        let end = value
            .find(|c: char| matches!(c, '"' | '\\' | '\'' | ',' | '}' | ']') || c.is_whitespace())
            .unwrap_or(value.len());
        clean.push_str(&line[done..start]);
        if end > 0 {
            clean.push_str(REMOVED);
        }
        done = start + end;
    }
    clean + &line[done..]
}

#[cfg(test)]
mod tests;
