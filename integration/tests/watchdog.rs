//! What the service manager is told, and the watchdog that it keeps: as systemd would see it, from a socket of ours.

use anyhow::{Context, Result, bail, ensure};
use integration::{Feature, Flanneld, lab};
use std::fs;
use std::io::Read as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// Of the watchdog; the daemon speaks twice as often.
const LIMIT: Duration = Duration::from_millis(1000);
const ALIVE: &str = "WATCHDOG=1";

/// The service manager.
struct Manager(UnixDatagram);

impl Manager {
    /// The next message, or `None` if none comes within `limit`.
    fn next(&self, limit: Duration) -> Result<Option<String>> {
        self.0.set_read_timeout(Some(limit)).context("could not set a time limit")?;
        let mut buffer = [0; 1024];
        match self.0.recv(&mut buffer) {
            Ok(length) => Ok(Some(String::from_utf8_lossy(&buffer[..length]).into_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("could not hear from the daemon"),
        }
    }

    /// Waits for a message.
    fn find(&self, wanted: &str) -> Result<()> {
        let mut heard = Vec::new();
        while let Some(message) = self.next(Duration::from_secs(30))? {
            if message.starts_with(wanted) {
                return Ok(());
            }
            heard.push(message);
        }
        bail!("no {wanted}, but {heard:?}")
    }

    /// How many signs of life come within `span`.
    fn signs(&self, span: Duration) -> Result<usize> {
        let (end, mut count) = (Instant::now() + span, 0);
        while let Some(rest) = end.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
            count += usize::from(self.next(rest)?.as_deref() == Some(ALIVE));
        }
        Ok(count)
    }
}

#[test]
fn pings_are_sent_in_time_and_stop_when_the_loop_hangs() {
    lab(|lab| {
        lab.require(&[Feature::Vxlan, Feature::Nft])?;
        let cluster = lab.cluster(1)?;
        let node = &cluster.nodes[0];
        let leases = lab.directory("directory/leases")?;
        let config = r#"{"Network":"10.42.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;
        fs::write(leases.join("config"), config).context("could not write the network config")?;
        let address = SocketAddr::from_abstract_name("manager").context("not a name of a socket")?;
        let manager = Manager(node.netns().enter(|| {
            UnixDatagram::bind_addr(&address).context("could not open the socket of the service manager")
        })?);
        let flanneld = Flanneld::on_directory(&leases)
            .environment("NOTIFY_SOCKET", "@manager")
            .environment("WATCHDOG_USEC", &LIMIT.as_micros().to_string());
        let mut daemon = node.start(&flanneld)?;
        manager.find("STATUS=")?;
        manager.find("READY=1")?;
        let expected = 6;
        let signs = manager.signs(LIMIT / 2 * expected)?;
        ensure!(signs.abs_diff(expected as usize) <= 1, "{signs} signs of life instead of {expected}");

        // A setting of the kernel whose writer waits until somebody reads it.
        let netns = node.netns();
        netns.run("mount -t tmpfs tmpfs /proc/sys/net/ipv6/conf")?;
        netns.run("mkdir /proc/sys/net/ipv6/conf/flannel.1")?;
        netns.run("mkfifo /proc/sys/net/ipv6/conf/flannel.1/accept_ra")?;
        netns.ip("link del flannel.1")?;
        // It takes a moment to get there.
        while manager.next(LIMIT)?.is_some() {}
        let signs = manager.signs(LIMIT * 2)?;
        ensure!(signs == 0, "{signs} signs of life of a loop that hangs");
        ensure!(daemon.running()?, "the daemon has ended");

        let mut written = String::new();
        netns.enter(|| {
            let mut setting = fs::File::open("/proc/sys/net/ipv6/conf/flannel.1/accept_ra")
                .context("could not open the setting")?;
            setting.read_to_string(&mut written).context("could not read the setting")
        })?;
        ensure!(written == "0", "{written}");
        netns.run("umount /proc/sys/net/ipv6/conf")?;
        manager.find(ALIVE)?;
        daemon.stop()?;
        manager.find("STOPPING=1")
    });
}
