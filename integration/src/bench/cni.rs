//! `bench cni`: what attaching a pod costs, ours against other plugins and against the kernel's part alone.
//!
//! The sides take turns within every round, in an order that changes, and what counts is the ratio within a round:
//! what else the machine does at that time hits all of them. Each has a node of its own with the same number of pods.
//! Namespaces of pods are made beforehand and used again: neither their making nor their going is measured.

use anyhow::{Context, Result, ensure};
use clap::Args;
use integration::peer::{NAMES, Peer};
use integration::{Feature, Lab};
use nix::mount::{MsFlags, mount};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

use super::write_figures;

mod figures;
mod side;
mod trace;
mod variant;

use figures::{Figures, Startup};
use side::{Operation, Sample, Side, version};
use variant::{VARIANTS, Variant};

#[derive(Args)]
pub(crate) struct Options {
    /// Directory of our plugin and of `kernel-work`
    #[arg(long)]
    programs: PathBuf,
    /// Directory of the plugins to compare with
    #[arg(long)]
    peer: PathBuf,
    /// Directory on a disk, for the nodes' state
    #[arg(long)]
    state: PathBuf,
    #[arg(long)]
    json: Option<PathBuf>,
    /// How many pods are attached one by one
    #[arg(long)]
    rounds: usize,
    /// How many pods stand all the time
    #[arg(long)]
    standing: usize,
    /// Only variants whose name contains one of these
    filters: Vec<String>,
}

/// How many pods are attached at once, and how many in all in one block.
const BLOCKS: [(usize, usize); 3] = [(1, 16), (8, 64), (32, 64)];
/// One block for so many rounds.
const ROUNDS_PER_BLOCK: usize = 15;
const BLOCKS_MIN: usize = 3;
/// Starts of programs for one round.
const STARTS_PER_ROUND: usize = 2;

/// Every order of three, so that each side comes after each other one equally often.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1], [1, 2, 0], [0, 2, 1]];

pub(crate) fn run(options: &Options) -> Result<()> {
    let lab = Lab::new()?;
    lab.require(&[Feature::Iptables, Feature::Nft, Feature::Strace])?;
    ensure!(options.rounds > 0, "--rounds 0: nothing to measure");
    let most = 253 - BLOCKS.iter().map(|(_, pods)| pods).max().copied().unwrap_or_default();
    ensure!(options.standing <= most, "--standing {}: at most {most}", options.standing);
    let chosen: Vec<Variant> = VARIANTS
        .into_iter()
        .filter(|variant| {
            options.filters.is_empty() || options.filters.iter().any(|f| variant.name.contains(f))
        })
        .collect();
    ensure!(!chosen.is_empty(), "no variant has {} in its name", options.filters.join(" or "));
    keep_state_on_disk(&options.state)?;
    let bench = Bench { lab: &lab, options, programs: Programs::install(options)? };

    let startup = bench.startup()?;
    startup.print();
    let mut measured = Vec::new();
    for variant in chosen {
        let figures = bench.variant(variant).with_context(|| variant.name)?;
        figures.print();
        measured.push(figures.to_json());
    }
    let figures = json!({
        "peer": options.peer,
        "rounds": options.rounds,
        "standingPods": options.standing,
        "startup": startup.to_json(),
        "variants": measured,
    });
    write_figures(&figures, options.json.as_deref())
}

/// Nodes keep their state on a real file system, as real nodes do; what else the lab has is in memory.
fn keep_state_on_disk(directory: &Path) -> Result<()> {
    let nodes = Path::new("/run/lab/node");
    fs::create_dir_all(nodes).with_context(|| format!("could not create {}", nodes.display()))?;
    mount(Some(directory), nodes, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("could not bind {}", directory.display()))
}

/// The programs of all sides, as a package installs them.
struct Programs {
    own: PathBuf,
    peer: Peer,
    bare: PathBuf,
}

impl Programs {
    /// Copies the programs: how a file was written decides how the kernel caches its pages, which is a tenth of a start or more,
    /// and a link to one costs a look-up.
    fn install(options: &Options) -> Result<Self> {
        let directory = options.state.join("programs");
        let [own, peer] = ["own", "peer"].map(|side| directory.join(side));
        for side in [&own, &peer] {
            fs::create_dir_all(side).with_context(|| format!("could not create {}", side.display()))?;
        }
        for name in NAMES {
            copy(&options.programs.join("flannel"), &own.join(name))?;
            let of_peer = options.peer.join(name);
            if of_peer.is_file() {
                copy(&of_peer, &peer.join(name))?;
            }
        }
        let bare = directory.join("kernel-work");
        copy(&options.programs.join("kernel-work"), &bare)?;
        Ok(Self { own, peer: Peer::open(&peer)?, bare })
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("could not copy {} to {}", from.display(), to.display()))
}

struct Bench<'a> {
    lab: &'a Lab,
    options: &'a Options,
    programs: Programs,
}

impl Bench<'_> {
    /// Start to exit for VERSION, and sizes.
    fn startup(&self) -> Result<Startup> {
        let Programs { own, peer, bare } = &self.programs;
        let programs = [own.join("flannel"), peer.directory().join("bridge"), bare.clone()];
        let mut samples: [Vec<Sample>; 3] = Default::default();
        for round in 0..self.options.rounds * STARTS_PER_ROUND {
            for side in ORDERS[round % ORDERS.len()] {
                samples[side].push(version(&programs[side])?);
            }
        }
        let size = |path: &Path| -> Result<u64> {
            Ok(fs::metadata(path).with_context(|| format!("could not look at {}", path.display()))?.len())
        };
        let peers = ["bridge", "host-local", "portmap"].map(|name| peer.directory().join(name));
        let peers = peers.iter().filter(|file| file.is_file()).map(|file| size(file)).sum::<Result<u64>>()?;
        Ok(Startup { samples, own_bytes: size(&programs[0])?, peer_bytes: peers })
    }

    fn variant(&self, variant: Variant) -> Result<Figures> {
        let most = BLOCKS.iter().map(|(_, pods)| pods).max().copied().unwrap_or_default();
        let pods = self.options.standing + most;
        let (lab, Programs { own, peer, bare }) = (self.lab, &self.programs);
        let name = |side: &str| format!("{side}-{}", variant.name);
        let ours = (0..pods).map(|pod| variant.ours(pod)).collect();
        let peers = (0..pods).map(|pod| variant.peers(peer, pod)).collect::<Result<_>>()?;
        let mut sides = vec![
            Side::plugins(lab, &name("ours"), variant, own, ours)?,
            Side::plugins(lab, &name("peer"), variant, peer.directory(), peers)?,
        ];
        if variant.has_bare() {
            sides.push(Side::bare(lab, &name("bare"), variant, bare.clone(), pods)?);
        }
        let mut figures = Figures::new(variant, variant.peer_firewall(peer)?);
        let standing = self.options.standing;
        for side in &sides {
            for pod in 0..standing {
                side.measure(Operation::Add, pod)?;
            }
        }
        // Plugins before 1.5 refuse in CHECK the routes without a gateway that they took in ADD.
        if standing > 0
            && let Err(error) = sides[1].measure(Operation::Check, 0)
        {
            figures.peer_check = Some(error.root_cause().to_string().replace(['\n', '\t'], " "));
        }
        for (at, side) in sides.iter().enumerate() {
            for operation in Operation::ALL {
                if figures.can(at, operation) {
                    figures.counts[at].insert(operation, side.count(lab, operation, standing)?);
                }
            }
        }
        self.one_by_one(&sides, &mut figures)?;
        self.at_once(&sides, &mut figures)?;
        for side in &sides {
            for pod in 0..standing {
                side.measure(Operation::Del, pod)?;
            }
        }
        Ok(figures)
    }

    fn one_by_one(&self, sides: &[Side], figures: &mut Figures) -> Result<()> {
        for round in 0..self.options.rounds {
            for operation in Operation::ALL {
                for at in ORDERS[round % ORDERS.len()] {
                    let Some(side) = sides.get(at) else { continue };
                    if figures.can(at, operation) {
                        let sample = side.measure(operation, self.options.standing)?;
                        figures.samples[at].entry(operation).or_default().push(sample);
                    }
                }
            }
        }
        Ok(())
    }

    fn at_once(&self, sides: &[Side], figures: &mut Figures) -> Result<()> {
        let standing = self.options.standing;
        for (at_once, pods) in BLOCKS {
            for block in 0..(self.options.rounds / ROUNDS_PER_BLOCK).max(BLOCKS_MIN) {
                for operation in [Operation::Add, Operation::Del] {
                    for at in ORDERS[block % ORDERS.len()] {
                        let Some(side) = sides.get(at) else { continue };
                        let rate = side.rate(operation, standing..standing + pods, at_once)?;
                        figures.rates[at].entry((at_once, operation)).or_default().push(rate);
                    }
                }
            }
        }
        Ok(())
    }
}
