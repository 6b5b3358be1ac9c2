//! OpenSSH's key revocation list, the binary format of its PROTOCOL.krl. Only parses and compares: no
//! file or clock here.
//!
//! What cannot be understood makes the whole list unusable, and with it every login: a list that is
//! read by halves revokes by halves.
use std::collections::HashSet;
use std::ops::RangeInclusive;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};

/// What such a file begins with.
pub const MAGIC: &[u8; 8] = b"SSHKRL\n\0";
const FORMAT: u32 = 1;

// Sections, and those within the ones for certificates.
const CERTIFICATES: u8 = 1;
const EXPLICIT_KEY: u8 = 2;
const FINGERPRINT_SHA1: u8 = 3;
const FINGERPRINT_SHA256: u8 = 5;
const EXTENSION: u8 = 255;
const SERIAL_LIST: u8 = 0x20;
const SERIAL_RANGE: u8 = 0x21;
const SERIAL_BITMAP: u8 = 0x22;
const KEY_ID: u8 = 0x23;
const CERTIFICATE_EXTENSION: u8 = 0x39;

/// Why a list is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKrl {
    /// Another file.
    #[error("not a key revocation list")]
    Magic,
    /// Of a time to come.
    #[error("a key revocation list of format {0}, which this server does not know")]
    Format(u32),
    /// It ends within a value.
    #[error("it is cut off, or a length in it is wrong")]
    Truncated,
    /// PROTOCOL.krl section 6: OpenSSH refuses them as well.
    #[error("it is signed, which this server cannot check")]
    Signed,
    /// A kind of section, or a critical extension, that is not known.
    #[error("it has a section of the unknown kind {0:#x}")]
    Section(u8),
    /// An empty section, a fingerprint of another length, a range or bitmap that is none.
    #[error("a section of kind {0:#x} has a value that is none")]
    Value(u8),
}

/// A list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Krl {
    certificates: Vec<OfAuthority>,
    keys: HashSet<Vec<u8>>,
    sha1: HashSet<Vec<u8>>,
    sha256: HashSet<Vec<u8>>,
}

/// Certificates of one authority.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct OfAuthority {
    /// Its public key; empty for all.
    authority: Vec<u8>,
    serials: HashSet<u64>,
    ranges: Vec<RangeInclusive<u64>>,
    bitmaps: Vec<Bitmap>,
    ids: HashSet<Vec<u8>>,
}

/// Bit N, counted from the end, is the serial `offset + N`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Bitmap {
    offset: u64,
    bits: Vec<u8>,
}

impl Krl {
    /// Reads a whole file.
    ///
    /// # Errors
    /// The first thing that is not understood.
    pub fn parse(file: &[u8]) -> Result<Self, BadKrl> {
        let mut input = Cursor(file);
        if input.take(MAGIC.len()).ok() != Some(&MAGIC[..]) {
            return Err(BadKrl::Magic);
        }
        match input.u32()? {
            FORMAT => {}
            other => return Err(BadKrl::Format(other)),
        }
        // The list's version, its date and flags, of which there are none yet.
        for _ in 0..3 {
            input.u64()?;
        }
        // Reserved, and a comment.
        input.string()?;
        input.string()?;
        let mut list = Self::default();
        while !input.0.is_empty() {
            list.section(&mut input)?;
        }
        Ok(list)
    }

    fn section(&mut self, input: &mut Cursor<'_>) -> Result<(), BadKrl> {
        const SIGNATURE: u8 = 4;
        let kind = input.u8()?;
        if kind == SIGNATURE {
            return Err(BadKrl::Signed);
        }
        let mut data = Cursor(input.string()?);
        match kind {
            CERTIFICATES => self.certificates.push(OfAuthority::parse(&mut data)?),
            EXPLICIT_KEY => data.strings(kind, &mut self.keys, |_| true)?,
            FINGERPRINT_SHA1 => data.strings(kind, &mut self.sha1, |hash| hash.len() == 20)?,
            FINGERPRINT_SHA256 => data.strings(kind, &mut self.sha256, |hash| hash.len() == 32)?,
            EXTENSION => data.extension(kind)?,
            other => return Err(BadKrl::Section(other)),
        }
        Ok(())
    }

    /// Is this key, in its wire form, revoked as such?
    pub fn revokes_key(&self, key: &[u8]) -> bool {
        let has = |hashes: &HashSet<Vec<u8>>, algorithm| {
            // Hashing takes long, and most lists have none.
            !hashes.is_empty() && hashes.contains(digest(algorithm, key).as_ref())
        };
        self.keys.contains(key)
            || has(&self.sha1, &SHA1_FOR_LEGACY_USE_ONLY)
            || has(&self.sha256, &SHA256)
    }

    /// Is a certificate of this authority (its key in wire form) revoked by its serial or its id?
    pub fn revokes_certificate(&self, authority: &[u8], serial: u64, id: &str) -> bool {
        self.certificates.iter().any(|section| {
            let applies = section.authority.is_empty() || section.authority == authority;
            applies && (section.ids.contains(id.as_bytes()) || section.has_serial(serial))
        })
    }
}

impl OfAuthority {
    fn parse(input: &mut Cursor<'_>) -> Result<Self, BadKrl> {
        let authority = input.string()?.to_vec();
        // Reserved.
        input.string()?;
        let mut section = Self {
            authority,
            ..Self::default()
        };
        while !input.0.is_empty() {
            let kind = input.u8()?;
            let mut data = Cursor(input.string()?);
            section.part(kind, &mut data)?;
        }
        Ok(section)
    }

    fn part(&mut self, kind: u8, data: &mut Cursor<'_>) -> Result<(), BadKrl> {
        match kind {
            SERIAL_LIST => {
                while !data.0.is_empty() {
                    self.serials.insert(data.u64()?);
                }
            }
            SERIAL_RANGE => {
                let range = data.u64()?..=data.u64()?;
                if range.is_empty() || !data.0.is_empty() {
                    return Err(BadKrl::Value(kind));
                }
                self.ranges.push(range);
            }
            SERIAL_BITMAP => self.bitmaps.push(Bitmap::parse(kind, data)?),
            KEY_ID => data.strings(kind, &mut self.ids, |_| true)?,
            CERTIFICATE_EXTENSION => data.extension(kind)?,
            other => return Err(BadKrl::Section(other)),
        }
        Ok(())
    }

    fn has_serial(&self, serial: u64) -> bool {
        // What an authority that does not number its certificates gives to all of them
        // (PROTOCOL.certkeys): it tells none from another.
        serial != 0
            && (self.serials.contains(&serial)
                || self.ranges.iter().any(|range| range.contains(&serial))
                || self.bitmaps.iter().any(|bitmap| bitmap.has(serial)))
    }
}

impl Bitmap {
    fn parse(kind: u8, data: &mut Cursor<'_>) -> Result<Self, BadKrl> {
        let offset = data.u64()?;
        let bits = data.string()?;
        // RFC 4251 section 5: with the first bit set it would be a negative number.
        let negative = bits.first().is_some_and(|first| first & 0x80 != 0);
        let highest = offset.checked_add(bits.len() as u64 * 8);
        if negative || highest.is_none() || !data.0.is_empty() {
            return Err(BadKrl::Value(kind));
        }
        Ok(Self {
            offset,
            bits: bits.to_vec(),
        })
    }

    fn has(&self, serial: u64) -> bool {
        let Some(index) = serial.checked_sub(self.offset) else {
            return false;
        };
        let byte = usize::try_from(index / 8).ok();
        let byte = byte.and_then(|from_end| self.bits.iter().rev().nth(from_end));
        byte.is_some_and(|byte| byte & 1 << (index % 8) != 0)
    }
}

/// What is left to read, in the data types of RFC 4251 section 5.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], BadKrl> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(BadKrl::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BadKrl> {
        self.take(N)?.try_into().map_err(|_| BadKrl::Truncated)
    }

    fn u8(&mut self) -> Result<u8, BadKrl> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, BadKrl> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, BadKrl> {
        self.array().map(u64::from_be_bytes)
    }

    fn string(&mut self) -> Result<&'a [u8], BadKrl> {
        let length = usize::try_from(self.u32()?).map_err(|_| BadKrl::Truncated)?;
        self.take(length)
    }

    /// One string or more, to the end.
    fn strings(
        &mut self,
        kind: u8,
        into: &mut HashSet<Vec<u8>>,
        fits: impl Fn(&[u8]) -> bool,
    ) -> Result<(), BadKrl> {
        loop {
            let string = self.string()?;
            if !fits(string) {
                return Err(BadKrl::Value(kind));
            }
            into.insert(string.to_vec());
            if self.0.is_empty() {
                return Ok(());
            }
        }
    }

    /// Nothing of these is known, so that a critical one is not understood.
    fn extension(&mut self, kind: u8) -> Result<(), BadKrl> {
        self.string()?;
        let critical = self.u8()? != 0;
        self.string()?;
        match critical {
            true => Err(BadKrl::Section(kind)),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
