use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use russh::keys::{Certificate, PublicKey};

use super::*;

/// `printf 'serial: 5-9\nserial: 3\nid: alice laptop\n' | ssh-keygen -k -s ca.pub -z 1 -f krl -`.
const SERIALS: &str = "5353484b524c0a000000000100000000000000010000000000000000000000000000000000000000000000000100000062000000330000000b7373682d65643235353139000000201073\
3a0e6be09836541efb726f8918deaf5601dfd6bca8bd2122f53b1aa03e1b00000000220000000d0000000000000003000000017d2300000010000000\
0c616c696365206c6170746f70";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .bytes()
        .filter_map(|b| char::from(b).to_digit(16))
        .map(|d| d as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn authority() -> Vec<u8> {
    bytes(
        "0000000b7373682d65643235353139000000201073 3a0e6be09836541efb726f8918deaf5601dfd6bca8bd2122f53b1aa03e1b",
    )
}

#[test]
fn a_list_is_read_as_it_is_meant() {
    let list = Krl::parse(&bytes(SERIALS)).expect("list");
    let revoked: Vec<u64> = (0..20)
        .filter(|serial| list.revokes_certificate(&authority(), *serial, "bob"))
        .collect();
    assert_eq!(revoked, [3, 5, 6, 7, 8, 9]);
    assert!(list.revokes_certificate(&authority(), 0, "alice laptop"));
    // Of another authority.
    assert!(!list.revokes_certificate(b"other", 5, "alice laptop"));
    assert!(!list.revokes_key(&authority()));
}

fn keygen(directory: &Path, arguments: &[&str]) -> bool {
    let mut command = Command::new("ssh-keygen");
    let output = command.args(arguments).current_dir(directory).output();
    output.expect("ssh-keygen runs").status.success()
}

/// Serials, ids, keys and hashes in every form that `ssh-keygen -k` writes; what it says about each
/// certificate and key (`-Q`) is what has to come out here.
#[test]
fn ssh_keygen_and_this_reader_agree() {
    let directory = tempfile::tempdir().expect("directory");
    let at = directory.path();
    let new = |name: &str| assert!(keygen(at, &["-q", "-t", "ed25519", "-N", "", "-f", name]));
    for name in ["ca", "other-ca", "a", "b", "c"] {
        new(name);
    }
    let mut subjects = vec!["a.pub".to_owned(), "b.pub".to_owned(), "c.pub".to_owned()];
    for (number, (ca, id, serial)) in [
        ("ca", "one", "1"),
        ("ca", "two", "0"),
        ("ca", "three", "64"),
        ("ca", "four", "65"),
        ("ca", "five", "18446744073709551615"),
        ("ca", "six", "4000"),
        ("other-ca", "one", "1"),
        ("other-ca", "seven", "64"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("cert{number}");
        new(&name);
        let public = format!("{name}.pub");
        assert!(keygen(
            at,
            &["-q", "-s", ca, "-I", id, "-n", "x", "-z", serial, &public]
        ));
        subjects.push(format!("{name}-cert.pub"));
    }
    let line = |name: &str| fs::read_to_string(at.join(name)).expect("read");
    let odd: String = (1..300)
        .step_by(2)
        .map(|n| format!("serial: {n}\n"))
        .collect();
    let specifications = [
        ("ca.pub", "serial: 1\nserial: 64-65\n".to_owned()),
        ("ca.pub", odd),
        (
            "ca.pub",
            "serial: 18446744073709551615\nserial: 2-5000\n".to_owned(),
        ),
        ("ca.pub", "id: one\nid: two\n".to_owned()),
        ("NONE", "id: one\nserial: 64\n".to_owned()),
        ("other-ca.pub", format!("serial: 1\nkey: {}", line("a.pub"))),
        (
            "ca.pub",
            format!("sha1: {}sha256: {}", line("a.pub"), line("b.pub")),
        ),
        ("ca.pub", format!("sha256: {}", line("cert4.pub"))),
        ("ca.pub", format!("key: {}", line("ca.pub"))),
        ("ca.pub", format!("key: {}", line("cert3-cert.pub"))),
    ];
    for (authority, specification) in specifications {
        fs::write(at.join("specification"), &specification).expect("write");
        let arguments = ["-q", "-k", "-s", authority, "-f", "list", "specification"];
        assert!(keygen(at, &arguments), "{specification}");
        let list = Krl::parse(&fs::read(at.join("list")).expect("read"));
        let list = list.unwrap_or_else(|error| panic!("{specification}: {error}"));
        for subject in &subjects {
            let good = keygen(at, &["-Q", "-f", "list", subject]);
            let revoked = revokes(&list, &line(subject));
            assert_eq!(revoked, !good, "{subject} by {authority} {specification}");
        }
        fs::remove_file(at.join("list")).expect("remove");
    }
}

/// As [`crate::revocation`] asks.
fn revokes(list: &Krl, subject: &str) -> bool {
    let Ok(certificate) = Certificate::from_openssh(subject) else {
        let key = PublicKey::from_openssh(subject).expect("key");
        return list.revokes_key(&key.to_bytes().expect("bytes"));
    };
    let wire = |key: &russh::keys::ssh_key::public::KeyData| {
        PublicKey::from(key.clone()).to_bytes().expect("bytes")
    };
    let authority = wire(certificate.signature_key());
    list.revokes_key(&wire(certificate.public_key()))
        || list.revokes_key(&authority)
        || list.revokes_certificate(&authority, certificate.serial(), certificate.key_id())
}

#[test]
fn what_is_not_understood_is_no_list() {
    let good = bytes(SERIALS);
    let header = &good[..44];
    assert!(Krl::parse(header).is_ok(), "an empty list");
    let check = |sections: &[u8], error| {
        assert_eq!(
            Krl::parse(&[header, sections].concat()),
            Err(error),
            "{sections:x?}"
        );
    };
    check(&[4, 0, 0, 0, 0], BadKrl::Signed);
    check(&[6, 0, 0, 0, 0], BadKrl::Section(6));
    check(&[2, 0, 0, 0, 0], BadKrl::Truncated);
    check(&[3, 0, 0, 0, 5, 0, 0, 0, 1, 7], BadKrl::Value(3));
    check(&[2, 0xff, 0xff, 0xff, 0xff], BadKrl::Truncated);
    // Extensions: a critical one, and one that may be skipped.
    let extension = |critical| [255, 0, 0, 0, 10, 0, 0, 0, 1, b'x', critical, 0, 0, 0, 0];
    check(&extension(1), BadKrl::Section(255));
    assert!(Krl::parse(&[header, &extension(0)].concat()).is_ok());
    // Certificates of all authorities: an unknown part, a range that is none, a negative bitmap.
    let part = |kind: u8, data: &[u8]| {
        let length = u8::try_from(data.len()).expect("short");
        let all = [
            &[
                1,
                0,
                0,
                0,
                13 + length,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                0,
                kind,
                0,
                0,
                0,
                length,
            ],
            data,
        ];
        all.concat()
    };
    check(&part(0x24, &[]), BadKrl::Section(0x24));
    check(&part(0x21, &[[0; 7], [0; 7]].concat()), BadKrl::Truncated);
    check(
        &part(0x21, &[0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1]),
        BadKrl::Value(0x21),
    );
    check(
        &part(0x22, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x80]),
        BadKrl::Value(0x22),
    );
    check(
        &part(0x22, &[[0xff; 8], [0, 0, 0, 1, 1, 0, 0, 0]].concat()[..13]),
        BadKrl::Value(0x22),
    );
    assert_eq!(Krl::parse(b"ssh-ed25519 AAAA"), Err(BadKrl::Magic));
    assert_eq!(Krl::parse(b"SSHKRL\n\0\0\0\0\x02"), Err(BadKrl::Format(2)));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(file in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Krl::parse(&file);
        let mut list = bytes(SERIALS)[..44].to_vec();
        list.extend(file);
        if let Ok(list) = Krl::parse(&list) {
            list.revokes_certificate(&authority(), 1, "x");
        }
    }

    #[test]
    fn a_list_that_is_cut_off_or_changed_is_read_or_refused(
        cut in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let good = bytes(SERIALS);
        let cut = cut.index(good.len());
        // Between its sections there is no trace of a cut.
        prop_assert!(Krl::parse(&good[..cut]).is_err() || cut == 44);
        let mut changed = good.clone();
        changed[at.index(good.len())] = value;
        if let Ok(list) = Krl::parse(&changed) {
            for serial in [0, 5, u64::MAX] {
                list.revokes_certificate(&authority(), serial, "x");
            }
        }
    }

    #[test]
    fn a_bitmap_has_the_bits_it_was_given(
        offset in 0_u64..1000,
        set in prop::collection::btree_set(0_u64..80, 1..20),
    ) {
        let mut bits = vec![0; 11];
        for bit in &set {
            let from_end = usize::try_from(bit / 8).expect("small");
            bits[10 - from_end] |= 1 << (bit % 8);
        }
        let bitmap = Bitmap { offset, bits };
        for serial in 0..1100 {
            let expected = serial >= offset && set.contains(&(serial - offset));
            prop_assert_eq!(bitmap.has(serial), expected);
        }
    }
}
