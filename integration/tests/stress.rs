//! Addresses of pods through whatever happens: killed plugins, lost pods, a state directory that takes no more.
//!
//! ```text
//!   n1: cni0 10.42.0.1/24 ── up to 253 pods; no daemon, only its subnet.env
//! ```

use anyhow::{Context, Result, bail, ensure};
use integration::random;
use integration::{Lab, Netns, Node, cni, is_long, lab, program};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const SUBNET_ENV: &str =
    "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
/// Addresses for pods in a /24: all but those of the network, the gateway and broadcasts.
const CAPACITY: usize = 253;
/// Where the node keeps the addresses in use.
const ADDRESSES: &str = "/var/lib/cni/networks/cbr0";
const AT_ONCE: usize = 64;

/// A node with nothing but the plugin.
struct Site {
    node: Node,
    plugin: PathBuf,
}

/// A container, as its runtime knows it.
#[derive(Clone)]
struct Pod {
    id: String,
    netns: Netns,
    address: String,
}

impl Site {
    fn new(lab: &Lab) -> Result<Self> {
        let node = lab.node("n1")?;
        fs::write(node.file("/run/flannel/subnet.env")?, SUBNET_ENV).context("no subnet.env")?;
        Ok(Self { node, plugin: program("flannel") })
    }

    /// Starts the plugin. The calling thread must be inside the node.
    fn start(&self, command: &str, id: &str, netns: &Netns, more: &Value) -> Result<Child> {
        let mut config = json!({
            "cniVersion": "1.1.0", "name": "cbr0", "type": "flannel",
            "delegate": {"hairpinMode": true, "isDefaultGateway": true},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let mut child = cni::plugin(&self.plugin, command, id, netns, "/nowhere")
            .spawn()
            .context("could not start the plugin")?;
        let mut stdin = child.stdin.take().context("no pipe")?;
        stdin.write_all(config.to_string().as_bytes()).context("could not write a config")?;
        Ok(child)
    }

    fn call(&self, command: &str, id: &str, netns: &Netns) -> Result<Output> {
        let child = self.start(command, id, netns, &Value::Null)?;
        child.wait_with_output().context("could not wait for the plugin")
    }

    /// A new pod; the plugin must succeed at the first try.
    fn add(&self, id: &str, netns: &Netns) -> Result<Pod> {
        let output = self.call("ADD", id, netns)?;
        ensure!(output.status.success(), "ADD of {id}: {}", message(&output));
        Ok(Pod { id: id.to_owned(), netns: netns.clone(), address: address(&output)? })
    }

    fn del(&self, pod: &Pod) -> Result<()> {
        let output = self.call("DEL", &pod.id, &pod.netns)?;
        ensure!(output.status.success(), "DEL of {}: {}", pod.id, message(&output));
        Ok(())
    }

    /// So many pods, several at a time.
    fn add_many(&self, name: &str, count: usize) -> Result<Vec<Pod>> {
        let (pods, next) = (Mutex::new(Vec::new()), AtomicUsize::new(0));
        at_once(8, |_| {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(());
                }
                let id = format!("{name}-{number}");
                let pod = self.add(&id, &Netns::create(&id)?)?;
                locked(&pods).push(pod);
            }
        })?;
        Ok(pods.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells the plugin which pods there are.
    fn collect_garbage(&self, valid: &[Pod]) -> Result<()> {
        let valid: Vec<Value> =
            valid.iter().map(|pod| json!({"containerID": pod.id, "ifname": "eth0"})).collect();
        let list = json!({"cni.dev/valid-attachments": valid});
        let output = self
            .start("GC", "", self.node.netns(), &list)?
            .wait_with_output()
            .context("could not wait for the plugin")?;
        ensure!(output.status.success(), "GC: {}", message(&output));
        Ok(())
    }

    /// Every address that no pod has can be had, and the next pod is told that there is none.
    fn fill_up(&self, pods: &[Pod]) -> Result<()> {
        let mut all = self.add_many("fill", CAPACITY - pods.len())?;
        all.extend_from_slice(pods);
        let addresses: BTreeSet<&str> = all.iter().map(|pod| pod.address.as_str()).collect();
        ensure!(addresses.len() == CAPACITY, "{} pods have {} addresses", all.len(), addresses.len());
        let output = self.call("ADD", "one-more", &Netns::create("one-more")?)?;
        let told = message(&output);
        ensure!(told.contains("no IP addresses available in range set: 10.42.0.1-10.42.0.254"), "{told}");
        Ok(())
    }

    /// The kernel and the files of the node hold these pods and nothing else.
    fn expect_exactly(&self, pods: &[Pod]) -> Result<()> {
        for pod in pods {
            let shown = pod.netns.ip("-o -4 addr show dev eth0")?;
            ensure!(shown.contains(&format!(" {}/24 ", pod.address)), "{}: {shown}", pod.id);
        }
        let ports = self.node.netns().run("ip -o link show master cni0")?;
        ensure!(ports.lines().count() == pods.len(), "{} pods:\n{ports}", pods.len());
        let mut expected: BTreeSet<String> = pods.iter().map(|pod| pod.address.clone()).collect();
        expected.extend(["lock".to_owned(), "last_reserved_ip.0".to_owned()]);
        self.expect_files(ADDRESSES, &expected)?;
        let saved = pods.iter().flat_map(|pod| [pod.id.clone(), format!("{}.eth0", pod.id)]);
        self.expect_files("/var/lib/cni/flannel", &saved.collect())
    }

    fn expect_files(&self, directory: &str, expected: &BTreeSet<String>) -> Result<()> {
        let listing = self.node.netns().run(&format!("ls -A {directory}"))?;
        let found: BTreeSet<String> = listing.lines().map(str::to_owned).collect();
        let (extra, missing): (Vec<_>, Vec<_>) =
            (found.difference(expected).collect(), expected.difference(&found).collect());
        ensure!(found == *expected, "{directory}: extra {extra:?}, missing {missing:?}");
        Ok(())
    }
}

/// Runs something in several threads, each with its number, in the namespaces of this one.
fn at_once(threads: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (0..threads).map(|number| scope.spawn(move || work(number))).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a plugin said on stdout, an error above all.
fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).replace('\n', " ")
}

fn address(output: &Output) -> Result<String> {
    let result: Value = serde_json::from_slice(&output.stdout).context("not a result")?;
    let address = result["ips"][0]["address"].as_str().context("a result without an address")?;
    Ok(address.split('/').next().unwrap_or_default().to_owned())
}

/// Kills plugins in the middle of their work, and forgets pods.
struct Reaper<'a> {
    site: &'a Site,
    rng: fastrand::Rng,
    /// How long the plugin took the last time it was let alone.
    usual: Duration,
    killed: usize,
}

impl Reaper<'_> {
    /// Runs the plugin; half of the times it is killed at a moment of what it usually takes. Answers with nothing if it
    /// was.
    fn call(&mut self, command: &str, pod: &Pod) -> Result<Option<Output>> {
        let started = Instant::now();
        let mut child = self.site.start(command, &pod.id, &pod.netns, &Value::Null)?;
        let chosen = self.rng.bool();
        let usual = u64::try_from(self.usual.as_micros()).unwrap_or(u64::MAX);
        if chosen {
            thread::sleep(Duration::from_micros(self.rng.u64(0..=usual)));
            child.kill().context("could not kill the plugin")?;
        }
        let output = child.wait_with_output().context("could not wait for the plugin")?;
        if output.status.code().is_none() {
            self.killed += 1;
            return Ok(None);
        }
        if !chosen {
            self.usual = started.elapsed();
        }
        ensure!(output.status.success(), "{command} of {}: {}", pod.id, message(&output));
        Ok(Some(output))
    }

    /// DEL until it is done, as runtimes do.
    fn del(&mut self, pod: &Pod) -> Result<()> {
        while self.call("DEL", pod)?.is_none() {}
        Ok(())
    }
}

/// Pods that live, by address.
type Living = Mutex<BTreeMap<String, String>>;

/// The life of several pods of one worker; the last one stays.
fn live(
    site: &Site,
    worker: usize,
    lives: usize,
    rng: fastrand::Rng,
    living: &Living,
) -> Result<(Pod, usize)> {
    let mut reaper = Reaper { site, rng, usual: Duration::from_millis(20), killed: 0 };
    let mut netns = Netns::create(&format!("w{worker}-0"))?;
    for life in 0..lives {
        let id = format!("w{worker}-{life}");
        let mut pod = Pod { id, netns: netns.clone(), address: String::new() };
        if let Some(output) = reaper.call("ADD", &pod)? {
            pod.address = address(&output)?;
            settle(living, &pod)?;
        }
        // From here on its address may be another one's.
        locked(living).remove(&pod.address);
        if reaper.rng.u8(0..4) == 0 {
            // Nobody says DEL.
            pod.netns.delete()?;
            netns = Netns::create(&format!("w{worker}-{}", life + 1))?;
        } else {
            reaper.del(&pod)?;
        }
    }
    let pod = site.add(&format!("w{worker}-last"), &netns)?;
    settle(living, &pod)?;
    Ok((pod, reaper.killed))
}

/// A pod begins to live: nobody else may have its address.
fn settle(living: &Living, pod: &Pod) -> Result<()> {
    match locked(living).insert(pod.address.clone(), pod.id.clone()) {
        None => Ok(()),
        Some(other) => bail!("{} and {other} have the address {} at one time", pod.id, pod.address),
    }
}

#[test]
fn plugins_killed_at_random_moments() {
    lab(|lab| {
        let site = Site::new(lab)?;
        let rng = Mutex::new(random::from_environment()?);
        let lives = if is_long() { 10_000_usize.div_ceil(AT_ONCE) } else { 4 };
        let (living, survivors, killed) = (Living::default(), Mutex::new(Vec::new()), AtomicUsize::new(0));
        let started = Instant::now();
        site.node.netns().enter(|| {
            at_once(AT_ONCE, |worker| {
                let (pod, times) = live(&site, worker, lives, locked(&rng).fork(), &living)?;
                locked(&survivors).push(pod);
                killed.fetch_add(times, Ordering::Relaxed);
                Ok(())
            })?;
            let survivors = locked(&survivors);
            let killed = killed.load(Ordering::Relaxed);
            let pods = lives * AT_ONCE;
            eprintln!("{pods} pods, {killed} plugins killed, in {:.1} s", started.elapsed().as_secs_f32());
            ensure!(killed > pods / 8, "only {killed} of {pods} were killed");
            // A pod may be lost whose ADD was killed while it wrote. GC takes that for left behind only when it is so old that
            // no ADD can be working with it.
            write("/var/lib/cni/flannel/.tmp-gone.eth0", b"{")?;
            let node = site.node.netns();
            node.run("find /var/lib/cni/flannel -name .tmp-* -exec touch -d @0 {} +")?;
            site.collect_garbage(&survivors)?;
            site.expect_exactly(&survivors)?;
            site.fill_up(&survivors)
        })
    });
}

/// The namespaces of all pods of a node are deleted; nobody says DEL. The next pods have nothing to wait for.
#[test]
fn all_pods_of_a_full_node_lost_at_once() {
    lab(|lab| {
        let site = Site::new(lab)?;
        site.node.netns().enter(|| {
            for pod in site.add_many("lost", CAPACITY)? {
                pod.netns.delete()?;
            }
            site.fill_up(&[])
        })
    });
}

/// For every amount of space that is left, an ADD succeeds or leaves nothing.
#[test]
fn state_directory_full() {
    lab(|lab| {
        let site = Site::new(lab)?;
        site.node.netns().run("mount -t tmpfs -o size=128k tmpfs /var/lib/cni")?;
        site.node.netns().enter(|| {
            let first = site.add("first", &Netns::create("first")?)?;
            let netns = Netns::create("next")?;
            let (mut refused, mut added) = (0, 0);
            for left in 0..8 {
                fill_disk(left)?;
                let output = site.call("ADD", "next", &netns)?;
                if output.status.success() {
                    added += 1;
                    site.del(&Pod {
                        id: "next".to_owned(),
                        netns: netns.clone(),
                        address: address(&output)?,
                    })?;
                } else {
                    refused += 1;
                    let told = message(&output);
                    ensure!(
                        told.contains("no space left on device") && told.contains("/var/lib/cni/"),
                        "{told}"
                    );
                    ensure!(netns.ip("link show dev eth0").is_err(), "{left} pages left: eth0 stayed");
                    // The runtime says DEL after a failed ADD, too.
                    ensure!(site.call("DEL", "next", &netns)?.status.success(), "{left} pages left: DEL");
                }
                fs::remove_file(FILLER).context("could not make space")?;
                site.expect_exactly(std::slice::from_ref(&first))
                    .with_context(|| format!("{left} pages left"))?;
            }
            ensure!(refused > 1 && added > 1, "{refused} refused, {added} added");
            fill_disk(0)?;
            site.del(&first)?;
            fs::remove_file(FILLER).context("could not make space")?;
            let next = site.add("next", &netns)?;
            site.expect_exactly(&[next])
        })
    });
}

const FILLER: &str = "/var/lib/cni/filler";

/// Leaves so many pages of the small file system that the calling thread sees.
fn fill_disk(pages: usize) -> Result<()> {
    const PAGE: usize = 4096;
    let mut filler = fs::File::create(FILLER).context("no filler")?;
    while filler.write(&[0; PAGE]).is_ok() {}
    let length = filler.metadata().context("no filler")?.len();
    filler.set_len(length.saturating_sub((pages * PAGE) as u64)).context("could not cut the filler")
}

#[test]
fn state_directory_read_only() {
    lab(|lab| {
        let site = Site::new(lab)?;
        site.node.netns().run("mount -t tmpfs tmpfs /var/lib/cni")?;
        site.node.netns().enter(|| {
            let first = site.add("first", &Netns::create("first")?)?;
            let netns = Netns::create("next")?;
            site.node.netns().run("mount -o remount,ro /var/lib/cni")?;
            let told = message(&site.call("ADD", "next", &netns)?);
            ensure!(told.contains("read-only file system") && told.contains("/var/lib/cni/"), "{told}");
            ensure!(netns.ip("link show dev eth0").is_err(), "eth0 stayed");
            // Nothing of it is there, but an address that cannot be given back is no success.
            let told = message(&site.call("DEL", "first", &first.netns)?);
            ensure!(told.contains("read-only file system") && told.contains("/var/lib/cni/"), "{told}");
            site.node.netns().run("mount -o remount,rw /var/lib/cni")?;
            site.del(&first)?;
            let next = site.add("next", &netns)?;
            site.expect_exactly(&[next])
        })
    });
}

#[test]
fn state_directory_corrupt() {
    lab(|lab| {
        let site = Site::new(lab)?;
        site.node.netns().enter(|| {
            let (first, second) = (
                site.add("first", &Netns::create("first")?)?,
                site.add("second", &Netns::create("second")?)?,
            );
            let junk: &[u8] = b"\xff\x00{]\r\n\r\n\n";
            for name in ["last_reserved_ip.0", "lock", "10.42.0.77", "10.42.0.999", "no address"] {
                write(&format!("{ADDRESSES}/{name}"), junk)?;
            }
            write(&format!("{ADDRESSES}/10.42.0.78"), b"")?;
            fs::create_dir(format!("{ADDRESSES}/10.42.0.79")).context("no directory")?;
            std::os::unix::fs::symlink("10.42.0.80", format!("{ADDRESSES}/10.42.0.80")).context("no link")?;
            write("/var/lib/cni/flannel/first.eth0", junk)?;
            write("/var/lib/cni/flannel/first", b"{\"cniVersion\":")?;

            let third = site.add("third", &Netns::create("third")?)?;
            ensure!(third.address != first.address && third.address != second.address, "{}", third.address);
            let output = site.call("CHECK", "second", &second.netns)?;
            ensure!(message(&output).contains("prevResult"), "{}", message(&output));
            site.del(&first)?;
            ensure!(first.netns.ip("link show dev eth0").is_err(), "eth0 of the first pod stayed");
            site.collect_garbage(&[second.clone(), third.clone()])?;
            // What nobody can have written stays for a person to look at, and costs its addresses at most.
            let names = site.node.netns().run(&format!("ls -A {ADDRESSES}"))?;
            ensure!(!names.lines().any(|name| name == first.address || name == "10.42.0.78"), "{names}");
            // Enough to come past all of them.
            let more = site.add_many("more", 100)?;
            let addresses: BTreeSet<&str> =
                more.iter().chain([&second, &third]).map(|pod| pod.address.as_str()).collect();
            ensure!(addresses.len() == 102, "{} addresses", addresses.len());
            Ok(())
        })
    });
}

fn write(file: &str, content: &[u8]) -> Result<()> {
    fs::write(file, content).with_context(|| format!("could not write {file}"))
}
