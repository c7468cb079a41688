//! Objects of other programs are in the way.

use super::*;

/// A VXLAN device of another program, with the VNI and the port of ours.
fn add_other(plane: &mut Dataplane) {
    let link = flannel_core::dataplane::Link { alias: None, ..contract::vxlan() };
    plane.links.insert(contract::name("vx"), link);
}

fn remove(plane: &mut Dataplane, link: &str) {
    plane.links.remove(&contract::name(link));
    plane.routes.retain(|_, route| route.target.link() != Some(&contract::name(link)));
}

fn obstacle(report: &Report) -> Option<&String> {
    report.conditions.get(id::OBSTACLE)
}

#[tokio::test(start_paused = true)]
async fn pods_wait_for_the_first_tunnel_device() {
    let mut host = contract::host();
    add_other(&mut host);
    let kernel = FakeKernel::new(host);
    let mut lab = Lab::start(&kernel, CONFIG, &[]);
    lab.list(&[own(), peer(2)]).await;
    lab.hold("10.42.1.0-24");
    let report = lab.report.wait_for(|report| obstacle(report).is_some()).await.unwrap().clone();
    let text = "the interface vx has VNI 1 and UDP port 8472, which flannel.1 needs: run `ip link del vx`";
    assert_eq!(obstacle(&report).unwrap(), text);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(lab.env.borrow().is_none(), "pods would start without a tunnel device");
    assert!(kernel.dataplane().links.contains_key(&contract::name("vx")), "it is not ours to remove");
    let removed = Instant::now();
    kernel.meddle(|plane| remove(plane, "vx"));
    lab.env.wait_for(Option::is_some).await.unwrap();
    assert!(removed.elapsed() < Duration::from_secs(1), "no retry may be needed");
    lab.report.wait_for(|report| report.converged && obstacle(report).is_none()).await.unwrap();

    // A device that is lost later takes nothing back from pods.
    kernel.meddle(|plane| {
        remove(plane, "flannel.1");
        add_other(plane);
    });
    lab.report.wait_for(|report| obstacle(report).is_some()).await.unwrap();
    assert!(lab.env.borrow().is_some());
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_lease_waits_for_its_device_again() {
    let mut lab = Lab::settled().await;
    lab.kernel.meddle(|plane| {
        remove(plane, "flannel.1");
        add_other(plane);
    });
    lab.report.wait_for(|report| obstacle(report).is_some()).await.unwrap();
    let before = lab.env.borrow().unwrap().to_string();
    lab.hold("10.42.7.0-24");
    lab.quiet().await;
    assert_eq!(lab.env.borrow().unwrap().to_string(), before);
    lab.kernel.meddle(|plane| remove(plane, "vx"));
    lab.env.wait_for(|env| env.is_some_and(|env| env.to_string().contains("10.42.7.1/24"))).await.unwrap();
    lab.end().await;
}
