//! Two pods and the node between them, each a network namespace.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use ringfence_datapath::{Config, Datapath, Interface, PodLink};
use ringfence_engine::Plan;
use ringfence_netns::{Namespace, Route, VethEnd};

use super::client::{self, Rates};
use super::processor::{last_processor, pin};
use super::variant::Variant;
use super::{rules, server};
use crate::{leftovers, nft, policies};

pub(super) const PREFIX: &str = "rfbench";
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 246, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 246, 0, 3);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 1);

/// Everything one variant needs; gone when dropped.
pub(super) struct Stage {
    node: Namespace,
    client: Namespace,
    server: Namespace,
    processor: usize,
    /// Pin directory of the kernel program, if there is one.
    pins: Option<PathBuf>,
}

impl Stage {
    /// Builds it and puts the variant in force, having seen that the client is locked out until its own policy is
    /// there.
    pub(super) fn set(number: usize, variant: &Variant) -> anyhow::Result<Self> {
        let name = |role: &str| format!("{PREFIX}{}-{number}{role}", std::process::id());
        let create = |role: &str| Namespace::create(&name(role));
        let stage = Self {
            node: create("n")?,
            client: create("c")?,
            server: create("s")?,
            processor: last_processor()?,
            pins: matches!(variant, Variant::Ringfence(_) | Variant::ClusterWide(_))
                .then(|| leftovers::pins(&name("p"))),
        };
        stage.connect()?;
        server::start(&stage.server, stage.processor)?;
        stage.enforce(variant)?;
        Ok(stage)
    }

    /// One turn.
    pub(super) fn measure(&self, span: Duration) -> anyhow::Result<Rates> {
        self.client.run(|| {
            pin(self.processor)?;
            client::measure(SERVER, span)
        })?
    }

    fn connect(&self) -> anyhow::Result<()> {
        let mut node = self.node.netlink()?;
        node.set_up("lo")?;
        for (link, pod, address) in [("vc", &self.client, CLIENT), ("vs", &self.server, SERVER)] {
            let here = VethEnd { name: link, namespace: &self.node };
            node.add_veth(here, VethEnd { name: "eth0", namespace: pod }, None)?;
            node.set_up(link)?;
            node.add_address(link, host(GATEWAY))?;
            let mut inside = pod.netlink()?;
            inside.set_up("lo")?;
            inside.set_up("eth0")?;
            inside.add_address("eth0", host(address))?;
            inside.set_route(&Route::direct(host(GATEWAY), "eth0"))?;
            inside.set_route(&Route::via("0.0.0.0/0".parse()?, IpAddr::V4(GATEWAY)))?;
            node.set_route(&Route::direct(host(address), link))?;
        }
        self.node.set_sysctl("net/ipv4/ip_forward", "1")?;
        Ok(())
    }

    fn enforce(&self, variant: &Variant) -> anyhow::Result<()> {
        match *variant {
            Variant::Bare => {}
            Variant::Conntrack => nft::load(&self.node, rules::TRACK)?,
            Variant::Ringfence(0) => self.ringfence(&policies::plan(CLIENT, SERVER, &[]))?,
            Variant::Ringfence(count) => {
                self.lock_and_open(count, |sources| self.ringfence(&policies::plan(CLIENT, SERVER, sources)))?;
            }
            Variant::ClusterWide(count) => {
                let allowed = |allowed| self.ringfence(&policies::cluster_wide(CLIENT, SERVER, count, allowed));
                allowed(false)?;
                self.expect_locked_out()?;
                allowed(true)?;
            }
            Variant::Rules(count) => {
                self.lock_and_open(count, |sources| nft::load(&self.node, &rules::chain(SERVER, sources)))?;
            }
            Variant::Set(count) => {
                self.lock_and_open(count, |sources| nft::load(&self.node, &rules::set(SERVER, sources)))?;
            }
        }
        if *variant != Variant::Bare {
            // Closed connections would fill the table in a benchmark that opens ten thousand a second.
            self.node.set_sysctl("net/netfilter/nf_conntrack_tcp_timeout_close", "1")?;
        }
        if !self.client_connects()? {
            bail!("the client is locked out, though it is allowed");
        }
        Ok(())
    }

    /// First allows only strangers, then the client as the last.
    fn lock_and_open(&self, count: usize, allow: impl Fn(&[Ipv4Addr]) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mut sources = policies::strangers(count);
        allow(&sources)?;
        self.expect_locked_out()?;
        if let Some(last) = sources.last_mut() {
            *last = CLIENT;
        }
        allow(&sources)
    }

    fn expect_locked_out(&self) -> anyhow::Result<()> {
        if self.client_connects()? {
            bail!("the client gets in, though no rule allows it: nothing is enforced");
        }
        Ok(())
    }

    fn client_connects(&self) -> anyhow::Result<bool> {
        Ok(self.client.run(|| client::connects(SERVER))?)
    }

    /// Loads or adopts the kernel program and brings it to the plan; it stays when the handle is dropped, being pinned.
    fn ringfence(&self, plan: &Plan) -> anyhow::Result<()> {
        let pins = self.pins.as_ref().context("no place for pins")?;
        let mut links = self.node.netlink()?;
        let mut interface = |link| anyhow::Ok(Interface { index: links.link_index(link)?, bridge: None });
        let interfaces = [(IpAddr::V4(CLIENT), interface("vc")?), (IpAddr::V4(SERVER), interface("vs")?)];
        self.node.run(|| {
            let mut datapath = Datapath::open(Config::new(pins))?;
            datapath.sync(plan)?;
            datapath.set_interfaces(interfaces)?;
            let port = PodLink { bridge: None, mac: None, pod: true, idle: true };
            let mut keeper = datapath.link_guard()?;
            let errand = datapath.guard_links(&interfaces.map(|(_, link)| (link.index, port)).into())?;
            if let Some(errand) = errand {
                keeper.enqueue(errand);
            }
            let guarded = datapath.run_guard(&mut keeper)?;
            if !guarded.failed.is_empty() {
                bail!("the pods' links are not guarded: {:?}", guarded.failed);
            }
            anyhow::Ok(())
        })?
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(pins) = &self.pins {
            let _ = ringfence_datapath::remove(pins);
        }
        for namespace in [&self.node, &self.client, &self.server] {
            let _ = Namespace::delete(namespace.name());
        }
    }
}

fn host(address: Ipv4Addr) -> IpNet {
    IpNet::from(IpAddr::V4(address))
}
