//! The keys of a rule file: what there is to write. What is read and what `adit check --schema` prints both come from here.

/// A key of a mapping.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// One sentence for an editor to show.
    pub(crate) about: &'static str,
    pub(crate) is_required: bool,
    pub(crate) value: Shape,
}

/// What a value looks like.
#[derive(Debug)]
pub(crate) enum Shape {
    /// The number that stands for the version of the format.
    Version,
    /// Any text or number.
    Text,
    /// One of these words.
    Words(&'static [&'static str]),
    /// `true` or `false`.
    Switch,
    /// A day.
    Date,
    /// A port or a range of ports.
    Ports,
    /// One of these.
    Either(&'static [Shape]),
    /// One value or a list of them.
    OneOrMore(&'static Shape),
    /// A list.
    List(&'static Shape),
    /// A mapping with these keys and no others.
    Mapping(&'static [Key]),
    /// A mapping with any keys, all of whose values look like this.
    Named(&'static Shape),
}

const fn key(name: &'static str, about: &'static str, value: Shape) -> Key {
    Key {
        name,
        about,
        is_required: false,
        value,
    }
}

const fn required(name: &'static str, about: &'static str, value: Shape) -> Key {
    Key {
        name,
        about,
        is_required: true,
        value,
    }
}

/// What a connection gets while no gateway answers.
pub(crate) const ON_DOWN: &[&str] = &["reject", "hold", "pass"];
/// How to log in.
pub(crate) const METHODS: &[&str] = &["publickey", "keyboard-interactive", "password"];
/// What becomes of an unknown host key.
pub(crate) const HOST_KEYS: &[&str] = &["strict", "accept-new", "ask"];
/// What a program's `connect()` gives.
pub(crate) const CONNECT: &[&str] = &["honest", "early"];
/// What speaks SSH.
pub(crate) const ENGINES: &[&str] = &["auto", "embedded", "openssh"];
/// What a rule does.
pub(crate) const ACTIONS: &[&str] = &["tunnel", "pass", "block"];
/// What a program is told that is blocked.
pub(crate) const REFUSALS: &[&str] = &["reset", "drop"];
/// What is carried.
pub(crate) const PROTOCOLS: &[&str] = &["tcp"];

/// The file.
pub(crate) const FILE: &[Key] = &[
    required(
        "version",
        "The version of the file's format.",
        Shape::Version,
    ),
    key(
        "include",
        "Other rule files, which are read before this one.",
        Shape::OneOrMore(&Shape::Text),
    ),
    key(
        "sets",
        "Lists that rules name as \"@NAME\".",
        Shape::Named(&Shape::Either(&[
            PLAIN_APPLICATION,
            Shape::List(&PLAIN_APPLICATION),
            Shape::Mapping(SET_FILE),
        ])),
    ),
    key(
        "zones",
        "The zones, by name.",
        Shape::Named(&Shape::Mapping(ZONE)),
    ),
    key(
        "entries",
        "Where programs may ask for connections that cannot be captured.",
        Shape::Mapping(ENTRIES),
    ),
    key(
        "tunnels",
        "Listeners that lead through a zone to one destination.",
        Shape::List(&Shape::Mapping(TUNNEL)),
    ),
    key(
        "rules",
        "The rules; the first that matches decides.",
        Shape::List(&Shape::Mapping(RULE)),
    ),
    key(
        "default",
        "What a connection gets that no rule matches: pass, block or tunnel ZONE. One of a layer's files says it.",
        Shape::Text,
    ),
    key(
        "tests",
        "What you expect of the rules; checked whenever the file is read.",
        Shape::List(&Shape::Mapping(TEST)),
    ),
];

/// A set in a file.
pub(crate) const SET_FILE: &[Key] = &[required(
    "file",
    "A file beside this one: plain lines, or any JSON document.",
    Shape::Text,
)];

/// A zone.
pub(crate) const ZONE: &[Key] = &[
    required(
        "gateways",
        "USER@HOST:PORT, tried in this order; with `%h` for HOST the host itself that a connection is for.",
        Shape::OneOrMore(&Shape::Text),
    ),
    key(
        "via",
        "Jump hosts on the way to them, USER@HOST:PORT each.",
        Shape::OneOrMore(&Shape::Text),
    ),
    key(
        "proxy",
        "What connects to the first host: http://HOST:PORT or socks5://HOST:PORT.",
        Shape::Text,
    ),
    key(
        "proxy_password_file",
        "The file with the password of the proxy's user.",
        Shape::Text,
    ),
    key(
        "ssh_config",
        "`false` leaves the configuration of the system's ssh out of account.",
        Shape::Switch,
    ),
    key(
        "identity",
        "`agent`, or the file with the private key.",
        Shape::Text,
    ),
    key(
        "certificate",
        "The file with the certificate for the key; without it the one beside the key.",
        Shape::Text,
    ),
    key(
        "methods",
        "How to log in, in this order.",
        Shape::OneOrMore(&Shape::Words(METHODS)),
    ),
    key(
        "known_hosts",
        "The files with the gateways' host keys.",
        Shape::OneOrMore(&Shape::Text),
    ),
    key(
        "host_keys",
        "What becomes of a gateway whose host key no file knows.",
        Shape::Words(HOST_KEYS),
    ),
    key(
        "engine",
        "What speaks SSH to the gateways.",
        Shape::Words(ENGINES),
    ),
    key(
        "hand_over",
        "`true` gives early connections whole to the system's ssh, where a gateway has nothing but sshd.",
        Shape::Switch,
    ),
    key(
        "on_down",
        "What a connection gets while no gateway answers.",
        Shape::Words(ON_DOWN),
    ),
    key(
        "connect",
        "What a program's connect() gives.",
        Shape::Words(CONNECT),
    ),
];

/// `entries:`
pub(crate) const ENTRIES: &[Key] = &[
    key(
        "socks5",
        "Where SOCKS 5 is spoken: a port, or a loopback address with one.",
        Shape::OneOrMore(&Shape::Text),
    ),
    key(
        "http",
        "Where HTTP's CONNECT is understood: a port, or a loopback address with one.",
        Shape::OneOrMore(&Shape::Text),
    ),
];

/// A static tunnel.
pub(crate) const TUNNEL: &[Key] = &[
    required(
        "name",
        "What tables and messages call the tunnel.",
        Shape::Text,
    ),
    required(
        "listen",
        "A port of both loopback addresses, or a loopback address with one.",
        Shape::Text,
    ),
    key(
        "zone",
        "Through which zone; may be left out while there is one.",
        Shape::Text,
    ),
    required(
        "to",
        "HOST:PORT; a name is resolved by the gateway.",
        Shape::Text,
    ),
    key(
        "on_down",
        "As in the zone; goes before it.",
        Shape::Words(ON_DOWN),
    ),
];

/// A rule.
pub(crate) const RULE: &[Key] = &[
    key(
        "name",
        "What tables and messages call the rule.",
        Shape::Text,
    ),
    key(
        "user",
        "Whose connections; without it anybody's.",
        NAMES_OR_NOT,
    ),
    key(
        "group",
        "Of which groups the user is in one; without it any.",
        NAMES_OR_NOT,
    ),
    key(
        "app",
        "Which applications; without it any.",
        Shape::OneOrMore(&APPLICATION),
    ),
    key(
        "to",
        "Which hosts; without it any.",
        Shape::OneOrMore(&HOST),
    ),
    key(
        "ports",
        "Which ports; without it any.",
        Shape::OneOrMore(&PORTS),
    ),
    key("protocol", "What is carried: TCP.", Shape::Words(PROTOCOLS)),
    required("action", "What a connection gets.", Shape::Words(ACTIONS)),
    key(
        "with",
        "What a program is told that is blocked.",
        Shape::Words(REFUSALS),
    ),
    key("enabled", "`false` switches the rule off.", Shape::Switch),
    key(
        "expires",
        "The last day on which the rule matches.",
        Shape::Date,
    ),
    key(
        "log",
        "`true` says each of its decisions in the log, also of connections that go well.",
        Shape::Switch,
    ),
    key(
        "notify",
        "`true` tells the user on the desktop when an application is caught by it for the first time.",
        Shape::Switch,
    ),
    key(
        "zone",
        "Through which zone; may be left out while there is one.",
        Shape::Text,
    ),
    key(
        "destination",
        "To which host instead of the one that was asked for: an address, or a name that the gateway resolves.",
        Shape::Text,
    ),
    key(
        "port",
        "To which port instead of the one that was asked for.",
        Shape::Text,
    ),
    key(
        "on_down",
        "As in the zone; goes before it.",
        Shape::Words(ON_DOWN),
    ),
    key(
        "connect",
        "As in the zone; goes before it.",
        Shape::Words(CONNECT),
    ),
];

/// A test.
pub(crate) const TEST: &[Key] = &[
    required("to", "HOST:PORT.", Shape::Text),
    key(
        "app",
        "The path of a binary, or `unknown`; or what is known of it.",
        Shape::Either(&[Shape::Text, Shape::Mapping(TESTED_APPLICATION)]),
    ),
    key("user", "Whose connection: a name or a number.", Shape::Text),
    key(
        "group",
        "The groups of the user.",
        Shape::OneOrMore(&Shape::Text),
    ),
    key(
        "on",
        "The day on which it is judged; without it that of reading.",
        Shape::Date,
    ),
    required(
        "expect",
        "tunnel ZONE, tunnel, pass, block or block drop; behind a tunnel also `to HOST:PORT`.",
        Shape::Text,
    ),
];

/// `app:` of a test.
pub(crate) const TESTED_APPLICATION: &[Key] = &[
    required("path", "The path of the binary.", Shape::Text),
    key("script", "The path of the script, or `none`.", Shape::Text),
    key(
        "parent",
        "The paths of the ancestors' binaries, the parent's first, or `none`.",
        Shape::OneOrMore(&Shape::Text),
    ),
    key(
        "unit",
        "The path of the control group, or a unit, or `none`.",
        Shape::Text,
    ),
    key("sha256", "The hash of the binary.", Shape::Text),
];

/// `{regex: …}`
pub(crate) const REGEX: &[Key] = &[key("regex", "A regular expression, searched.", Shape::Text)];

/// What may stand in `to:` as a mapping.
pub(crate) const HOST_MAPPING: &[Key] = &[
    key(
        "regex",
        "A regular expression, searched in the name.",
        Shape::Text,
    ),
    key("not", "None of these.", Shape::OneOrMore(&PLAIN_HOST)),
];

/// What may stand in `app:` as a mapping: all of its keys must hold.
pub(crate) const APPLICATION_MAPPING: &[Key] = &[
    PATH,
    PATH_REGEX,
    SCRIPT,
    PARENT,
    UNIT,
    SHA256,
    key(
        "not",
        "None of these.",
        Shape::OneOrMore(&PLAIN_APPLICATION),
    ),
];

/// The same under `not`, where there is no second one.
pub(crate) const PLAIN_APPLICATION_MAPPING: &[Key] =
    &[PATH, PATH_REGEX, SCRIPT, PARENT, UNIT, SHA256];

/// What may stand in `ports:`, `user:` and `group:` as a mapping.
pub(crate) const NOT_PORTS: &[Key] = &[key(
    "not",
    "None of these.",
    Shape::OneOrMore(&Shape::Ports),
)];
/// As `NOT_PORTS`.
pub(crate) const NOT_NAMES: &[Key] =
    &[key("not", "None of these.", Shape::OneOrMore(&Shape::Text))];

const PATH: Key = key(
    "path",
    "The binary: a name, a path or a glob.",
    Shape::OneOrMore(&PATTERN),
);
const PATH_REGEX: Key = key(
    "regex",
    "A regular expression, searched in the path.",
    Shape::Text,
);
const SCRIPT: Key = key(
    "script",
    "The script that an interpreter runs: a name, a path or a glob; or `none`.",
    Shape::OneOrMore(&PATTERN),
);
const PARENT: Key = key(
    "parent",
    "The binary of any ancestor: a name, a path or a glob.",
    Shape::OneOrMore(&PATTERN),
);
const UNIT: Key = key(
    "unit",
    "The systemd unit, or the path of the control group, or a glob; or `none`.",
    Shape::OneOrMore(&Shape::Text),
);
const SHA256: Key = key(
    "sha256",
    "The hash of the binary.",
    Shape::OneOrMore(&Shape::Text),
);

const PATTERN: Shape = Shape::Either(&[Shape::Text, Shape::Mapping(REGEX)]);
const APPLICATION: Shape = Shape::Either(&[Shape::Text, Shape::Mapping(APPLICATION_MAPPING)]);
const PLAIN_APPLICATION: Shape =
    Shape::Either(&[Shape::Text, Shape::Mapping(PLAIN_APPLICATION_MAPPING)]);
const HOST: Shape = Shape::Either(&[Shape::Text, Shape::Mapping(HOST_MAPPING)]);
const PLAIN_HOST: Shape = Shape::Either(&[Shape::Text, Shape::Mapping(REGEX)]);
const PORTS: Shape = Shape::Either(&[Shape::Ports, Shape::Mapping(NOT_PORTS)]);
const NAMES_OR_NOT: Shape =
    Shape::OneOrMore(&Shape::Either(&[Shape::Text, Shape::Mapping(NOT_NAMES)]));
