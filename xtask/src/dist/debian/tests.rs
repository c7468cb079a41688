use super::{installed, is_wanted, resolve};

#[test]
fn packages_of_a_simulation() {
    let plan = "Reading package lists...\n\
        Inst gcc-12-base (12.2.0-14+deb12u1 Debian:12.14/oldstable [arm64]) []\n\
        Inst libc6:arm64 (2:2.36-9 Debian:12.14/oldstable [arm64])\n\
        Conf iptables (1.8.9-2 Debian:12.14/oldstable [arm64])\n";
    let expected = [("gcc-12-base", "12.2.0-14+deb12u1"), ("libc6", "2:2.36-9")];
    assert_eq!(installed(plan), expected.map(|(name, version)| (name.to_owned(), version.to_owned())));
}

#[test]
fn programs_and_extensions_are_selected() {
    for (path, expected) in [
        ("usr/sbin/iptables-nft", true),
        ("usr/sbin/ip6tables-legacy-restore", true),
        ("usr/sbin/iptables-nft-save", true),
        ("usr/sbin/iptables-restore-translate", false),
        ("usr/sbin/arptables-nft", false),
        ("usr/sbin/iptables-apply", false),
        ("usr/lib/x86_64-linux-gnu/xtables/libxt_comment.so", true),
        ("usr/lib/x86_64-linux-gnu/xtables/libebt_arp.so", false),
        ("usr/share/xtables/iptables.xslt", false),
    ] {
        assert_eq!(is_wanted(path), expected, "{path}");
    }
}

#[test]
fn links_are_resolved() {
    for (link, to, expected) in [
        ("usr/sbin/iptables-nft", "xtables-nft-multi", "usr/sbin/xtables-nft-multi"),
        ("lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/ld.so", "lib/x86_64-linux-gnu/ld.so"),
        ("usr/lib/a/b.so", "../c.so", "usr/lib/c.so"),
    ] {
        assert_eq!(resolve(link, to), expected);
    }
}
