use super::{Module, fetches_toolchains, kubernetes_version};
use crate::process::root;

#[test]
fn only_recent_go_fetches_toolchains() {
    for (version, expected) in [
        ("go1.19.8", false),
        ("go1.20", false),
        ("go1.21", true),
        ("go1.21rc2", true),
        ("go1.26.3", true),
        ("devel +a1b2c3", true),
    ] {
        assert_eq!(fetches_toolchains(version), expected, "{version}");
    }
}

/// The version that the programs report is that of the module, and belongs to the key of the build.
#[test]
fn build_depends_on_the_version() {
    let module = Module::read().unwrap();
    let go_mod = std::fs::read_to_string(module.source.join("go.mod")).unwrap();
    let version = kubernetes_version(&go_mod).unwrap();
    assert!(version.starts_with("v1."), "{version}");
    assert!(module.arguments.iter().any(|argument| argument.ends_with(&format!("gitVersion={version}"))));
    assert!(kubernetes_version("module m\n").is_err());
}

/// The manifest and the chart name the image of this version.
#[test]
fn assets_have_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let read =
        |name: &str| std::fs::read_to_string(root().join("xtask/assets/kubernetes").join(name)).unwrap();
    let manifest = read("kube-flannel.yml");
    let images: Vec<&str> = manifest.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
    assert_eq!(images, vec![format!("localhost/flannel:{version}"); 3]);
    let chart = read("chart/Chart.yaml");
    for line in [format!("version: {version}"), format!("appVersion: {version}")] {
        assert!(chart.lines().any(|found| found == line), "no line {line:?} in\n{chart}");
    }
}
