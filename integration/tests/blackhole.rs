//! `--ip-blackhole-route`.

use anyhow::ensure;
use integration::directory::all_reach;
use integration::traffic::Datagrams;
use integration::{Flanneld, LeaseDirectory, Stack, lab, wait};
use std::time::Duration;

/// Packets to pods that do not exist are dropped instead of following the default route; those to pods that do exist
/// are not.
#[test]
fn blackhole_route_drops_packets_to_missing_pods() {
    lab(|lab| {
        let cluster = lab.cluster(2)?;
        let leases = LeaseDirectory::new(lab, &Stack::Dual.config(r#"{"Type":"host-gw"}"#))?;
        let flanneld = Flanneld::on_directory(leases.path()).argument("--ip-blackhole-route");
        let mut daemons = cluster.start_all(&flanneld)?;
        let n1 = &cluster.nodes[0];
        for v4 in [true, false] {
            let (family, metric) = if v4 { ("-4", u32::MAX) } else { ("-6", 1024) };
            let subnet = n1.subnet(v4)?;
            wait::until("the blackhole is there", wait::LONG, || {
                let routes = n1.netns().ip(&format!("{family} route show type blackhole {subnet}"))?;
                let dev = if v4 { "" } else { "dev lo " };
                let wanted = format!("blackhole {subnet} {dev}proto 241 metric {metric}");
                ensure!(routes.trim().starts_with(&wanted), "{routes} is not {wanted}");
                Ok(())
            })?;
        }
        let pods = cluster.pods("a")?;
        all_reach(&pods, Stack::Dual)?;
        let flow = Datagrams::start(
            &pods[0].netns,
            &pods[1].netns,
            pods[1].address(true)?,
            Duration::from_millis(2),
        )?;
        for v4 in [true, false] {
            let (family, subnet) = (if v4 { "-4" } else { "-6" }, n1.subnet(v4)?);
            let delete =
                format!("{family} route del blackhole {subnet} metric {}", if v4 { u32::MAX } else { 1024 });
            n1.netns().ip(&delete)?;
            wait::until("the blackhole is there again", wait::LONG, || {
                let routes = n1.netns().ip(&format!("{family} route show type blackhole {subnet}"))?;
                ensure!(!routes.trim().is_empty(), "no route");
                Ok(())
            })?;
        }
        flow.wait_answered(20)?;
        flow.stop()?.expect_none_lost()?;

        daemons[0].stop()?;
        daemons[0].set_flanneld(Flanneld::on_directory(leases.path()));
        daemons[0].start()?;
        daemons[0].wait_ready()?;
        wait::until("the blackholes are gone with the flag", wait::LONG, || {
            for family in ["-4", "-6"] {
                let routes = n1.netns().ip(&format!("{family} route show type blackhole"))?;
                ensure!(routes.trim().is_empty(), "{routes}");
            }
            Ok(())
        })
    });
}
