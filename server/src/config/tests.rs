use proptest::prelude::*;

use super::*;

const GOOD: &str = r#"version: 1
listen: ["[::]:443", "127.0.0.1:2222"]
host_keys: [/etc/adit/host_ed25519]
authorized_keys: /etc/adit/keys/%u
groups: {finance: [alice, bob]}
policy:
  - name: finance staff
    users: [carol, "@finance"]
    allow: ["10.20.0.0/16:443", "*.finance.corp:*"]
max_connections: 10
login_grace_seconds: 5
log: {format: json, level: debug}
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("gateway.yaml"), text)
}

#[test]
fn a_whole_file_is_read_as_it_is_meant() {
    let config = parse(GOOD).expect("good");
    let serving = config.for_server().expect("serving");
    assert_eq!(
        serving.listen,
        [
            "[::]:443".parse().expect("address"),
            "127.0.0.1:2222".parse().expect("address")
        ]
    );
    assert_eq!(serving.host_keys, [PathBuf::from("/etc/adit/host_ed25519")]);
    let [entry] = config.policy.entries() else {
        panic!("one entry")
    };
    let mut users: Vec<_> = entry
        .conditions
        .users
        .iter()
        .map(UserName::as_str)
        .collect();
    users.sort_unstable();
    assert_eq!(
        (entry.name.as_ref(), users.as_slice()),
        ("finance staff", &["alice", "bob", "carol"][..])
    );
    assert_eq!(entry.allow.len(), 2);
    assert_eq!(config.limits.max_connections, 10);
    assert_eq!(config.limits.login_grace, Duration::from_secs(5));
    assert_eq!(config.limits.dial_timeout, Duration::from_secs(15));
    assert_eq!(
        (config.log.format, config.log.level),
        (LogFormat::Json, LogLevel::Debug)
    );
}

/// Replaces `from` in the good file and expects an error at `place` with these words.
fn check(from: &str, to: &str, place: &str, words: &str) {
    assert!(GOOD.contains(from), "{from:?}");
    let error = match parse(&GOOD.replacen(from, to, 1))
        .and_then(|config| config.for_server().map(|_| ()))
    {
        Ok(()) => panic!("{to:?} was accepted"),
        Err(error) => error.to_string(),
    };
    assert!(
        error.starts_with(&format!("gateway.yaml{place}: ")),
        "{to:?}: {error}"
    );
    assert!(error.contains(words), "{to:?}: {error}");
}

#[test]
fn errors_say_where_and_what() {
    check("version: 1", "version: 2", ":1:10", "version 2");
    check(
        "127.0.0.1:2222",
        "127.0.0.1",
        ":2:22",
        "no address to listen on",
    );
    check("%u", "keys", ":4:18", "%u");
    check("/etc/adit/keys/%u", "keys/%u", ":4:18", "not absolute");
    let relative = "revoked_keys: [keys/revoked]";
    check("max_connections: 10", relative, ":10:16", "not absolute");
    let no_one = "user_ca: []";
    let no_keys = "authorized_keys: /etc/adit/keys/%u";
    check(no_keys, no_one, "", "`authorized_keys` is missing");
    let colourful = "banner: \"\\e[31mred\"";
    check(
        "max_connections: 10",
        colourful,
        ":10:9",
        "control characters",
    );
    check(
        "max_connections: 10",
        "idle_timeout_seconds: 0",
        ":10:23",
        "from 1 to",
    );
    let far = "metrics: \"192.0.2.1:9464\"";
    check(
        "max_connections: 10",
        far,
        ":10:10",
        "loopback address only",
    );
    let limits = |more: &str, place, words| check("max_connections: 10", more, place, words);
    limits("limits: [{users: [\"@x\"]}]", ":10:19", "no group");
    limits("limits: [{users: [a], flows: 0}]", ":10:30", "from 1 to");
    limits("limits: [{users: [a], rate: 1}]", ":10:23", "unknown field");
    check("carol, \"@finance\"", "", ":7:11", "is for nobody");
    let with = |more: &str| format!("allow: [\"10.0.0.1:1\"]\n    {more}\n    #");
    let conditions = |more: &str, place, words| check("allow:", &with(more), place, words);
    conditions("from: [10.0.0.1/8]", ":10:12", "the network is 10.0.0.0/8");
    conditions("from: [host]", ":10:12", "no address and no network");
    conditions("when: 8-18", ":10:11", "mon-fri 08:00-18:00");
    conditions("applications: [bin/x]", ":10:20", "absolute path");
    conditions("principals: [\"\"]", ":10:18", "has a name");
    check("carol", "../etc", ":8:13", "no user name");
    check(
        "@finance",
        "@sales",
        ":8:20",
        "no group is called \"sales\"",
    );
    check(
        "10.20.0.0/16:443",
        "10.20.0.0/16",
        ":9:13",
        "hint: HOST:PORTS",
    );
    check(
        "max_connections: 10",
        "max_connections: 0",
        ":10:18",
        "from 1 to 65536",
    );
    check(
        "max_connections: 10",
        "rekey_bytes: 1000",
        ":10:14",
        "from 65536 to 1073741824",
    );
    check(
        "max_connections",
        "max_conections",
        ":10:1",
        "unknown field",
    );
    check("    users:", "    user:", ":8:5", "unknown field");
    check("level: debug", "level: loud", ":12:28", "loud");
    check(
        "login_grace_seconds: 5",
        "max_connections: 5",
        ":11:1",
        "duplicate",
    );
    check("listen:", "# listen:", "", "`listen` is missing");
    let good = "max_connections: 10";
    check(
        good,
        "methods: publickey",
        ":10:10",
        "hint: a list is wanted",
    );
    check(good, "log: debug", ":10:6", "hint: keys are wanted");
    check(good, "rekey_bytes: 1 GiB", ":10:14", "hint: a whole number");
}

#[test]
fn an_error_shows_its_line_with_a_caret() {
    let error = parse(&GOOD.replace("@finance", "@sales"))
        .expect_err("no such group")
        .to_string();
    let expected = "gateway.yaml:8:20: no group is called \"sales\"
      users: [carol, \"@sales\"]
                     ^
  hint: define it:  groups: {finance: [alice, bob]}";
    assert_eq!(error, expected);
}

#[test]
fn two_entries_of_one_name_are_refused() {
    let second =
        "  - {name: finance staff, users: [dora], allow: [\"10.0.0.1:1\"]}\nmax_connections: 10";
    check("max_connections: 10", second, ":10:12", "second entry");
}

#[test]
fn without_a_policy_nothing_is_allowed() {
    let start = GOOD.find("policy:").expect("policy");
    assert!(
        parse(&GOOD[..start])
            .expect("good")
            .policy
            .entries()
            .is_empty()
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_change_of_a_good_file_is_read_or_refused(
        at in 0..GOOD.len(), length in 0_usize..20, put in "[ -~\n]{0,12}",
    ) {
        let mut bytes = GOOD.as_bytes().to_vec();
        let end = (at + length).min(bytes.len());
        bytes.splice(at..end, put.bytes());
        if let Err(error) = parse(&String::from_utf8_lossy(&bytes)) {
            prop_assert!(error.to_string().starts_with("gateway.yaml"));
        }
    }
}

#[test]
fn methods_have_what_they_need_and_ask_for_what_they_say() {
    let with = |text: &str| format!("authorized_keys: /etc/adit/keys/%u\n{text}");
    let check = |text: &str, place, words| {
        check(
            "authorized_keys: /etc/adit/keys/%u",
            &with(text),
            place,
            words,
        );
    };
    let passwords = "passwords: /etc/adit/passwords\n";
    check("methods: [password]", ":5:10", "`passwords` is missing");
    check(
        "methods: [\"publickey,totp\"]",
        ":5:10",
        "`totp` is missing",
    );
    check(passwords, ":5:12", "`passwords` is used by no chain");
    check("passwords: passwords", ":5:12", "not absolute");
    check(
        "totp: /etc/adit/totp",
        ":5:7",
        "methods: [\"publickey,totp\"]",
    );
    check("methods: []", ":5:10", "1 to 16 chains");
    check("methods: [keyboard]", ":5:11", "\"keyboard\" is no method");
    check("totp: /t\nmethods: [totp]", ":6:11", "alone lets nobody in");
    check(
        "passwords: /p\nmethods: [\"publickey,password\", publickey]",
        ":6:11",
        "\"publickey\" alone lets in already",
    );
    let good = GOOD.replace(
        "authorized_keys: /etc/adit/keys/%u",
        &format!("{passwords}methods: [password]"),
    );
    let config = parse(&good).expect("good");
    let login = &config.for_server().expect("no keys are needed").login;
    assert_eq!(login.passwords, Some("/etc/adit/passwords".into()));
    assert!(login.methods.has(Method::Password) && !login.methods.has(Method::PublicKey));
    let no_keys = parse(&good.replace("[password]", "[password, publickey]"));
    let missing = no_keys.and_then(|config| config.for_server().map(|_| ()));
    let missing = missing.expect_err("no keys").to_string();
    assert!(
        missing.contains("`authorized_keys` is missing"),
        "{missing}"
    );
}
