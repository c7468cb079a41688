//! Contract of the firewalls: the same cases on the fake and, in a network namespace of their own, on the kernel.

use flannel_core::family::{DualStack, Family};
use flannel_core::lease::Subnets;
use flannel_core::ruleset::{Inputs, Mode, Ruleset, iptables, nft};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::{Desired, Firewall, FirewallError, FirewallStatus, Iptables, Nft, Tools, bridge, run};
use crate::exec::Program;
use crate::host::sysctl::Sysctl;
use crate::testing::contract::in_namespace;
use crate::testing::firewall::FakeHost;

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn inputs(v4: bool, v6: bool) -> Inputs {
    Inputs {
        cluster: DualStack {
            v4: v4.then(|| "10.42.0.0/16".parse().unwrap()),
            v6: v6.then(|| "fd00:10:244::/56".parse().unwrap()),
        },
        subnet: Subnets {
            v4: v4.then(|| "10.42.1.0/24".parse().unwrap()),
            v6: v6.then(|| "fd00:10:244:1::/64".parse().unwrap()),
        },
        ip_masq: true,
        fully_random: true,
        forward_rules: true,
    }
}

pub(crate) fn rules(v4: bool, v6: bool) -> Ruleset {
    Ruleset::new(&inputs(v4, v6))
}

async fn tool(line: &str) -> String {
    let mut words = line.split(' ');
    let program = Program::new(words.next().unwrap(), LIMIT);
    words.fold(program, Program::argument).run().await.unwrap()
}

async fn nft_file(script: &str) {
    let program = Program::new("nft", LIMIT).argument("-f").argument("-").stdin(script);
    program.run().await.unwrap();
}

async fn restore(family: Family, payload: &str) {
    let name = if family == Family::V4 { "iptables-restore" } else { "ip6tables-restore" };
    Program::new(name, LIMIT).argument("--noflush").stdin(payload).run().await.unwrap();
}

/// The rules of iptables without what changes by itself.
async fn save(program: &str) -> String {
    let text = tool(program).await;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split(" [").next().unwrap_or(line).to_owned() + "\n").collect()
}

async fn keeps_the_contract(mut firewall: impl Firewall) {
    let off = |ip_masq, forward_rules| {
        Ruleset::new(&Inputs { ip_masq, forward_rules, fully_random: false, ..inputs(true, true) })
    };
    let mut moved = inputs(true, true);
    moved.subnet.v4 = Some("10.42.7.0/24".parse().unwrap());
    let mut wide = inputs(true, true);
    wide.cluster.v4 = Some("0.0.0.0/0".parse().unwrap());
    wide.cluster.v6 = Some("::/0".parse().unwrap());
    let mut narrow = inputs(true, true);
    narrow.cluster.v4 = Some("10.42.0.0/19".parse().unwrap());
    narrow.subnet.v4 = Some("10.42.1.1/32".parse().unwrap());
    narrow.subnet.v6 = Some("fd00:10:244::1/128".parse().unwrap());
    let steps = [
        Ruleset::default(),
        rules(true, false),
        rules(true, true),
        rules(true, true).without_fully_random(Family::V6),
        Ruleset::new(&moved),
        Ruleset::new(&wide),
        Ruleset::new(&narrow),
        off(true, false),
        off(false, true),
        rules(false, true),
        Ruleset::default(),
    ];
    assert!(firewall.verify(&Ruleset::default()).await.unwrap());
    let mut last = Ruleset::default();
    for step in steps {
        assert_eq!(firewall.verify(&step).await.unwrap(), step == last, "before:\n{step}");
        for _ in 0..2 {
            firewall.replace(&step).await.unwrap();
            assert!(firewall.verify(&step).await.unwrap(), "after:\n{step}");
        }
        last = step;
    }
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    for mode in [Mode::Nftables, Mode::Iptables] {
        keeps_the_contract(FakeHost::default().firewall(mode)).await;
    }
}

#[test]
#[ignore = "needs netns"]
fn nftables_keeps_the_contract() {
    in_namespace(|| keeps_the_contract(Nft::default()));
}

#[test]
#[ignore = "needs netns"]
fn iptables_keeps_the_contract() {
    in_namespace(|| keeps_the_contract(Iptables::new(Tools { stem: "tables-nft", lock_file: None })));
}

#[test]
#[ignore = "needs netns"]
fn legacy_iptables_keeps_the_contract() {
    in_namespace(|| async {
        let directory = tempfile::tempdir().unwrap();
        // The usual lock is one file for all namespaces.
        let lock_file = Some(directory.path().join("lock"));
        let mut firewall = Iptables::new(Tools { stem: "tables-legacy", lock_file });
        assert_eq!(firewall.generation().await, None, "legacy iptables tells nobody of changes");
        keeps_the_contract(firewall).await;
    });
}

const FOREIGN_TABLE: &str = "table inet mine {\n\tchain postrtg {\n\t\ttype filter hook forward priority filter; policy accept;\n\t\tip saddr 10.9.0.0/16 drop\n\t}\n}\n";

#[test]
#[ignore = "needs netns"]
fn nft_shows_the_tables_as_specified() {
    in_namespace(|| async {
        nft_file(FOREIGN_TABLE).await;
        let mut firewall = Nft::default();
        for ruleset in
            [rules(true, true), rules(true, false), rules(true, true).without_fully_random(Family::V4)]
        {
            firewall.replace(&ruleset).await.unwrap();
            let shown = tool("nft list ruleset").await;
            let mut tables: Vec<&str> = shown.split_inclusive("\n}\n").collect();
            // The order of tables is that of their making.
            tables.sort_unstable();
            assert_eq!(tables.concat(), format!("{FOREIGN_TABLE}{}", nft::listing(&ruleset)));
        }
        // The rules sent by netlink equal those that nft reads from the listing.
        let ruleset = rules(true, true);
        firewall.replace(&Ruleset::default()).await.unwrap();
        nft_file(&nft::listing(&ruleset)).await;
        assert!(firewall.verify(&ruleset).await.unwrap());
        firewall.replace(&Ruleset::default()).await.unwrap();
        assert_eq!(tool("nft list ruleset").await, FOREIGN_TABLE);
    });
}

/// Rules of the Go daemon, and all damage that others can do to the rules.
#[test]
#[ignore = "needs netns"]
fn nftables_repairs_all_damage() {
    in_namespace(|| async {
        let mut firewall = Nft::default();
        let ruleset = rules(true, true);
        let damages = [
            "flush ruleset",
            "delete table ip6 flannel-ipv6",
            "flush chain ip flannel-ipv4 postrtg",
            "flush chain ip flannel-ipv4 postrtg; delete chain ip flannel-ipv4 postrtg",
            "add rule ip flannel-ipv4 forward counter accept",
            "insert rule ip flannel-ipv4 postrtg ip saddr 10.42.0.5 masquerade",
            "insert rule ip6 flannel-ipv6 forward ip6 saddr fd00:10:244::/57 drop",
            "add chain ip flannel-ipv4 mine",
            "add table ip flannel-ipv4 { flags dormant; }",
            "add chain ip flannel-ipv4 forward { policy drop; }",
            "delete table ip flannel-ipv4; add table ip flannel-ipv4",
        ];
        for damage in damages {
            firewall.replace(&ruleset).await.unwrap();
            assert!(firewall.verify(&ruleset).await.unwrap());
            nft_file(damage).await;
            assert!(!firewall.verify(&ruleset).await.unwrap(), "{damage}");
        }
        let go = "add rule ip flannel-ipv4 postrtg meta mark 0x4000 return\n\
            add rule ip flannel-ipv4 postrtg ip saddr 10.42.1.0/24 ip daddr 10.42.0.0/16 return";
        nft_file(&format!(
            "add table ip flannel-ipv4\nadd chain ip flannel-ipv4 postrtg {{ type nat hook postrouting priority 100 ; \
             }}\nflush chain ip flannel-ipv4 postrtg\n{go}"
        ))
        .await;
        firewall.replace(&ruleset).await.unwrap();
        assert!(firewall.verify(&ruleset).await.unwrap());
    });
}

/// When the kernel refuses a change, the error names the object and the fix, and the socket remains usable.
#[test]
#[ignore = "needs netns"]
fn refusals_name_the_command() {
    in_namespace(|| async {
        use super::netfilter::Netfilter;
        use flannel_core::message::nftables::{Command, Expr, Query, Rule, TableFamily};
        let rule = |chain: &str, expressions| {
            let (table, chain) = ("flannel-ipv4".to_owned(), chain.to_owned());
            Command::AppendRule(Rule {
                family: TableFamily::IP,
                table,
                chain,
                handle: None,
                expressions,
                comment: None,
            })
        };
        let mut commands = nft::replacement(&rules(true, false), &[Family::V4]);
        let masquerade = vec![Expr::Masquerade { flags: 0x8000_0000 }];
        commands.insert(5, rule("postrtg", masquerade));
        commands.insert(6, rule("absent", Vec::new()));
        let mut socket = Netfilter::open().unwrap();
        let error = socket.commit(&commands).await.unwrap_err().to_string();
        assert!(
            error.starts_with("the kernel refused `add rule ip flannel-ipv4 postrtg`: Invalid argument"),
            "{error}"
        );
        assert!(error.contains("modprobe"), "{error}");
        let table = Query::Table(TableFamily::IP, "flannel-ipv4".to_owned());
        assert_eq!(socket.query(&table).await.unwrap(), []);
        socket.commit(&nft::replacement(&rules(true, false), &[Family::V4])).await.unwrap();
        assert_eq!(socket.query(&table).await.unwrap().len(), 1);
    });
}

/// Rules of the Go daemon are up to date; changes by others are detected and repaired; unmanaged rules keep their
/// places.
#[test]
#[ignore = "needs netns"]
fn iptables_takes_over_and_repairs_all_damage() {
    in_namespace(|| async {
        let foreign = "*nat\n:MINE - [0:0]\n-A POSTROUTING -j MINE\n-A MINE -s 10.9.0.0/16 -j ACCEPT\nCOMMIT\n\
            *filter\n-A FORWARD -s 10.9.0.0/16 -j DROP\nCOMMIT\n";
        restore(Family::V4, foreign).await;
        let before = save("iptables-save").await;
        let ruleset = rules(true, true);
        for family in Family::ALL {
            restore(family, &as_go_leaves_it(&ruleset, family)).await;
        }
        let mut firewall = Iptables::new(Tools::default());
        assert!(firewall.verify(&ruleset).await.unwrap());
        let right = save("iptables-save").await;
        restore(Family::V4, "*filter\n-A FORWARD -s 10.8.0.0/16 -j DROP\nCOMMIT\n").await;
        let jump = "FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD";
        let damages = [
            "*nat\n-F FLANNEL-POSTRTG\nCOMMIT\n".to_owned(),
            "*nat\n-D FLANNEL-POSTRTG 3\nCOMMIT\n".to_owned(),
            "*nat\n-I FLANNEL-POSTRTG 1 -j ACCEPT\nCOMMIT\n".to_owned(),
            format!("*filter\n-D {jump}\n-F FLANNEL-FWD\n-X FLANNEL-FWD\nCOMMIT\n"),
            format!("*filter\n-A {jump}\n-A {jump}\nCOMMIT\n"),
        ];
        for damage in damages {
            restore(Family::V4, &damage).await;
            assert!(!firewall.verify(&ruleset).await.unwrap(), "{damage}");
            firewall.replace(&ruleset).await.unwrap();
            assert!(firewall.verify(&ruleset).await.unwrap(), "{damage}");
        }
        tool("iptables -D FORWARD -s 10.8.0.0/16 -j DROP").await;
        assert_eq!(save("iptables-save").await, right);
        firewall.replace(&Ruleset::default()).await.unwrap();
        assert_eq!(save("iptables-save").await, before);
    });
}

/// Go makes the chains first, then appends everything by `iptables-restore`.
fn as_go_leaves_it(ruleset: &Ruleset, family: Family) -> String {
    let listing = iptables::listing(ruleset.family(family));
    let of = |table: &str| {
        let lines = listing.lines().filter(|line| line.contains("masq") == (table == "nat"));
        let lines: Vec<&str> = lines.filter(|line| line.starts_with("-A")).collect();
        let chain = if table == "nat" { "FLANNEL-POSTRTG" } else { "FLANNEL-FWD" };
        format!("*{table}\n-N {chain}\n{}\nCOMMIT\n", lines.join("\n"))
    };
    of("nat") + &of("filter")
}

#[tokio::test]
async fn missing_programs_are_an_error_only_if_rules_are_desired() {
    let mut firewall = Iptables::new(Tools { stem: "tables-of-nobody", lock_file: None });
    assert!(firewall.verify(&Ruleset::default()).await.unwrap());
    firewall.replace(&Ruleset::default()).await.unwrap();
    let error = firewall.replace(&rules(false, true)).await.unwrap_err();
    assert!(matches!(error, FirewallError::ToolMissing { .. }));
    assert_eq!(
        error.to_string(),
        "could not set the firewall rules of IPv6: ip6tables-of-nobody-save was not found in PATH. Install the package \
         iptables, or set EnableNFTables to true in the network config."
    );
}

/// The task with its channels, in this namespace.
struct Daemon {
    desired: watch::Sender<Option<Desired>>,
    status: watch::Receiver<FirewallStatus>,
    stop: CancellationToken,
}

impl Daemon {
    fn start(tasks: &mut tokio::task::JoinSet<()>) -> Self {
        let (desired, desired_receiver) = watch::channel(None);
        let (status_sender, status) = watch::channel(FirewallStatus::default());
        let stop = CancellationToken::new();
        tasks.spawn(run(desired_receiver, Duration::from_secs(3600), status_sender, stop.clone()));
        Self { desired, status, stop }
    }

    fn want(&self, mode: Mode, ruleset: Ruleset) {
        self.desired.send_replace(Some(Desired { mode, ruleset }));
    }

    async fn until(&mut self, condition: impl FnMut(&FirewallStatus) -> bool) -> FirewallStatus {
        if let Ok(status) = time::timeout(LIMIT, self.status.wait_for(condition)).await {
            return status.unwrap().clone();
        }
        panic!("did not come: {:?}", *self.status.borrow());
    }
}

#[test]
#[ignore = "needs netns"]
fn damage_by_others_is_repaired_at_once_in_both_modes() {
    in_namespace(|| async {
        let mut tasks = tokio::task::JoinSet::new();
        let mut daemon = Daemon::start(&mut tasks);
        let damages = [
            (Mode::Nftables, "nft flush ruleset"),
            (Mode::Nftables, "nft delete table ip flannel-ipv4"),
            (Mode::Nftables, "nft flush chain ip6 flannel-ipv6 postrtg"),
            (Mode::Iptables, "nft flush ruleset"),
            (Mode::Iptables, "iptables -t nat -F"),
            (Mode::Iptables, "ip6tables -F FORWARD"),
            (Mode::Iptables, "iptables -t nat -D FLANNEL-POSTRTG 2"),
        ];
        for (at, (mode, damage)) in damages.into_iter().enumerate() {
            daemon.want(mode, rules(true, true));
            daemon.until(|status| status.correct && status.mode == Some(mode.to_string())).await;
            let before = daemon.status.borrow_and_update().repairs;
            let start = Instant::now();
            tool(damage).await;
            daemon.until(|status| status.correct && status.repairs > before).await;
            let took = start.elapsed();
            assert!(took < Duration::from_secs(1), "{damage}: repaired after {took:?} (damage {at})");
        }
        // Neither our own changes nor those of others beside our rules make it look again.
        let checks = daemon.status.borrow().checks;
        tool("iptables -t nat -N OTHERS").await;
        nft_file(FOREIGN_TABLE).await;
        tool("iptables -t nat -D FLANNEL-POSTRTG 1").await;
        let status = daemon.until(|status| status.repairs == 8 && status.correct).await;
        assert_eq!(status.checks, checks + 2, "one look that found the damage, one after the repair");
        daemon.stop.cancel();
        tasks.join_next().await.unwrap().unwrap();
        assert!(Iptables::new(Tools::default()).verify(&rules(true, true)).await.unwrap(), "the rules stay");
    });
}

#[test]
#[ignore = "needs netns"]
fn a_change_of_mode_leaves_nothing_of_the_other_and_touches_nobody_else() {
    in_namespace(|| async {
        restore(
            Family::V4,
            "*nat\n-A POSTROUTING -s 10.9.0.0/16 -j ACCEPT\nCOMMIT\n*filter\n-A FORWARD -j LOG\nCOMMIT\n",
        )
        .await;
        nft_file(FOREIGN_TABLE).await;
        let iptables_before = save("iptables-save").await;
        let mut tasks = tokio::task::JoinSet::new();
        let mut daemon = Daemon::start(&mut tasks);
        for _ in 0..2 {
            daemon.want(Mode::Iptables, rules(true, true));
            daemon.until(|status| status.correct && status.mode == Some(Mode::Iptables.to_string())).await;
            let shown = tool("nft list ruleset").await;
            assert!(
                !shown.contains("table ip flannel-ipv4") && !shown.contains("table ip6 flannel-ipv6"),
                "{shown}"
            );
            assert!(shown.contains(FOREIGN_TABLE), "{shown}");

            daemon.want(Mode::Nftables, rules(true, true));
            let status = daemon.until(|s| s.correct && s.mode == Some(Mode::Nftables.to_string())).await;
            assert_eq!(status.cleanup_error, None);
            assert_eq!(save("iptables-save").await, iptables_before);
            assert!(!save("ip6tables-save").await.contains("FLANNEL"));
            assert!(Nft::default().verify(&rules(true, true)).await.unwrap());
        }
        // Options switched off: no rules are left.
        daemon.want(Mode::Nftables, Ruleset::default());
        daemon.until(|status| status.correct && status.installs == 5).await;
        assert!(!tool("nft list ruleset").await.contains("flannel"));
    });
}

#[test]
fn bridge_traffic_is_judged_by_what_the_kernel_says() {
    let directory = tempfile::tempdir().unwrap();
    let sysctl = Sysctl::below(directory.path());
    let fatal = |mode| -> Vec<(Family, bool)> {
        let findings = bridge::findings(&sysctl, mode, &Family::ALL);
        findings.iter().map(|finding| (finding.family, finding.fatal)).collect()
    };
    assert_eq!(fatal(Mode::Iptables), [(Family::V4, true), (Family::V6, true)]);
    assert_eq!(fatal(Mode::Nftables), [(Family::V4, false), (Family::V6, false)]);
    let bridge = directory.path().join("net/bridge");
    std::fs::create_dir_all(&bridge).unwrap();
    std::fs::write(bridge.join("bridge-nf-call-iptables"), "1\n").unwrap();
    std::fs::write(bridge.join("bridge-nf-call-ip6tables"), "0\n").unwrap();
    assert_eq!(fatal(Mode::Iptables), [(Family::V6, false)]);
}

/// A peer in a namespace of its own, which answers each packet with the address that it came from.
struct Peer {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

const PEER: &str = "192.0.2.2:4242";

impl Peer {
    /// Joins a new namespace to this one by a veth pair, 192.0.2.1 here and 192.0.2.2 there.
    fn start() -> Self {
        let (tid_sender, tid) = std::sync::mpsc::channel();
        let (joined, is_joined) = std::sync::mpsc::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (stop, is_stopped) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            tid_sender.send(nix::unistd::gettid()).unwrap();
            is_joined.recv().unwrap();
            ip(
                "link set lo up\naddr add 192.0.2.2/24 dev peer\nlink set peer up\nroute add default via 192.0.2.1",
            );
            let socket = std::net::UdpSocket::bind(PEER).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            ready.send(()).unwrap();
            while is_stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                if let Ok((_, source)) = socket.recv_from(&mut [0; 64]) {
                    socket.send_to(source.ip().to_string().as_bytes(), source).unwrap();
                }
            }
        });
        let tid = tid.recv().unwrap();
        ip(&format!(
            "link add here type veth peer name peer netns {tid}\naddr add 192.0.2.1/24 dev here\n\
             link set lo up\nlink set here up\naddr add 10.42.1.1/24 dev lo"
        ));
        joined.send(()).unwrap();
        is_ready.recv().unwrap();
        Self { stop, thread }
    }

    fn end(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

fn ip(commands: &str) {
    crate::testing::contract::run(&commands.lines().map(|line| format!("ip {line}\n")).collect::<String>());
}

/// Sends from an address of a pod, as a new flow, and returns the source that the peer saw.
fn source_seen_by_peer() -> String {
    let socket = std::net::UdpSocket::bind("10.42.1.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send_to(b"?", PEER).unwrap();
    let mut answer = [0; 64];
    // SIGCHLD of an iptables-restore interrupts a receive with a time limit, SA_RESTART or not (signal(7)).
    let length = loop {
        match socket.recv(&mut answer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            received => break received.expect("an answer"),
        }
    };
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

/// New flows of pods leave with the address of the node at every moment, while the rules are replaced all the time.
async fn masquerades_without_a_gap(mut firewall: impl Firewall) {
    let peer = Peer::start();
    assert_eq!(source_seen_by_peer(), "10.42.1.1", "without rules");
    firewall.replace(&rules(true, true)).await.unwrap();
    let (stop, is_stopped) = std::sync::mpsc::channel();
    let sender = std::thread::spawn(move || {
        let mut flows = 0;
        while is_stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            assert_eq!(source_seen_by_peer(), "192.0.2.1", "flow {flows}");
            flows += 1;
        }
        flows
    });
    for round in 0..30 {
        let mut inputs = inputs(true, round % 2 == 0);
        inputs.subnet.v4 = Some(format!("10.42.{}.0/24", 1 + round).parse().unwrap());
        firewall.replace(&Ruleset::new(&inputs)).await.unwrap();
    }
    stop.send(()).unwrap();
    let flows = sender.join().unwrap();
    assert!(flows > 30, "{flows} flows in 30 replacements show nothing");
    peer.end();
}

#[test]
#[ignore = "needs netns"]
fn nftables_masquerades_without_a_gap() {
    in_namespace(|| masquerades_without_a_gap(Nft::default()));
}

#[test]
#[ignore = "needs netns"]
fn iptables_masquerades_without_a_gap() {
    in_namespace(|| masquerades_without_a_gap(Iptables::new(Tools::default())));
}

/// kube-proxy's mark is a bit among others, and traffic within the overlay keeps its source.
#[test]
#[ignore = "needs netns"]
fn marked_packets_are_left_to_others_in_both_modes() {
    in_namespace(|| async {
        let peer = Peer::start();
        nft_file("table ip marks {\nchain set_mark {\ntype route hook output priority mangle;\nmeta mark set 0x4001\n}\n}\n")
            .await;
        let (mut nftables, mut iptables) = (Nft::default(), Iptables::new(Tools::default()));
        nftables.replace(&rules(true, false)).await.unwrap();
        assert_eq!(source_seen_by_peer(), "10.42.1.1");
        nftables.replace(&Ruleset::default()).await.unwrap();
        iptables.replace(&rules(true, false)).await.unwrap();
        assert_eq!(source_seen_by_peer(), "10.42.1.1");
        tool("nft delete table ip marks").await;
        assert_eq!(source_seen_by_peer(), "192.0.2.1");
        let mut wide = inputs(true, false);
        wide.cluster.v4 = Some("0.0.0.0/0".parse().unwrap());
        wide.subnet.v4 = Some("192.0.2.0/24".parse().unwrap());
        iptables.replace(&Ruleset::new(&wide)).await.unwrap();
        assert_eq!(source_seen_by_peer(), "10.42.1.1", "to a pod of this node");
        peer.end();
    });
}
