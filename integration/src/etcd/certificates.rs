//! Keys and certificates of an etcd, made by `openssl`.

use anyhow::{Context, Result};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::netns::stdout_of;
use crate::topology::Lab;

/// The directory of keys and certificates.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// A CA and the client certificates `root` (for etcdctl) and `flannel`.
    pub(super) fn create(lab: &Lab) -> Result<Self> {
        let certificates = Self { directory: lab.directory("certificates")? };
        certificates.make()?;
        Ok(certificates)
    }

    pub(super) fn make(&self) -> Result<()> {
        let (certificate, key) = self.paths("ca");
        self.openssl(&certificate, &key, "/CN=lab-ca", &[])?;
        self.client("root")?;
        self.client("flannel").map(drop)
    }

    pub(super) fn paths(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.directory.join(format!("{name}.crt")), self.directory.join(format!("{name}.key")))
    }

    pub(super) fn ca(&self) -> PathBuf {
        self.paths("ca").0
    }

    pub(super) fn server(&self, address: IpAddr) -> Result<(PathBuf, PathBuf)> {
        let name = format!("server-{address}");
        let usage = "extendedKeyUsage=serverAuth,clientAuth";
        self.signed(&name, &[&format!("subjectAltName=IP:{address}"), usage])
    }

    /// The arguments of a member at this address.
    pub(super) fn arguments(&self, address: IpAddr, of_clients: bool) -> Result<Vec<String>> {
        let (certificate, key) = self.server(address)?;
        let mut arguments =
            vec![format!("--cert-file={}", certificate.display()), format!("--key-file={}", key.display())];
        if of_clients {
            arguments.push("--client-cert-auth".to_owned());
            arguments.push(format!("--trusted-ca-file={}", self.ca().display()));
        }
        Ok(arguments)
    }

    pub(super) fn client(&self, name: &str) -> Result<(PathBuf, PathBuf)> {
        self.signed(name, &["extendedKeyUsage=clientAuth"])
    }

    fn signed(&self, name: &str, extensions: &[&str]) -> Result<(PathBuf, PathBuf)> {
        let (certificate, key) = self.paths(name);
        let (ca, ca_key) = self.paths("ca");
        let (ca, ca_key) = (ca.display().to_string(), ca_key.display().to_string());
        let mut arguments = vec!["-CA", &ca, "-CAkey", &ca_key, "-addext", "basicConstraints=CA:FALSE"];
        for extension in extensions {
            arguments.extend(["-addext", extension]);
        }
        self.openssl(&certificate, &key, &format!("/CN={name}"), &arguments)?;
        Ok((certificate, key))
    }

    fn openssl(&self, certificate: &Path, key: &Path, subject: &str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("openssl");
        command
            .args(["req", "-x509", "-nodes", "-days", "2"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-subj", subject])
            .arg("-out")
            .arg(certificate)
            .arg("-keyout")
            .arg(key)
            .args(arguments)
            .current_dir(&self.directory);
        let output = command.output().context("could not start openssl")?;
        stdout_of(&command, &output).map(drop)
    }
}
