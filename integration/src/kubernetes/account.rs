//! The service account of the daemon, with the rights of the manifest that users install.

use anyhow::{Context, Result, ensure};

use super::ControlPlane;
use super::client::{Client, Identity};

/// The manifest that users install.
pub const MANIFEST: &str = include_str!("../../../xtask/assets/kubernetes/kube-flannel.yml");
/// The namespace of everything in the manifest.
pub const NAMESPACE: &str = "kube-flannel";
/// The service account, its role and the binding of both.
pub const ACCOUNT: &str = "flannel";

/// Returns those documents of a manifest that are of one of these kinds.
pub fn documents(manifest: &str, kinds: &[&str]) -> Result<String> {
    let is_of_kind = |document: &&str| {
        let kind = document.lines().find_map(|line| line.strip_prefix("kind: "));
        kind.is_some_and(|kind| kinds.contains(&kind.trim()))
    };
    let found: Vec<&str> = manifest.split("---\n").filter(is_of_kind).collect();
    ensure!(found.len() >= kinds.len(), "the manifest has only {} of {kinds:?}", found.len());
    Ok(found.join("---\n"))
}

impl ControlPlane {
    /// Creates the namespace, the service account and its rights as in the manifest, but no pods. Returns a client with a token
    /// of the account.
    pub fn install_account(&self) -> Result<Client> {
        let kinds = ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"];
        self.admin.apply(&documents(MANIFEST, &kinds)?, &[])?;
        self.client(ACCOUNT, Identity::Token(self.token(ACCOUNT)?))
    }

    /// Requests a token of a service account in the namespace of the manifest, valid for ten minutes.
    pub fn token(&self, account: &str) -> Result<String> {
        let line = format!("create token {account} --namespace {NAMESPACE} --duration 600s");
        let token = self.admin.kubectl(&line).context("no token")?;
        Ok(token.trim().to_owned())
    }
}
