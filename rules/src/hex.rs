//! Hashes as text.

use std::fmt::Write as _;

use crate::diagnostics::Fault;

/// Lower case.
pub(crate) fn encode(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads a SHA-256 as `sha256sum` prints it.
pub(crate) fn sha256(text: &str) -> Result<[u8; 32], Fault> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|it| u8::try_from(it).ok())
    };
    let mut hash = [0; 32];
    let is_hash = text.len() == 2 * hash.len()
        && hash
            .iter_mut()
            .zip(text.as_bytes().chunks(2))
            .all(|(byte, pair)| {
                let (high, low) = (digit(pair[0]), digit(pair[1]));
                *byte = high.unwrap_or_default() << 4 | low.unwrap_or_default();
                high.is_some() && low.is_some()
            });
    if is_hash {
        return Ok(hash);
    }
    Err(Fault::new(format!("{text:?} is not a SHA-256"))
        .hint("write the 64 hexadecimal digits that `sha256sum FILE` prints"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let hash: [u8; 32] = std::array::from_fn(|index| 7 * u8::try_from(index).unwrap());
        let text = encode(&hash);
        assert_eq!(sha256(&text).unwrap(), hash);
        assert_eq!(sha256(&text.to_uppercase()).unwrap(), hash);
        for wrong in [
            "",
            "ab",
            &text[1..],
            &format!("{text}0"),
            &"é".repeat(32),
            &"g".repeat(64),
        ] {
            assert!(sha256(wrong).is_err(), "{wrong}");
        }
    }
}
