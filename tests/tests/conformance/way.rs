//! What lies between the pods of a ground, and whether packets go through the node's IP layer.

use weir_tests::bed::Wiring;

/// A kind of ground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Routed links, and packets for pods of the same node are handed over.
    Routed,
    /// Routed links, and every packet goes through the node's IP layer.
    RoutedLong,
    /// A bridge on each node, on which nothing is handed over.
    Bridged,
    /// The same, and the node's own link is a port of it, too.
    Shared,
}

impl Way {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Routed, Self::RoutedLong, Self::Bridged, Self::Shared];

    /// As in the names of tests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::RoutedLong => "routed-long",
            Self::Bridged => "bridged",
            Self::Shared => "shared",
        }
    }

    /// How pods hang on their nodes.
    pub const fn wiring(self) -> Wiring {
        match self {
            Self::Routed | Self::RoutedLong => Wiring::Routed,
            Self::Bridged => Wiring::Bridged,
            Self::Shared => Wiring::Shared,
        }
    }

    /// What the agents are told of it.
    pub const fn flags(self) -> &'static [&'static str] {
        match self {
            // The default, which finds nothing on these nodes that speaks against it.
            Self::Routed | Self::Bridged | Self::Shared => &[],
            Self::RoutedLong => &["--fast-path=off"],
        }
    }

    /// Are all tables shown on it? What a table is about does not depend on whose ports a bridge has;
    /// what attacks and comes and goes may.
    pub const fn has_tables(self) -> bool {
        !matches!(self, Self::Shared)
    }

    /// Is the fast path on?
    pub const fn is_fast(self) -> bool {
        !matches!(self, Self::RoutedLong)
    }
}
