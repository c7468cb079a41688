use super::*;

/// Directories, network and ignored keys of files, the first of which is the main one.
fn shown_of(read: fn(&[File]) -> Runtime, texts: &[&str]) -> String {
    let files = texts.iter().zip(["main", "second", "third"]);
    let files: Vec<File> = files.map(|(text, name)| (name.into(), text.parse().unwrap())).collect();
    let runtime = read(&files);
    let ignored = runtime
        .ignored
        .iter()
        .map(|Ignored { file, table, key }| format!(" {}:{table}{key}", file.display()));
    format!(
        "{} {} {:?}{}",
        runtime.configs.unwrap_or_default().display(),
        runtime.plugins.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":"),
        runtime.network.unwrap_or_default(),
        ignored.collect::<String>()
    )
}

#[test]
fn containerd_has_one_table_per_version() {
    let cni = |version: &str, table: &str, keys: &str| format!("{version}\n[plugins.{table}.cni]\n{keys}");
    let (v2, v3) = ("\"io.containerd.grpc.v1.cri\"", "'io.containerd.cri.v1.runtime'");
    let keys = "bin_dir='/b'\nconf_dir='/c'";
    for version in ["", "version = 1"] {
        assert_eq!(shown_of(containerd, &[&cni(version, "cri", keys)]), "/c /b \"\"");
    }
    assert_eq!(shown_of(containerd, &[&cni("version = 2", v2, keys)]), "/c /b \"\"");
    assert_eq!(shown_of(containerd, &[&cni("version = 3", v3, keys)]), "/c /b \"\"");
    let several = "bin_dirs=['/a','/b']\nbin_dir=''";
    assert_eq!(shown_of(containerd, &[&cni("version = 3", v3, several)]), " /a:/b \"\"");
    assert_eq!(
        shown_of(containerd, &[&cni("version = 3", v2, keys)]),
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
        shown_of(containerd, &[text]),
        "  \"\" main:[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options.cni]bin_dir"
    );
}

#[test]
fn imports_of_containerd_replace_a_section() {
    let main = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.cni]\nbin_dir='/b'\nconf_dir='/c'";
    let other = "version = 2\n[plugins.other]\nx = 1";
    let import = "[plugins.'io.containerd.grpc.v1.cri'.cni]\nbin_dir='/d'";
    assert_eq!(shown_of(containerd, &[main, other]), "/c /b \"\"");
    assert_eq!(shown_of(containerd, &[main, import]), " /d \"\"");
}

#[test]
fn later_files_of_crio_take_precedence() {
    let main = "[crio.network]\nnetwork_dir='/c'\nplugin_dirs=['/a','/b']\ncni_default_network='cbr0'";
    let dropin = "[crio.network]\nplugin_dirs=['/d']\n[crio]\nnetwork_dir='/x'";
    assert_eq!(shown_of(crio, &[main]), "/c /a:/b \"cbr0\"");
    assert_eq!(shown_of(crio, &[main, dropin]), "/c /d \"cbr0\" second:[crio]network_dir");
}

#[test]
fn files_are_read_with_imports() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    assert_eq!(Runtime::containerd(&path("config.toml")), Ok(None));
    fs::create_dir(path("conf.d")).unwrap();
    // An import of itself must not be an endless loop.
    fs::write(path("config.toml"), "version = 2\nimports = ['conf.d/*.toml', 'config.toml']").unwrap();
    let section = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.cni]\nbin_dir='/b'";
    fs::write(path("conf.d/10-cni.toml"), section).unwrap();
    fs::write(path("conf.d/10-cni.toml.off"), "[").unwrap();
    let runtime = Runtime::containerd(&path("config.toml")).unwrap().unwrap();
    assert_eq!(runtime.plugins, [Path::new("/b")]);
    fs::write(path("conf.d/20.toml"), "[").unwrap();
    assert!(Runtime::containerd(&path("config.toml")).unwrap_err().contains("20.toml"));
    assert_eq!(Runtime::crio(&path("crio.conf")), Ok(None));
}
