//! An RPM package, format 4: a lead, a header of signatures, a header of facts, and a cpio archive.
//!
//! Written here because the crate for it brings fifty others, more than the rest of this program, for a format whose
//! writing half is small. The tests let rpm itself check, install, verify and remove what comes out.

mod header;

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::target::Target;
use super::tree::{Node, Tree};
use super::{Release, sha256};
use header::{Header, Region};

const SUMMARY: &str = "Network fabric for containers";
const DESCRIPTION: &str =
    "Every node of a cluster gets a subnet of one network, and every container reaches every
other container, on whatever node it runs. flanneld takes the subnet from etcd or a
directory and keeps routes, tunnels and firewall of the node right; flannel is the CNI
plugin that connects containers; flannelctl shows and changes what flannel knows.";

pub(crate) fn file_name(release: &Release, target: &Target) -> String {
    format!("flannel-{}.{}.rpm", release.full_version(), target.rpm)
}

pub(crate) fn build(release: &Release, target: &Target, tree: &Tree) -> Result<Vec<u8>> {
    let archive = cpio(tree, release.epoch)?;
    let payload = release.compression.gzip(&archive)?;
    let mut header = Header::default();
    facts(&mut header, release, target)?;
    scripts(&mut header);
    relations(&mut header, release);
    files(&mut header, release, tree)?;
    header.strings(tag::PAYLOADDIGEST, &[sha256(&payload)]);
    header.int32(tag::PAYLOADDIGESTALGO, &[SHA256]);
    header.strings(tag::PAYLOADDIGESTALT, &[sha256(&archive)]);
    let header = header.bytes(Region::Immutable)?;

    let mut signatures = Header::default();
    signatures.string(tag::SIG_SHA256, &sha256(&header));
    signatures.int32(tag::SIG_SIZE, &[number(header.len() + payload.len())?]);
    signatures.int32(tag::SIG_PAYLOADSIZE, &[number(archive.len())?]);
    let signatures = signatures.bytes(Region::Signatures)?;

    let mut package = lead(release);
    package.extend(&signatures);
    package.resize(package.len().next_multiple_of(8), 0);
    package.extend(header);
    package.extend(payload);
    Ok(package)
}

/// Tags of the headers, by the names of rpm.
mod tag {
    pub(super) const SIG_SHA256: u32 = 273;
    pub(super) const SIG_SIZE: u32 = 1000;
    pub(super) const SIG_PAYLOADSIZE: u32 = 1007;
    pub(super) const I18NTABLE: u32 = 100;
    pub(super) const NAME: u32 = 1000;
    pub(super) const VERSION: u32 = 1001;
    pub(super) const RELEASE: u32 = 1002;
    pub(super) const SUMMARY: u32 = 1004;
    pub(super) const DESCRIPTION: u32 = 1005;
    pub(super) const BUILDTIME: u32 = 1006;
    pub(super) const BUILDHOST: u32 = 1007;
    pub(super) const SIZE: u32 = 1009;
    pub(super) const LICENSE: u32 = 1014;
    pub(super) const GROUP: u32 = 1016;
    pub(super) const OS: u32 = 1021;
    pub(super) const ARCH: u32 = 1022;
    pub(super) const POSTIN: u32 = 1024;
    pub(super) const PREUN: u32 = 1025;
    pub(super) const POSTUN: u32 = 1026;
    pub(super) const FILESIZES: u32 = 1028;
    pub(super) const FILEMODES: u32 = 1030;
    pub(super) const FILERDEVS: u32 = 1033;
    pub(super) const FILEMTIMES: u32 = 1034;
    pub(super) const FILEDIGESTS: u32 = 1035;
    pub(super) const FILELINKTOS: u32 = 1036;
    pub(super) const FILEFLAGS: u32 = 1037;
    pub(super) const FILEUSERNAME: u32 = 1039;
    pub(super) const FILEGROUPNAME: u32 = 1040;
    pub(super) const SOURCERPM: u32 = 1044;
    pub(super) const FILEVERIFYFLAGS: u32 = 1045;
    pub(super) const PROVIDENAME: u32 = 1047;
    pub(super) const REQUIREFLAGS: u32 = 1048;
    pub(super) const REQUIRENAME: u32 = 1049;
    pub(super) const REQUIREVERSION: u32 = 1050;
    pub(super) const RPMVERSION: u32 = 1064;
    pub(super) const POSTINPROG: u32 = 1086;
    pub(super) const PREUNPROG: u32 = 1087;
    pub(super) const POSTUNPROG: u32 = 1088;
    pub(super) const FILEDEVICES: u32 = 1095;
    pub(super) const FILEINODES: u32 = 1096;
    pub(super) const FILELANGS: u32 = 1097;
    pub(super) const PROVIDEFLAGS: u32 = 1112;
    pub(super) const PROVIDEVERSION: u32 = 1113;
    pub(super) const DIRINDEXES: u32 = 1116;
    pub(super) const BASENAMES: u32 = 1117;
    pub(super) const DIRNAMES: u32 = 1118;
    pub(super) const PAYLOADFORMAT: u32 = 1124;
    pub(super) const PAYLOADCOMPRESSOR: u32 = 1125;
    pub(super) const PAYLOADFLAGS: u32 = 1126;
    pub(super) const FILEDIGESTALGO: u32 = 5011;
    pub(super) const RECOMMENDNAME: u32 = 5046;
    pub(super) const RECOMMENDVERSION: u32 = 5047;
    pub(super) const RECOMMENDFLAGS: u32 = 5048;
    pub(super) const ENCODING: u32 = 5062;
    pub(super) const PAYLOADDIGEST: u32 = 5092;
    pub(super) const PAYLOADDIGESTALGO: u32 = 5093;
    pub(super) const PAYLOADDIGESTALT: u32 = 5097;
}

/// The number of this digest in OpenPGP.
const SHA256: u32 = 8;

/// The first 96 bytes, by which old programs know a package. rpm reads the magic number alone.
fn lead(release: &Release) -> Vec<u8> {
    let mut lead = vec![0xed, 0xab, 0xee, 0xdb, 3, 0, 0, 0, 0, 1];
    lead.extend(format!("flannel-{}", release.full_version()).bytes().take(65));
    lead.resize(76, 0);
    // Linux, and signatures as a header.
    lead.extend([0, 1, 0, 5]);
    lead.resize(96, 0);
    lead
}

fn facts(header: &mut Header, release: &Release, target: &Target) -> Result<()> {
    header.strings(tag::I18NTABLE, &["C"]);
    header.string(tag::NAME, "flannel");
    header.string(tag::VERSION, &release.version);
    header.string(tag::RELEASE, &release.revision.to_string());
    header.translated(tag::SUMMARY, SUMMARY);
    header.translated(tag::DESCRIPTION, DESCRIPTION);
    header.int32(tag::BUILDTIME, &[time(release.epoch)?]);
    header.string(tag::BUILDHOST, "localhost");
    header.string(tag::LICENSE, "Apache-2.0");
    header.translated(tag::GROUP, "Unspecified");
    header.string(tag::OS, "linux");
    header.string(tag::ARCH, target.rpm);
    // What makes it a package of programs and not one of sources.
    header.string(tag::SOURCERPM, &format!("flannel-{}.src.rpm", release.full_version()));
    header.string(tag::RPMVERSION, "4.14.0");
    header.string(tag::ENCODING, "utf-8");
    header.string(tag::PAYLOADFORMAT, "cpio");
    header.string(tag::PAYLOADCOMPRESSOR, "gzip");
    header.string(tag::PAYLOADFLAGS, "9");
    Ok(())
}

fn scripts(header: &mut Header) {
    let scripts = [
        (tag::POSTIN, tag::POSTINPROG, include_str!("../../assets/package/rpm/post")),
        (tag::PREUN, tag::PREUNPROG, include_str!("../../assets/package/rpm/preun")),
        (tag::POSTUN, tag::POSTUNPROG, include_str!("../../assets/package/rpm/postun")),
    ];
    for (script, program, text) in scripts {
        header.string(script, text);
        header.string(program, "/bin/sh");
    }
}

fn relations(header: &mut Header, release: &Release) {
    const EQUAL: u32 = 1 << 3;
    const LESS_OR_EQUAL: u32 = EQUAL | 1 << 1;
    /// By a script after installation, before removal, after removal.
    const BY_SCRIPTS: u32 = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12;
    const OF_RPM_ITSELF: u32 = 1 << 24;
    header.strings(tag::PROVIDENAME, &["flannel"]);
    header.strings(tag::PROVIDEVERSION, &[release.full_version()]);
    header.int32(tag::PROVIDEFLAGS, &[EQUAL]);
    let required = [
        ("/bin/sh", "", BY_SCRIPTS),
        ("rpmlib(CompressedFileNames)", "3.0.4-1", OF_RPM_ITSELF | LESS_OR_EQUAL),
        ("rpmlib(FileDigests)", "4.6.0-1", OF_RPM_ITSELF | LESS_OR_EQUAL),
        ("rpmlib(PayloadFilesHavePrefix)", "4.0-1", OF_RPM_ITSELF | LESS_OR_EQUAL),
    ];
    header.strings(tag::REQUIRENAME, &required.map(|(name, _, _)| name));
    header.strings(tag::REQUIREVERSION, &required.map(|(_, version, _)| version));
    header.int32(tag::REQUIREFLAGS, &required.map(|(_, _, flags)| flags));
    header.strings(tag::RECOMMENDNAME, &["iptables"]);
    header.strings(tag::RECOMMENDVERSION, &[""]);
    header.int32(tag::RECOMMENDFLAGS, &[0]);
}

/// What the archive holds, and what the database will know of it.
fn files(header: &mut Header, release: &Release, tree: &Tree) -> Result<()> {
    const CONFIG: u32 = 1;
    const DOCUMENT: u32 = 1 << 1;
    const NO_REPLACE: u32 = 1 << 4;
    let packed: Vec<Packed<'_>> = packed(tree)?;
    let each = |of: &dyn Fn(&Packed<'_>) -> u32| packed.iter().map(of).collect::<Vec<u32>>();
    let text = |of: &dyn Fn(&Packed<'_>) -> String| packed.iter().map(of).collect::<Vec<String>>();

    let mut directories: BTreeMap<&str, u32> = BTreeMap::new();
    let mut names = Vec::new();
    for file in &packed {
        let next = number(directories.len())?;
        // Parents come before what they hold, but not one directory's files before the next's: so by order of
        // appearance, which the index of a new one is.
        let index = *directories.entry(file.directory).or_insert(next);
        if index == next {
            names.push(format!("/{}/", file.directory));
        }
    }
    header.strings(tag::BASENAMES, &text(&|file| file.name.to_owned()));
    header.strings(tag::DIRNAMES, &names);
    header.int32(tag::DIRINDEXES, &each(&|file| directories[file.directory]));
    header.int32(tag::FILESIZES, &each(&|file| file.size));
    header.int32(tag::SIZE, &[packed.iter().map(|file| file.size).sum()]);
    header.int16(tag::FILEMODES, &packed.iter().map(|file| file.mode).collect::<Vec<u16>>());
    header.int16(tag::FILERDEVS, &vec![0; packed.len()]);
    let mtime = time(release.epoch)?;
    header.int32(tag::FILEMTIMES, &each(&|_| mtime));
    header.strings(tag::FILEDIGESTS, &text(&|file| file.content.map(sha256).unwrap_or_default()));
    header.int32(tag::FILEDIGESTALGO, &[SHA256]);
    header.strings(tag::FILELINKTOS, &text(&|file| file.link.unwrap_or_default().to_owned()));
    header.int32(
        tag::FILEFLAGS,
        &each(&|file| match file.directory {
            _ if file.config => CONFIG | NO_REPLACE,
            directory if directory.starts_with("usr/share/doc") => DOCUMENT,
            directory if directory.starts_with("usr/share/man") => DOCUMENT,
            _ => 0,
        }),
    );
    header.strings(tag::FILEUSERNAME, &text(&|_| "root".to_owned()));
    header.strings(tag::FILEGROUPNAME, &text(&|_| "root".to_owned()));
    header.int32(tag::FILEVERIFYFLAGS, &each(&|_| u32::MAX));
    header.int32(tag::FILEDEVICES, &each(&|_| 1));
    header.int32(tag::FILEINODES, &each(&|file| file.inode));
    header.strings(tag::FILELANGS, &text(&|_| String::new()));
    Ok(())
}

/// A file as the package describes it.
struct Packed<'a> {
    path: &'a str,
    /// Without a leading slash.
    directory: &'a str,
    name: &'a str,
    /// With the kind of the file.
    mode: u16,
    size: u32,
    content: Option<&'a [u8]>,
    link: Option<&'a str>,
    config: bool,
    inode: u32,
}

const DIRECTORY: u16 = 0o040_000;
const REGULAR: u16 = 0o100_000;
const SYMLINK: u16 = 0o120_000;

/// The entries that the package owns: directories that other packages bring, too, are left out.
fn packed(tree: &Tree) -> Result<Vec<Packed<'_>>> {
    let mut packed = Vec::new();
    for (path, entry) in tree.entries() {
        let (kind, size, content, link) = match &entry.node {
            Node::Directory if path.contains("flannel") => (DIRECTORY, 0, None, None),
            Node::Directory => continue,
            Node::File(content) => (REGULAR, content.len(), Some(content.as_slice()), None),
            Node::Link(to) => (SYMLINK, to.len(), None, Some(to.as_str())),
        };
        let (directory, name) =
            path.rsplit_once('/').with_context(|| format!("{path} is in no directory"))?;
        packed.push(Packed {
            path,
            directory,
            name,
            mode: kind | entry.mode,
            size: number(size)?,
            content,
            link,
            config: entry.config,
            inode: number(packed.len() + 1)?,
        });
    }
    Ok(packed)
}

/// The archive: cpio in its `newc` form.
fn cpio(tree: &Tree, epoch: u64) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    for file in packed(tree)? {
        let content = file.content.or(file.link.map(str::as_bytes)).unwrap_or_default();
        entry(&mut archive, &format!("./{}", file.path), file.mode, file.inode, time(epoch)?, content)?;
    }
    entry(&mut archive, "TRAILER!!!", 0, 0, 0, &[])?;
    Ok(archive)
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u16, inode: u32, mtime: u32, content: &[u8]) -> Result<()> {
    let links = 1;
    let (size, name_size) = (number(content.len())?, number(name.len() + 1)?);
    // Inode, mode, owner, group, links, time, size, device and represented device in two halves each, size of the name,
    // checksum: all in hexadecimal digits.
    let fields = [inode, u32::from(mode), 0, 0, links, mtime, size, 0, 0, 0, 0, name_size, 0];
    let mut head = String::from("070701");
    for field in fields {
        // Writing to a String cannot fail.
        let _ = write!(head, "{field:08x}");
    }
    archive.extend(head.bytes().chain(name.bytes()).chain([0]));
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
    Ok(())
}

fn number(size: usize) -> Result<u32> {
    u32::try_from(size).context("too large for a package")
}

fn time(epoch: u64) -> Result<u32> {
    u32::try_from(epoch).with_context(|| format!("a package cannot be dated {epoch} seconds after 1970"))
}
