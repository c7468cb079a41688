//! The bill of materials in CycloneDX 1.5, for vulnerability scanners.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;

use super::crates::Crate;
use super::debian::Package;
use super::target::{Target, host, rustc};
use super::{Release, sha256};
use crate::process::{stdout, text};

/// What the artefacts contain.
pub(crate) struct Parts<'a> {
    /// The crates in the programs.
    pub(crate) crates: &'a BTreeMap<String, Crate>,
    /// The packages of Debian in the image.
    pub(crate) packages: &'a [Package],
    /// The files for Kubernetes.
    pub(crate) manifests: &'a [(String, Vec<u8>)],
}

pub(crate) fn build(release: &Release, target: &Target, parts: &Parts<'_>) -> Result<Vec<u8>> {
    let Parts { crates, packages, manifests } = parts;
    let product = json!({
        "type": "application",
        "bom-ref": "flannel",
        "name": "flannel",
        "version": release.version,
        "licenses": [{"expression": "Apache-2.0"}],
        "properties": [{"name": "target", "value": target.triple}],
    });
    let mut components: Vec<Value> = crates.values().map(Crate::component).collect();
    components.extend(toolchain(target)?);
    components.extend(packages.iter().map(|package| package.component(target)));
    components.extend(manifests.iter().map(|(name, content)| {
        let hash = json!({"alg": "SHA-256", "content": sha256(content)});
        json!({"type": "file", "bom-ref": name, "name": name, "version": release.version, "hashes": [hash],
            "licenses": [{"expression": "Apache-2.0"}]})
    }));
    let mut dependencies: Vec<Value> = crates
        .values()
        .map(|crate_| {
            let on = crate_.dependencies.iter().filter_map(|id| crates.get(id)).map(Crate::reference);
            json!({"ref": crate_.reference(), "dependsOn": on.collect::<Vec<_>>()})
        })
        .collect();
    let own = crates.values().filter(|crate_| crate_.checksum.is_none()).map(Crate::reference);
    let own = own.chain(packages.iter().map(|package| package.reference(target)));
    let own = own.chain(manifests.iter().map(|(name, _)| name.clone()));
    dependencies.push(json!({"ref": "flannel", "dependsOn": own.collect::<Vec<_>>()}));
    let bill = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"timestamp": timestamp(release.epoch)?, "component": product},
        "components": components,
        "dependencies": dependencies,
    });
    let mut text = serde_json::to_vec_pretty(&bill).context("could not write the bill of materials")?;
    text.push(b'\n');
    Ok(text)
}

impl Crate {
    /// Returns the package URL of the crate.
    fn reference(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }

    fn component(&self) -> Value {
        let mut component = json!({
            "type": "library",
            "bom-ref": self.reference(),
            "name": self.name,
            "version": self.version,
            "purl": self.reference(),
            "licenses": [{"expression": self.license}],
        });
        if let Some(checksum) = &self.checksum {
            component["hashes"] = json!([{"alg": "SHA-256", "content": checksum}]);
        }
        component
    }
}

impl Package {
    /// Returns the package URL of the package.
    fn reference(&self, target: &Target) -> String {
        format!("pkg:deb/debian/{}@{}?arch={}", self.name, self.version, target.debian)
    }

    fn component(&self, target: &Target) -> Value {
        json!({
            "type": "library",
            "bom-ref": self.reference(target),
            "name": self.name,
            "version": self.version,
            "purl": self.reference(target),
            "licenses": [{"expression": self.license}],
            "hashes": [{"alg": "SHA-256", "content": self.sha256}],
            "properties": [{"name": "flannel:in", "value": "image"}],
        })
    }
}

/// Returns the other linked components: the standard library and the C libraries.
fn toolchain(target: &Target) -> Result<Vec<Value>> {
    let version = rustc(&["-vV"])?;
    let version = version.lines().find_map(|line| line.strip_prefix("release: ")).unwrap_or_default();
    let mut components = vec![json!({
        "type": "library",
        "bom-ref": "rust-std",
        "name": "rust-std",
        "version": version,
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
    })];
    let c_library = |name: &str, license: &str| {
        json!({
            "type": "library",
            "bom-ref": name,
            "name": name,
            "licenses": [{"expression": license}],
        })
    };
    let mut glibc = c_library("glibc", "LGPL-2.1-or-later");
    if let Some(version) = glibc_version(target)? {
        glibc["version"] = json!(version);
    }
    components.push(glibc);
    if target.plugin()? != target.triple {
        components.push(c_library("musl", "MIT"));
    }
    Ok(components)
}

/// Returns the version from the headers of the C compiler, or `None` if they are not glibc's.
fn glibc_version(target: &Target) -> Result<Option<String>> {
    let mut command = Command::new(target.compiler(&host()?));
    command.args(["-E", "-dM", "-include", "features.h", "-x", "c", "/dev/null"]);
    // A compiler without features.h fails, and prints nothing.
    let output = command.output().with_context(|| format!("could not start `{}`", text(&command)))?;
    let definitions = String::from_utf8_lossy(&output.stdout).into_owned();
    let value =
        |name: &str| definitions.lines().find_map(|line| line.strip_prefix(&format!("#define {name} ")));
    Ok(value("__GLIBC__").zip(value("__GLIBC_MINOR__")).map(|(major, minor)| format!("{major}.{minor}")))
}

/// Formats seconds since 1970 as in RFC 3339.
pub(crate) fn timestamp(epoch: u64) -> Result<String> {
    let mut date = Command::new("date");
    let text = stdout(date.args(["--utc", &format!("--date=@{epoch}"), "+%FT%TZ"]))?;
    Ok(text.trim_end().to_owned())
}
