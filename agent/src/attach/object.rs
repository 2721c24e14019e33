//! tmp
pub fn object() -> anyhow::Result<&'static [u8]> {
    anyhow::bail!("none")
}
