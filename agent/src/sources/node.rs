//! The node itself.
