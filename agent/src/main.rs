//! `weir`.

fn main() {}
