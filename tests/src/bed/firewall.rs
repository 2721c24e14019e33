//! What else the node's kernel does to packets, by nftables: what administrators and CNI plugins
//! put beside a service proxy.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::node::Node;

/// The program that loads rules, of the package `nftables`.
const NFT: &str = "/usr/sbin/nft";

/// Rules beside the service proxy's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Firewall {
    /// None: the kernel tracks no connections.
    #[default]
    None,
    /// A firewall of connections: whatever fits none is dropped.
    DropsInvalid,
    /// A CNI plugin that masquerades what its pods send beyond the pods' network.
    Masquerades,
}

impl Firewall {
    /// The rules, as a file for `nft`.
    const fn rules(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::DropsInvalid => Some(DROPS_INVALID),
            Self::Masquerades => Some(MASQUERADES),
        }
    }

    /// Loads the rules on a node.
    pub fn load(self, node: &Node) -> Result<()> {
        let Some(rules) = self.rules() else {
            return Ok(());
        };
        ensure!(
            Path::new(NFT).is_file(),
            "there is no {NFT}; install the package nftables"
        );
        let file = node.run_dir().join("firewall.nft");
        std::fs::write(&file, rules).with_context(|| format!("write {}", file.display()))?;
        let arguments = ["-f".as_ref(), file.as_os_str()];
        let done = node.system().run(Path::new(NFT), &arguments);
        done.map(drop)
            .with_context(|| format!("on {}", node.name()))
    }
}

/// As distributions' firewalls begin. What is forwarded must belong to a connection whose first
/// packet was seen; so must what the node itself receives.
const DROPS_INVALID: &str = "\
table inet firewall {
    chain input {
        type filter hook input priority filter; policy accept;
        ct state invalid counter drop
    }
    chain forward {
        type filter hook forward priority filter; policy accept;
        ct state invalid counter drop
    }
    chain output {
        type filter hook output priority filter; policy accept;
        ct state invalid counter drop
    }
}
";

/// As flannel and the bridge plugin have it (`ipMasq`).
const MASQUERADES: &str = "\
table inet cni {
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 10.200.0.0/16 ip daddr != 10.200.0.0/16 counter masquerade
        ip6 saddr fd00:10:200::/48 ip6 daddr != fd00:10:200::/48 counter masquerade
    }
}
";
