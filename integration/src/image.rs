//! Images for container runtimes, made from static programs of ours: nothing is pulled from anywhere. And what those contain that
//! `cargo xtask dist` makes.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::netns::stdout_of;
use crate::program;
use crate::topology::Lab;

/// The name of the image.
pub const NAME: &str = "localhost/pod:1";
/// The only program in it.
pub const PROGRAM: &str = "/pod";
/// Where a container of it answers, with its host name and the address that it sees.
pub const PORT: u16 = 8080;

/// Writes an archive of an OCI image of this name that holds the program `pod` and nothing else. Its containers run it with
/// these arguments.
pub fn archive(lab: &Lab, name: &str, arguments: &[&str]) -> Result<PathBuf> {
    let own = program("pod");
    ensure!(own.is_absolute(), "the program `pod` is not built: `cargo xtask e2e` builds it");
    let work = lab.directory(&format!("image/{}", name.replace(['/', ':'], "-")))?;
    let archive = work.join("pod.tar");
    if archive.exists() {
        return Ok(archive);
    }
    let root = work.join("root");
    fs::create_dir_all(&root).with_context(|| format!("could not create {}", root.display()))?;
    fs::copy(&own, root.join("pod")).context("could not copy the program `pod`")?;
    let entry: Vec<&str> = [&[PROGRAM], arguments].concat();
    pack(&work, name, &root, &json!({"Entrypoint": entry, "Env": ["PATH=/"]}), &archive)?;
    Ok(archive)
}

/// Writes an archive of an OCI image of this name and config that holds the files below `root`. `work` is an empty directory.
pub fn pack(work: &Path, name: &str, root: &Path, config: &Value, archive: &Path) -> Result<()> {
    let layout = work.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("could not create {}", blobs.display()))?;
    let layer = work.join("layer.tar");
    tar(root, &layer)?;
    let layer = blob(&layout, &fs::read(&layer).context("could not read a layer")?, "layer.v1.tar")?;
    let platform = json!({"os": "linux", "architecture": architecture()});
    let config = json!({
        "os": platform["os"],
        "architecture": platform["architecture"],
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = blob(&layout, config.to_string().as_bytes(), "config.v1+json")?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
    });
    let mut manifest = blob(&layout, manifest.to_string().as_bytes(), "manifest.v1+json")?;
    manifest["platform"] = platform;
    manifest["annotations"] =
        json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).context("could not write index.json")?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
        .context("could not write oci-layout")?;
    tar(&layout, archive)
}

/// An image of several processors that was unpacked.
pub struct Layout(PathBuf);

impl Layout {
    /// Unpacks an archive.
    pub fn unpack(lab: &Lab, image: &Path) -> Result<Self> {
        let directory = lab.directory("image/unpacked")?;
        untar(image, &directory)?;
        Ok(Self(directory))
    }

    /// The files for this processor, unpacked below this name.
    pub fn own_root(&self, lab: &Lab, name: &str) -> Result<PathBuf> {
        self.root(lab, name, architecture())
    }

    /// The files for a processor, unpacked below this name.
    pub fn root(&self, lab: &Lab, name: &str, architecture: &str) -> Result<PathBuf> {
        let root = lab.directory(&format!("image/{name}"))?;
        for layer in self.layers(architecture)? {
            untar(&layer, &root)?;
        }
        Ok(root)
    }

    /// The layers for a processor.
    pub fn layers(&self, architecture: &str) -> Result<Vec<PathBuf>> {
        let index = self.json(&self.blob(&self.json(&self.0.join("index.json"))?["manifests"][0])?)?;
        let manifest = index["manifests"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|manifest| manifest["platform"]["architecture"] == architecture)
            .with_context(|| format!("nothing for {architecture}: {index:#}"))?;
        let manifest = self.json(&self.blob(manifest)?)?;
        let config = self.json(&self.blob(&manifest["config"])?)?;
        ensure!(config["architecture"] == architecture, "{config:#}");
        ensure!(config["config"]["Entrypoint"][0] == "/opt/bin/flanneld", "{config:#}");
        manifest["layers"].as_array().into_iter().flatten().map(|layer| self.blob(layer)).collect()
    }

    fn blob(&self, reference: &Value) -> Result<PathBuf> {
        let digest = reference["digest"].as_str().context("no digest")?.replace(':', "/");
        Ok(self.0.join("blobs").join(digest))
    }

    fn json(&self, path: &Path) -> Result<Value> {
        let text = fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))
    }
}

fn untar(file: &Path, directory: &Path) -> Result<()> {
    checked(Command::new("tar").arg("-C").arg(directory).arg("-xf").arg(file)).map(drop)
}

/// Writes a blob under its hash; answers with what refers to it.
fn blob(layout: &Path, content: &[u8], kind: &str) -> Result<Value> {
    let blobs = layout.join("blobs/sha256");
    let new = blobs.join("new");
    fs::write(&new, content).context("could not write a blob")?;
    let sum = checked(Command::new("sha256sum").arg(&new))?;
    let hash = sum.split(' ').next().unwrap_or_default();
    fs::rename(&new, blobs.join(hash)).context("could not name a blob")?;
    Ok(json!({
        "mediaType": format!("application/vnd.oci.image.{kind}"),
        "digest": format!("sha256:{hash}"),
        "size": content.len(),
    }))
}

fn tar(directory: &Path, file: &Path) -> Result<()> {
    checked(
        Command::new("tar")
            .args(["--owner=0", "--group=0", "-C"])
            .arg(directory)
            .arg("-cf")
            .arg(file)
            .arg("."),
    )
    .map(drop)
}

fn checked(command: &mut Command) -> Result<String> {
    let output =
        command.output().with_context(|| format!("could not start {}", command.get_program().display()))?;
    stdout_of(command, &output)
}

/// As images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
