use super::settings::{File, parse};
use super::*;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;

/// Directories, network and ignored keys of files, the first of which is the main one.
fn shown_of(written: fn(&[File]) -> Written, texts: &[&str]) -> String {
    let files = texts.iter().zip(["main", "second", "third"]);
    let files: Vec<File> =
        files.map(|(text, name)| parse(Path::new(name), text.as_bytes()).unwrap()).collect();
    let Written { settings, ignored, .. } = written(&files);
    let ignored =
        ignored.iter().map(|Ignored { file, table, key }| format!(" {}:{table}{key}", file.display()));
    format!(
        "{} {} {:?}{}",
        settings.configs.unwrap_or_default().display(),
        settings.plugins.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":"),
        settings.network.unwrap_or_default(),
        ignored.collect::<String>()
    )
}

#[test]
fn containerd_has_one_table_per_version() {
    let cni = |version: &str, table: &str, keys: &str| format!("{version}\n[plugins.{table}.cni]\n{keys}");
    let (v2, v3) = ("\"io.containerd.grpc.v1.cri\"", "'io.containerd.cri.v1.runtime'");
    let keys = "bin_dir='/b'\nconf_dir='/c'";
    for version in ["", "version = 1"] {
        assert_eq!(shown_of(containerd::written, &[&cni(version, "cri", keys)]), "/c /b \"\"");
    }
    assert_eq!(shown_of(containerd::written, &[&cni("version = 2", v2, keys)]), "/c /b \"\"");
    assert_eq!(shown_of(containerd::written, &[&cni("version = 3", v3, keys)]), "/c /b \"\"");
    let several = "bin_dirs=['/a','/b']\nbin_dir=''";
    assert_eq!(shown_of(containerd::written, &[&cni("version = 3", v3, several)]), " /a:/b \"\"");
    assert_eq!(
        shown_of(containerd::written, &[&cni("version = 3", v2, keys)]),
        "  \"\" main:[plugins.\"io.containerd.grpc.v1.cri\".cni]bin_dir \
         main:[plugins.\"io.containerd.grpc.v1.cri\".cni]conf_dir"
    );
}

/// From a guide that many have followed.
#[test]
fn containerd_ignores_cni_settings_of_a_runtime() {
    let text = "version = 2
        [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options.cni]
        bin_dir = '/opt/cni/bin'
        [plugins.other]
        conf_dir = '/x'";
    assert_eq!(
        shown_of(containerd::written, &[text]),
        "  \"\" main:[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options.cni]bin_dir"
    );
}

#[test]
fn imports_of_containerd_replace_a_section() {
    let main = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.cni]\nbin_dir='/b'\nconf_dir='/c'";
    let other = "version = 2\n[plugins.other]\nx = 1";
    let import = "[plugins.'io.containerd.grpc.v1.cri'.cni]\nbin_dir='/d'";
    assert_eq!(shown_of(containerd::written, &[main, other]), "/c /b \"\"");
    assert_eq!(shown_of(containerd::written, &[main, import]), " /d \"\"");
}

#[test]
fn later_files_of_crio_take_precedence() {
    let main = "[crio.network]\nnetwork_dir='/c'\nplugin_dirs=['/a','/b']\ncni_default_network='cbr0'";
    let dropin = "[crio.network]\nplugin_dirs=['/d']\n[crio]\nnetwork_dir='/x'";
    assert_eq!(shown_of(crio::written, &[main]), "/c /a:/b \"cbr0\"");
    assert_eq!(shown_of(crio::written, &[main, dropin]), "/c /d \"cbr0\" second:[crio]network_dir");
}

#[test]
fn a_deprecated_key_of_crio_adds_a_directory() {
    let text = "[crio.network]\nplugin_dirs=['/a']\nplugin_dir='/b'";
    assert_eq!(shown_of(crio::written, &[text]), " /a:/b \"\"");
}

#[test]
fn sockets_are_those_of_the_last_file() {
    let socket = |written: fn(&[File]) -> Written, texts: &[&str]| {
        let files: Vec<File> =
            texts.iter().map(|text| parse(Path::new("f"), text.as_bytes()).unwrap()).collect();
        written(&files).socket.unwrap_or_default().display().to_string()
    };
    let [v2, v4] =
        ["[grpc]\naddress='/s'", "version=4\n[plugins.'io.containerd.server.v1.grpc']\naddress='/t'"];
    assert_eq!(socket(containerd::written, &[v2]), "/s");
    assert_eq!(socket(containerd::written, &[v2, v4, "[grpc]\ngid=0"]), "/t");
    assert_eq!(socket(crio::written, &["[crio.api]\nlisten='/s'"]), "/s");
    assert_eq!(socket(crio::written, &["[crio.api]"]), "");
}

#[test]
fn several_configs_are_used_if_the_limit_admits_them() {
    let admits = |keys: &str| {
        let text = format!("[plugins.cri.cni]\n{keys}");
        let settings = containerd::written(&[parse(Path::new("f"), text.as_bytes()).unwrap()]).settings;
        [0, 1, 2].map(|position| settings.admits(position))
    };
    assert_eq!(admits(""), [true, false, false]);
    assert_eq!(admits("max_conf_num=2"), [true, true, false]);
    assert_eq!(admits("max_conf_num=0"), [true, true, true]);
}

#[test]
fn files_are_read_with_imports() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    assert!(containerd::files(&path("config.toml")).unwrap().files.is_empty());
    fs::create_dir(path("conf.d")).unwrap();
    // An import of itself must not be an endless loop.
    fs::write(path("config.toml"), "version = 2\nimports = ['conf.d/*.toml', 'config.toml']").unwrap();
    let section = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.cni]\nbin_dir='/b'";
    fs::write(path("conf.d/10-cni.toml"), section).unwrap();
    fs::write(path("conf.d/10-cni.toml.off"), "[").unwrap();
    let written = containerd::files(&path("config.toml")).unwrap();
    assert_eq!(written.settings.plugins, [Path::new("/b")]);
    assert_eq!(written.files, [path("config.toml"), path("conf.d/10-cni.toml")]);
    fs::write(path("conf.d/20.toml"), "\n\n[").unwrap();
    let error = containerd::files(&path("config.toml")).unwrap_err().to_string();
    assert!(error.contains("20.toml is not TOML: line 3: "), "{error}");
    fs::write(path("conf.d/20.toml"), b"\n\xff").unwrap();
    let error = containerd::files(&path("config.toml")).unwrap_err().to_string();
    assert!(error.contains("20.toml is not TOML: line 2: invalid utf-8"), "{error}");
    assert!(crio::files(&path("crio.conf")).unwrap().files.is_empty());
}

/// The response of containerd 1.6.20 to a verbose status request, shortened.
fn info(load: &str, networks: &Value) -> HashMap<String, String> {
    let state = json!({
        "PluginDirs": ["/usr/lib/cni"], "PluginConfDir": "/etc/cni/net.d", "PluginMaxConfNum": 1, "Prefix": "eth",
        "Networks": networks,
    });
    [("lastCNILoadStatus", load), ("lastCNILoadStatus.default", load), ("cniconfig", &state.to_string())]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

#[test]
fn a_response_of_containerd_has_settings_networks_and_the_last_error() {
    let list = |name: &str, plugin: &Value| {
        let plugins = [json!({"Network": {"type": plugin["type"]}, "Source": plugin.to_string()})];
        json!({"Config": {"Name": name, "CNIVersion": "1.0.0", "Plugins": plugins, "Source": "{}"}, "IFName": "x"})
    };
    let flannel = json!({"type": "flannel", "delegate": {"mtu": 1400}});
    let networks = [list("cni-loopback", &json!({"type": "loopback"})), list("cbr0", &flannel)];
    let mut running = Running::default();
    containerd::complete(&mut running, &info("OK", &json!(networks)));
    let settings = running.settings.unwrap();
    assert_eq!(settings.configs.as_deref(), Some(Path::new("/etc/cni/net.d")));
    assert_eq!((settings.plugins, settings.limit), (vec!["/usr/lib/cni".into()], Some(1)));
    assert_eq!(running.networks, [Network { name: "cbr0".to_owned(), plugins: vec![flannel] }]);
    assert!(running.words.is_empty());

    let mut running = Running::default();
    containerd::complete(&mut running, &info("cni config load failed: x", &Value::Null));
    assert_eq!(running.words, ["cni config load failed: x"]);
    assert!(running.networks.is_empty());
}

#[test]
fn nothing_is_assumed_from_an_unknown_response() {
    for text in ["", "[]", "{\"Networks\":[{}]}"] {
        let mut running = Running::default();
        containerd::complete(&mut running, &[("cniconfig".to_owned(), text.to_owned())].into());
        assert_eq!(running, Running::default(), "{text}");
    }
    assert!(crio::effective("<html>").is_err());
}
