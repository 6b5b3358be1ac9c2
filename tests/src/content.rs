//! Bytes that both ends of a conversation can make from a number, so that each byte that arrives is checked.

/// An endless, reproducible sequence of bytes.
#[derive(Debug, Clone)]
pub struct Content {
    seed: u64,
    at: u64,
}

impl Content {
    /// The sequence that belongs to `seed`, from its beginning.
    #[must_use]
    pub fn new(seed: u64) -> Content {
        Content { seed, at: 0 }
    }

    /// How many bytes were made or checked so far.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut done = 0;
        while done < buffer.len() {
            let word = mix(self.seed ^ mix(self.at / 8)).to_le_bytes();
            let skip = (self.at % 8) as usize;
            let take = (8 - skip).min(buffer.len() - done);
            buffer[done..done + take].copy_from_slice(&word[skip..skip + take]);
            done += take;
            self.at += take as u64;
        }
    }

    /// Are these the next bytes?
    pub fn matches(&mut self, received: &[u8]) -> bool {
        let mut expected = [0; 4096];
        received.chunks(expected.len()).all(|part| {
            let expected = &mut expected[..part.len()];
            self.fill(expected);
            part == expected
        })
    }
}

/// `splitmix64` by Sebastiano Vigna: neighbouring numbers give unrelated ones.
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::Content;

    #[test]
    fn same_bytes_however_they_are_cut() {
        let mut whole = vec![0; 10_000];
        Content::new(7).fill(&mut whole);
        let mut parts = Content::new(7);
        for part in whole.chunks(13) {
            assert!(parts.matches(part), "differs before {}", parts.at());
        }
    }

    #[test]
    fn a_wrong_or_missing_byte_is_seen() {
        let mut whole = vec![0; 10_000];
        Content::new(7).fill(&mut whole);
        let mut wrong = whole.clone();
        wrong[9_000] ^= 1;
        assert!(!Content::new(7).matches(&wrong));
        whole.remove(5_000);
        assert!(!Content::new(7).matches(&whole));
        assert!(!Content::new(8).matches(&whole[..16]));
    }
}
