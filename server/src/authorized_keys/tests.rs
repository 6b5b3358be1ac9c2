use proptest::prelude::*;

use super::*;

/// Made with `ssh-keygen -t ed25519` and `ssh-keygen -t rsa -b 1024`.
const ED25519: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIRa9vDfiR7M35Zgzf/0GSlqST/kQ9J0AlLi15Lctg6+";
const RSA_1024: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDgYI1ihdDKyx3I0TSGbpzmYDjnkPzWsnyPMb9xw0m/3w5vGc2lVsdHcHt6R7pLKl03Mzu5PrR93Tm532yHIK8Z2QECcEiOBRZretTtLeeYBPH+j5RmIw/kB3EnHnb3fponsalt+75s/L738nspjzJmqAAXhcYMqU32tcNKubzlVw==";

/// Put together as OpenSSH's PROTOCOL.u2f says; `ssh-keygen -l` reads them.
const SK_ED25519: &str = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIIRa9vDfiR7M35Zgzf/0GSlqST/kQ9J0AlLi15Lctg6+AAAABHNzaDo=";
const SK_ECDSA: &str = "sk-ecdsa-sha2-nistp256@openssh.com AAAAInNrLWVjZHNhLXNoYTItbmlzdHAyNTZAb3BlbnNzaC5jb20AAAAIbmlzdHAyNTYAAABBBAq8opVA/4l5/v1rrR6Upi8xtdps8Te2FlMnkKWOohDN8CUxI+dWa8P841BEzozN6qwKJaxmKWmkkgEBOa+mHXEAAAAEc3NoOg==";

fn check(line: &str, expected: Result<bool, BadLine>) {
    assert_eq!(
        parse_line(line, &TimeZone::UTC).map(|key| key.is_some()),
        expected,
        "{line:?}"
    );
}

#[test]
fn lines_are_keys_comments_or_refused() {
    let unknown = |name: &str| Err(BadOptions::Unknown(name.to_owned()).into());
    check("", Ok(false));
    check("  # alice", Ok(false));
    check(ED25519, Ok(true));
    check(&format!("{ED25519} alice at her desk # 2"), Ok(true));
    check(&format!("  {}\tx", ED25519.replace(' ', "\t")), Ok(true));
    check(&format!("restrict {ED25519} alice"), Ok(true));
    check(
        &format!("from=\"10.0.0.1, 10.0.0.2\" {ED25519}"),
        Err(BadOptions::From(crate::source_patterns::BadSource::Pattern).into()),
    );
    check(&format!("cert-authority \t{ED25519}"), Ok(true));
    check(
        &format!("restrict,command=\"/bin/a b\" {ED25519}"),
        unknown("command"),
    );
    check(
        &format!("restrict expiry-time=\"20200101\" {ED25519}"),
        Err(BadLine::Key),
    );
    check(RSA_1024, Err(Unusable::Weak.into()));
    check(SK_ED25519, Err(Unusable::SecurityKey.into()));
    check(SK_ECDSA, Err(Unusable::SecurityKey.into()));
    check("ssh-ed25519 AAAA", Err(BadLine::Key));
    check("ssh-ed25519", Err(BadLine::Key));
    check("restrict", Err(BadLine::Key));
}

fn line_of(
    text: &str,
    authority: bool,
    from: &str,
    now: &str,
) -> (Option<KeyOptions>, Vec<(usize, BadLine)>) {
    let keys = AuthorizedKeys {
        file: PathBuf::from("keys"),
        text: text.to_owned(),
    };
    let key = PublicKey::from_openssh(ED25519).expect("key");
    let attempt = Attempt {
        from: from.parse().expect("address"),
        now: now.parse().expect("time"),
    };
    let mut unused = Vec::new();
    let found = keys.line(key.key_data(), authority, attempt, |line, why| {
        unused.push((line, why));
    });
    (found, unused)
}

#[test]
fn the_first_line_that_fits_counts() {
    let now = "2026-01-02T00:00:00Z";
    let text = format!(
        "# keys\nfrom=\"10.0.0.0/8\",no-port-forwarding {ED25519}\ncommand=\"x\" {ED25519}\n\
         expiry-time=\"20260101Z\" {ED25519}\nfrom=\"192.0.2.1\" {ED25519}\n"
    );
    let (found, unused) = line_of(&text, false, "10.1.2.3", now);
    assert!(found.is_some_and(|options| !options.permissions.forwarding) && unused.is_empty());
    let (found, unused) = line_of(&text, false, "192.0.2.1", now);
    assert!(found.is_some_and(|options| options.permissions.forwarding));
    let unused: Vec<_> = unused
        .iter()
        .map(|(line, why)| (*line, why.to_string()))
        .collect();
    assert_eq!(unused.len(), 3, "{unused:?}");
    assert!(unused[0].0 == 2 && unused[0].1.contains("`from`"));
    assert!(unused[1].0 == 3 && unused[1].1.contains("\"command\""));
    assert!(unused[2].0 == 4 && unused[2].1.contains("`expiry-time`"));
    assert_eq!(line_of(&text, false, "192.0.2.2", now).0, None);
}

#[test]
fn a_key_is_good_until_its_expiry_time_and_no_longer() {
    let text = format!("expiry-time=\"20260102Z\" {ED25519}");
    let at = |now| line_of(&text, false, "192.0.2.1", now).0.is_some();
    assert!(at("2026-01-01T23:59:59Z") && at("2026-01-02T00:00:00Z"));
    assert!(!at("2026-01-02T00:00:01Z"));
}

#[test]
fn a_key_logs_in_or_signs_certificates_and_never_both() {
    let now = "2026-01-02T00:00:00Z";
    let authority = format!("cert-authority {ED25519}");
    assert!(line_of(&authority, false, "192.0.2.1", now).0.is_none());
    assert!(line_of(&authority, true, "192.0.2.1", now).0.is_some());
    assert!(line_of(ED25519, true, "192.0.2.1", now).0.is_none());
}

#[test]
fn paths_name_one_file_for_each_user() {
    let path = |text: &str| {
        text.parse::<KeysPath>()
            .map(|path| path.of(&"alice".parse().expect("name")))
    };
    assert_eq!(path("/etc/adit/keys/%u"), Ok("/etc/adit/keys/alice".into()));
    assert_eq!(
        path("/home/%u/.ssh/authorized_keys"),
        Ok("/home/alice/.ssh/authorized_keys".into())
    );
    assert_eq!(path("/etc/adit/keys"), Err(BadKeysPath::User));
    assert_eq!(path("/etc/%u/%u"), Err(BadKeysPath::User));
    assert_eq!(path("/etc/%h/%u"), Err(BadKeysPath::User));
    assert_eq!(path("keys/%u"), Err(BadKeysPath::Relative));
}

proptest! {
    #[test]
    fn any_line_is_read_or_refused(line in "\\PC{0,200}") {
        let _ = parse_line(&line, &TimeZone::UTC);
    }

    #[test]
    fn no_word_before_a_key_is_ignored_but_options_that_are_known(word in "[!-~]{1,20}") {
        let known = [
            "restrict", "port-forwarding", "no-port-forwarding", "cert-authority", "pty", "no-pty",
            "user-rc", "no-user-rc",
        ];
        let words = word.to_ascii_lowercase();
        prop_assume!(!words.split(',').all(|word| known.contains(&word)) && !word.starts_with('#'));
        let line = format!("{word} {ED25519}");
        prop_assert!(parse_line(&line, &TimeZone::UTC).is_err());
    }
}
