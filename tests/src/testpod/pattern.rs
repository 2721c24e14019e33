//! The bytes that transfers carry: any place in the stream is told from every other.

use super::protocol::Amount;

/// Bytes handed to the kernel at a time.
pub const CHUNK: usize = 64 * 1024;

/// An endless stream of bytes that looks random and is always the same, with a running account.
#[derive(Debug)]
pub struct Pattern {
    state: u64,
}

impl Pattern {
    /// From its beginning.
    pub fn new() -> Self {
        Self {
            state: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Fills a buffer with what comes next.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            // Xorshift (Marsaglia 2003).
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            word.copy_from_slice(&self.state.to_le_bytes()[..word.len()]);
        }
    }
}

/// Counts bytes as they pass.
#[derive(Debug, Default)]
pub struct Account {
    bytes: u64,
    checksum: crc32fast::Hasher,
}

impl Account {
    /// Counts some bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.checksum.update(bytes);
    }

    /// All that was counted.
    pub fn total(&self) -> Amount {
        Amount {
            bytes: self.bytes,
            checksum: self.checksum.clone().finalize(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_or_swapped_chunk_changes_the_account() {
        let mut pattern = Pattern::new();
        let mut chunks = [[0; 64]; 3];
        for chunk in &mut chunks {
            pattern.fill(chunk);
        }
        let total = |order: &[usize]| {
            let mut account = Account::default();
            for &index in order {
                account.add(&chunks[index]);
            }
            account.total()
        };
        assert_eq!(total(&[0, 1, 2]).bytes, 192);
        assert_ne!(total(&[0, 1, 2]), total(&[0, 2, 1]));
        assert_ne!(total(&[0, 1, 2]), total(&[0, 1]));
    }
}
