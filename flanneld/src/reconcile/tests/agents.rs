//! The agent of a backend, from desired state to restart.

use super::*;
use crate::testing::agent::FakeAgents;

/// A loop that owns 10.42.1.0/24 and has two peers, and its agent.
async fn settled() -> (Lab, FakeAgents) {
    let agents = FakeAgents::default();
    let mut lab = Lab::start_with(&FakeKernel::new(contract::host()), CONFIG, &[], agents.factory());
    lab.list(&[own(), peer(2), peer(3)]).await;
    lab.quiet().await;
    assert!(agents.state().starts.is_empty(), "no lease, no agent");
    lab.hold("10.42.1.0-24");
    lab.quiet().await;
    assert_eq!(peers(&agents), ["10.42.2.0-24", "10.42.3.0-24"]);
    assert!(lab.report.borrow().converged && lab.history.borrow().failing.is_empty());
    (lab, agents)
}

fn peers(agents: &FakeAgents) -> Vec<String> {
    agents.state().peers.iter().cloned().collect()
}

fn condition(lab: &Lab) -> Option<String> {
    lab.report.borrow().conditions.get("agent").cloned()
}

#[tokio::test(start_paused = true)]
async fn an_agent_follows_the_leases() {
    let (mut lab, agents) = settled().await;
    lab.kernel.fail_observations(1000);
    lab.change(vec![Change::Put(peer(4)), delete("10.42.2.0-24")]).await;
    lab.until_grace_ends().await;
    assert_eq!(peers(&agents), ["10.42.3.0-24", "10.42.4.0-24"], "without a full round");
    let mut faulty = peer(5);
    faulty.value =
        br#"{"PublicIP":"192.168.50.5","BackendType":"vxlan","BackendData":{"VtepMAC":"x"}}"#.to_vec();
    lab.change(vec![Change::Put(faulty)]).await;
    lab.quiet().await;
    assert_eq!(peers(&agents).len(), 2, "a faulty lease is no peer");
    assert_eq!(agents.state().starts.len(), 1);
    let counted = lab.history.borrow().ops[flannel_core::status::Kind::Agent as usize];
    assert_eq!(counted, [[4, 0], [2, 0]], "start and three peers; two removals");
    lab.end().await;
    assert!(!agents.state().is_running, "it ends with the loop");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_ends_is_reported_and_restarted_with_growing_delays() {
    let (mut lab, agents) = settled().await;
    let first = agents.state().starts.len();
    agents.state().fail_starts = 5;
    agents.crash();
    lab.report.wait_for(|report| report.conditions.contains_key("agent")).await.unwrap();
    assert!(condition(&lab).unwrap().contains("crashed"), "{:?}", condition(&lab));
    lab.report
        .wait_for(|report| report.conditions.get("agent").is_some_and(|it| it.contains("no device")))
        .await
        .unwrap();
    assert!(!lab.report.borrow().converged, "every peer depends on it");
    assert_eq!(lab.history.borrow().failing, ["agent start vxlan"]);
    // Meanwhile the kernel follows the leases, and the next agent gets all of them.
    lab.change(vec![Change::Put(peer(4))]).await;
    lab.until("the new peer is in the kernel", |plane| routes(plane).contains(&"10.42.4.0/24".to_owned()))
        .await;
    lab.report.wait_for(|report| report.converged).await.unwrap();
    assert_eq!(condition(&lab), None);
    assert_eq!(peers(&agents), ["10.42.2.0-24", "10.42.3.0-24", "10.42.4.0-24"]);
    let starts = agents.state().starts[first..].to_vec();
    assert_eq!(starts.len(), 6, "five failures and a success");
    let delays: Vec<Duration> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(delays[0] >= Duration::from_millis(250), "{delays:?}");
    assert!(delays[4] > delays[0] * 3 && delays[4] < Duration::from_secs(45), "{delays:?}");
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_an_agent_refuses_is_a_failing_operation() {
    let (mut lab, agents) = settled().await;
    agents.state().refused.insert("10.42.4.0-24".to_owned());
    lab.change(vec![Change::Put(peer(4)), Change::Put(peer(5))]).await;
    lab.quiet().await;
    assert_eq!(lab.history.borrow().failing, ["agent peer replace 10.42.4.0-24"]);
    assert_eq!(peers(&agents), ["10.42.2.0-24", "10.42.3.0-24", "10.42.5.0-24"]);
    assert_eq!(condition(&lab), None, "the agent itself works");
    agents.state().refused.clear();
    lab.history.wait_for(|history| history.failing.is_empty()).await.unwrap();
    assert_eq!(peers(&agents).len(), 4);
    // The same for one that leaves while it is refused.
    agents.state().refused.insert("10.42.6.0-24".to_owned());
    lab.change(vec![Change::Put(peer(6))]).await;
    lab.quiet().await;
    lab.change(vec![delete("10.42.6.0-24")]).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(lab.history.borrow().failing.is_empty() && lab.report.borrow().converged);
    lab.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_stopped_when_the_backend_changes() {
    let (mut lab, agents) = settled().await;
    let text = r#"{"Network":"10.43.0.0/16","Backend":{"Type":"host-gw"}}"#;
    let config = ConfigRecord { text: text.to_owned(), revision: Revision::new(99) };
    lab.change(vec![Change::Config(Some(config))]).await;
    lab.quiet().await;
    assert!(agents.state().is_running, "pods run: the config waits");
    // The subnet is lost, and the new one is from the new config.
    lab.hold("10.43.1.0-24");
    lab.quiet().await;
    assert!(!agents.state().is_running);
    assert_eq!((agents.state().starts.len(), condition(&lab)), (1, None));
    lab.end().await;
}
