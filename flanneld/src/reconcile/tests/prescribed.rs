//! Public addresses that the store prescribes for this node.

use super::*;
use std::net::Ipv4Addr;

fn prescribe(public_ip: Option<[u8; 4]>) -> Change {
    let prescribed = Prescribed { public_ip: public_ip.map(Ipv4Addr::from), public_ipv6: None };
    Change::Own(OwnNode { prescribed, ..OwnNode::default() })
}

async fn published(lab: &mut Lab, address: &str) {
    let has_address = |wanted: &Option<Wanted>| {
        wanted.as_ref().is_some_and(|wanted| wanted.attrs.public_ip == address.parse().ok())
    };
    lab.attrs.wait_for(has_address).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn prescribed_addresses_are_applied_live() {
    let mut lab = Lab::settled().await;
    published(&mut lab, "192.168.50.1").await;
    let started = Instant::now();
    lab.change(vec![prescribe(Some([203, 0, 113, 7]))]).await;
    published(&mut lab, "203.0.113.7").await;
    lab.memory.wait_for(|memory| memory.prescribed.is_some_and(|it| it.public_ip.is_some())).await.unwrap();
    // An unreadable one changes nothing, and is reported.
    let fault = Some("it is no address".to_owned());
    lab.change(vec![Change::Own(OwnNode { fault, ..OwnNode::default() })]).await;
    lab.report.wait_for(|report| report.conditions.contains_key(id::PRESCRIBED)).await.unwrap();
    published(&mut lab, "203.0.113.7").await;
    // Without one, the flag or the interface counts again.
    lab.change(vec![prescribe(None)]).await;
    published(&mut lab, "192.168.50.1").await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(!lab.report.borrow().conditions.contains_key(id::PRESCRIBED));
    lab.end().await;
}
