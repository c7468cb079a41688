//! Keys and certificates of a server and its clients, made by `openssl`.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::netns::stdout_of;
use crate::topology::Lab;

/// The directory of keys and certificates.
#[derive(Clone, Debug)]
pub(crate) struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Creates a CA below the directory of this name.
    pub(crate) fn create(lab: &Lab, name: &str) -> Result<Self> {
        let certificates = Self { directory: lab.directory(name)? };
        certificates.make()?;
        Ok(certificates)
    }

    /// Creates the CA, in place of an existing one.
    pub(crate) fn make(&self) -> Result<()> {
        let (certificate, key) = self.paths("ca");
        self.openssl(&certificate, &key, "/CN=lab-ca", &[])
    }

    pub(crate) fn paths(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.directory.join(format!("{name}.crt")), self.directory.join(format!("{name}.key")))
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.paths("ca").0
    }

    /// Certificate and key of a server with these names, such as `IP:192.0.2.1` or `DNS:example.org`.
    pub(crate) fn server(&self, name: &str, names: &[String]) -> Result<(PathBuf, PathBuf)> {
        let usage = "extendedKeyUsage=serverAuth,clientAuth";
        let subject = format!("/CN={name}");
        self.signed(name, &subject, &[&format!("subjectAltName={}", names.join(",")), usage])
    }

    /// Certificate and key of a client with this subject, such as `/O=group/CN=user`.
    pub(crate) fn client(&self, name: &str, subject: &str) -> Result<(PathBuf, PathBuf)> {
        self.signed(name, subject, &["extendedKeyUsage=clientAuth"])
    }

    fn signed(&self, name: &str, subject: &str, extensions: &[&str]) -> Result<(PathBuf, PathBuf)> {
        let (certificate, key) = self.paths(name);
        let (ca, ca_key) = self.paths("ca");
        let (ca, ca_key) = (ca.display().to_string(), ca_key.display().to_string());
        let mut arguments = vec!["-CA", &ca, "-CAkey", &ca_key, "-addext", "basicConstraints=CA:FALSE"];
        for extension in extensions {
            arguments.extend(["-addext", extension]);
        }
        self.openssl(&certificate, &key, subject, &arguments)?;
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
