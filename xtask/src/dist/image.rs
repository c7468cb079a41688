//! An image as an archive of the OCI layout, which every container engine loads.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::sbom::timestamp;
use super::target::Target;
use super::tree::Tree;
use super::{Release, archive, sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The files of the image for a target, as archives.
pub(crate) struct Platform<'a> {
    pub(crate) target: &'static Target,
    /// Each layer contains what it adds to the one before.
    pub(crate) layers: Vec<&'a [u8]>,
}

/// Builds one image for all targets.
pub(crate) fn build(release: &Release, tag: &str, platforms: &[Platform<'_>]) -> Result<Vec<u8>> {
    let mut layout = Layout(Tree::default());
    let mut manifests = Vec::new();
    for Platform { target, layers } in platforms {
        let config = layout.json(CONFIG, &config(release, target, layers)?)?;
        let mut descriptors = Vec::new();
        for files in layers {
            descriptors.push(layout.blob(LAYER, release.compression.gzip(files)?)?);
        }
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": descriptors});
        let mut manifest = layout.json(MANIFEST, &manifest)?;
        manifest["platform"] = json!({"architecture": target.debian, "os": "linux"});
        manifests.push(manifest);
    }
    let mut index =
        layout.json(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))?;
    index["annotations"] = json!({
        "io.containerd.image.name": format!("{}:{tag}", release.image),
        "org.opencontainers.image.ref.name": tag,
    });
    let Layout(mut tree) = layout;
    tree.file("index.json", text(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [index]}))?)?;
    tree.file("oci-layout", text(&json!({"imageLayoutVersion": "1.0.0"}))?)?;
    archive::tar(&tree, release.epoch)
}

/// Returns the config of the image.
fn config(release: &Release, target: &Target, layers: &[&[u8]]) -> Result<Value> {
    let created = timestamp(release.epoch)?;
    let history = layers.iter().map(|_| json!({"created": created, "created_by": "cargo xtask dist"}));
    let history: Vec<Value> = history.collect();
    let digests: Vec<String> = layers.iter().map(|files| format!("sha256:{}", sha256(files))).collect();
    Ok(json!({
        "created": created,
        "architecture": target.debian,
        "os": "linux",
        "config": {
            "Entrypoint": ["/opt/bin/flanneld"],
            "Env": ["PATH=/opt/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": "flannel",
                "org.opencontainers.image.version": release.version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": digests},
        "history": history,
    }))
}

fn text(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).context("could not write a description of the image")
}

/// Blobs under the names of their contents.
struct Layout(Tree);

impl Layout {
    fn json(&mut self, media_type: &str, value: &Value) -> Result<Value> {
        self.blob(media_type, text(value)?)
    }

    /// Adds a blob. Returns its descriptor.
    fn blob(&mut self, media_type: &str, content: Vec<u8>) -> Result<Value> {
        let (digest, size) = (sha256(&content), content.len());
        self.0.file(&format!("blobs/sha256/{digest}"), content)?;
        Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size}))
    }
}
