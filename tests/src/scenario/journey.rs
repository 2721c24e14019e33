//! A packet's whole way through the node: in by its sender's hook, routed by its destination, out
//! by its receiver's.
//!
//! A process of the node crosses no hook on its side, and what is for the link alone goes no
//! further.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use weir_ebpf::datapath::At;
use weir_ebpf::verdict::{Hook, Verdict};

use super::format::{Origin, Path};
use super::interfaces::Interfaces;
use super::memory::UPLINK;
use super::packet::Packet;
use super::runner::{Executor, send_at};

/// Where packets go.
#[derive(Debug)]
pub struct Routing<'a> {
    /// The pods' interfaces.
    pub interfaces: &'a Interfaces,
    /// The node's own addresses.
    pub node: &'a [IpAddr],
}

impl Routing<'_> {
    /// Where a hook's packets are seen.
    ///
    /// # Errors
    /// The pod has no interface.
    pub fn at(&self, path: &Path) -> Result<Option<At>> {
        Ok(match path {
            Path::Hook {
                hook,
                pod,
                is_from_node,
            } => {
                let interface = match pod {
                    Some(pod) => self.interfaces.index(pod)?,
                    None => UPLINK,
                };
                Some(At {
                    is_from_node: *is_from_node,
                    ..At::new(*hook, interface)
                })
            }
            Path::From(origin) => self.entry(origin)?,
        })
    }

    /// Where packets from there enter.
    fn entry(&self, origin: &Origin) -> Result<Option<At>> {
        Ok(match origin {
            Origin::Pod(pod) => Some(At::new(Hook::FromPod, self.interfaces.index(pod)?)),
            Origin::Node => None,
            Origin::Outside => Some(At::new(Hook::FromNetwork, UPLINK)),
        })
    }

    /// Where packets to this address leave.
    fn exit(&self, to: IpAddr, origin: &Origin) -> Option<At> {
        let stays = match to {
            IpAddr::V4(v4) => v4.is_multicast() || v4.is_link_local() || v4.is_broadcast(),
            IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local(),
        };
        if stays || self.node.contains(&to) {
            return None;
        }
        Some(match self.interfaces.at(to) {
            Some(interface) => At {
                is_from_node: *origin == Origin::Node,
                is_from_itself: matches!(origin, Origin::Pod(pod)
                    if self.interfaces.index(pod).is_ok_and(|it| it == interface)),
                ..At::new(Hook::ToPod, interface)
            },
            None => At::new(Hook::ToNetwork, UPLINK),
        })
    }

    /// A packet goes its way: what became of it, and as what it arrived or ended.
    ///
    /// # Errors
    /// The executor's, or a hook changed the packet in a way that is never right.
    pub fn carry(
        &self,
        executor: &mut impl Executor,
        origin: &Origin,
        packet: &Packet,
    ) -> Result<(Verdict, Packet)> {
        let mut verdict = Verdict::Pass;
        let mut packet = packet.clone();
        if let Some(at) = self.entry(origin)? {
            (verdict, packet) = cross(executor, at, &packet)?;
            if is_end(verdict) {
                return Ok((verdict, packet));
            }
        }
        if let Some(at) = self.exit(packet.dst.ip(), origin) {
            let (last, arrived) = cross(executor, at, &packet)?;
            packet = arrived;
            verdict = match (verdict, last) {
                (before, Verdict::Pass) => before,
                (Verdict::Translate, Verdict::PassFragment) => Verdict::Translate,
                (_, last) => last,
            };
        }
        Ok((verdict, packet))
    }
}

fn cross(executor: &mut impl Executor, at: At, packet: &Packet) -> Result<(Verdict, Packet)> {
    send_at(executor, at, packet)
        .with_context(|| format!("{packet} at {} of {}", at.hook.name(), at.interface))
}

const fn is_end(verdict: Verdict) -> bool {
    match verdict {
        Verdict::Reject(_) | Verdict::Drop(_) => true,
        Verdict::Pass | Verdict::PassFragment | Verdict::Translate => false,
    }
}
