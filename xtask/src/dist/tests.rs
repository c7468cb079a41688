use super::compile::{Programs, static_program};
use super::layout::{Contents, DEBIAN, FEDORA, image, package, tarball};
use super::pages::Pages;
use super::sbom::timestamp;
use super::target::TARGETS;
use super::tree::{Node, Tree};
use super::*;
use std::collections::BTreeMap;

fn release(epoch: u64) -> Release {
    let compression = Compression::of(Profile::Dev);
    Release {
        version: "1.2.3".to_owned(),
        revision: 1,
        epoch,
        compression,
        image: "example.org/net/flannel".to_owned(),
    }
}

/// Returns the files of a package, with programs of odd lengths.
fn tree(of: impl Fn(&Contents<'_>) -> Result<Tree>) -> Tree {
    let programs = Programs { flanneld: vec![1; 1001], flannelctl: vec![2; 502], flannel: vec![3; 303] };
    let pages = Pages {
        manual: BTreeMap::from([("flanneld.8".to_owned(), b".TH flanneld 8\n".to_vec())]),
        completions: BTreeMap::from([("bash", b"# bash\n".to_vec())]),
    };
    of(&Contents { programs: &programs, pages: &pages, notices: "notices" }).unwrap()
}

/// Returns all artefacts except the bill of materials and the RPM; an end-to-end test checks the RPM.
fn artefacts(epoch: u64) -> Vec<Vec<u8>> {
    let release = release(epoch);
    let target = &TARGETS[0];
    let tar = |tree: &Tree| archive::tar(tree, epoch).unwrap();
    let layers = [tar(&tree(|contents| image(contents.programs)))];
    let platform = image::Platform { target, layers: layers.iter().map(Vec::as_slice).collect() };
    let mut artefacts = vec![
        deb::build(&release, target, &tree(|contents| package(contents, DEBIAN))).unwrap(),
        tar(&tree(tarball).below("flannel")),
        image::build(&release, "1.2.3", &[platform]).unwrap(),
    ];
    let files = kubernetes::files(&release).unwrap().into_iter();
    artefacts.extend(files.filter(|(name, _)| name.ends_with(".tgz")).map(|(_, content)| content));
    artefacts
}

#[test]
fn builds_are_reproducible() {
    let first = artefacts(1_700_000_000);
    assert_eq!(first, artefacts(1_700_000_000));
    for (one, other) in first.iter().zip(artefacts(1_700_000_001)) {
        assert_ne!(*one, other, "the date of the sources is nowhere");
    }
}

#[test]
fn debian_package_states_its_architecture() {
    for (target, name) in [(&TARGETS[0], "amd64"), (&TARGETS[1], "arm64")] {
        let control = deb::control(&release(0), target, &Tree::default()).unwrap();
        let (_, control) = control.entries().find(|(path, _)| *path == "control").unwrap();
        let text = String::from_utf8_lossy(control.content());
        assert!(text.contains(&format!("\nArchitecture: {name}\n")), "{text}");
    }
}

/// The package of the reference plugins owns their names in the usual directory.
#[test]
fn reference_plugins_are_in_a_separate_directory() {
    for (distribution, plugins) in [(DEBIAN, "usr/lib/cni/"), (FEDORA, "usr/libexec/cni/")] {
        let tree = tree(|contents| package(contents, distribution));
        for directory in [plugins, "opt/cni/bin/"] {
            let names: Vec<&str> =
                tree.entries().filter_map(|(path, _)| path.strip_prefix(directory)).collect();
            assert_eq!(names, ["flannel"], "in {directory}");
        }
    }
}

#[test]
fn docker_script_is_a_name_of_flannelctl() {
    for (tree, path, to) in [
        (tree(|contents| package(contents, DEBIAN)), "usr/bin/mk-docker-opts.sh", "/usr/bin/flannelctl"),
        (
            tree(|contents| package(contents, FEDORA)),
            "usr/libexec/flannel/mk-docker-opts.sh",
            "/usr/bin/flannelctl",
        ),
        (tree(tarball), "mk-docker-opts.sh", "flannelctl"),
        (tree(|contents| image(contents.programs)), "opt/bin/mk-docker-opts.sh", "flannelctl"),
    ] {
        let link = tree.entries().find(|(found, _)| *found == path);
        assert!(
            link.is_some_and(|(_, entry)| matches!(&entry.node, Node::Link(target) if target == to)),
            "{path}"
        );
    }
}

#[test]
fn image_lists_each_platform() {
    let layers = [[[0; 512], [1; 512]], [[2; 512], [3; 512]]];
    let platforms: Vec<_> = TARGETS
        .iter()
        .zip(&layers)
        .map(|(target, [programs, iptables])| image::Platform { target, layers: vec![programs, iptables] })
        .collect();
    let built = image::build(&release(0), "1.2.3", &platforms).unwrap();
    let text = String::from_utf8_lossy(&built);
    assert!(text.contains(r#""io.containerd.image.name":"example.org/net/flannel:1.2.3""#), "{text}");
    for target in &TARGETS {
        let platform = format!(r#""platform":{{"architecture":"{}","os":"linux"}}"#, target.debian);
        assert!(text.contains(&platform), "{platform}");
    }
}

/// Every image in the files is that of the release, and so is the version of the chart.
#[test]
fn files_for_kubernetes_name_the_image_of_the_release() {
    let files = kubernetes::files(&release(0)).unwrap();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["kube-flannel.yml", "flannel-cleanup.yml", "flannel-1.2.3.tgz"]);
    for (name, content) in &files {
        let text = match name.strip_suffix(".tgz") {
            Some(_) => {
                let mut text = String::new();
                std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&content[..]), &mut text)
                    .unwrap();
                assert!(text.contains("\nversion: 1.2.3\nappVersion: 1.2.3\n"), "{text}");
                assert!(text.contains("repository: example.org/net/flannel\n"), "{text}");
                assert!(text.contains("flannel/templates/daemonset.yaml"), "{text}");
                text
            }
            None => {
                let text = String::from_utf8(content.clone()).unwrap();
                let images: Vec<&str> =
                    text.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
                assert!(!images.is_empty());
                assert!(images.iter().all(|image| *image == "example.org/net/flannel:1.2.3"), "{images:?}");
                text
            }
        };
        assert!(!text.contains("localhost/flannel") && !text.contains("0.1.0"), "{text}");
    }
}

#[test]
fn large_images_are_rejected() {
    expect_size("without iptables", SLIM_MIB << 20, SLIM_MIB).unwrap();
    let error = expect_size("without iptables", (SLIM_MIB << 20) + (1 << 19), SLIM_MIB).unwrap_err();
    assert_eq!(error.to_string(), "the image without iptables is too large: 18.5 MiB, more than 18");
}

#[test]
fn duplicate_paths_are_rejected() {
    let mut tree = Tree::default();
    tree.file("a/b", "1").unwrap();
    assert_eq!(tree.file("a/b", "2").unwrap_err().to_string(), "duplicate path a/b");
}

#[test]
fn dynamic_programs_are_detected() {
    let error = static_program(&std::env::current_exe().unwrap()).unwrap_err();
    assert!(error.to_string().ends_with("is not statically linked"), "{error}");
    assert!(static_program(Path::new(file!())).is_err());
}

#[test]
fn timestamps_are_formatted_as_in_rfc_3339() {
    for (epoch, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (1_709_251_199, "2024-02-29T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
    ] {
        assert_eq!(timestamp(epoch).unwrap(), text);
    }
}

#[test]
fn unknown_targets_are_rejected_with_the_supported_ones() {
    let error = target::chosen(&["mips-unknown-linux-gnu".to_owned()], Profile::Release).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unsupported target mips-unknown-linux-gnu, supported are x86_64-unknown-linux-gnu and aarch64-unknown-linux-gnu"
    );
}
