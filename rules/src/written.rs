//! The first stage: what was written. Keys are known and values have the right shape; what they mean is not asked yet.

use smol_str::SmolStr;

use crate::diagnostics::{Fault, Place};
use crate::document::{Content, Node};
use crate::findings::Findings;
use crate::keys::{Keys, What, has_content, items, list, mapping, scalar};
use crate::language;
use crate::reach::WrittenReach;
use crate::sets::{SetContent, WrittenSet};
use crate::written_entrances::{self, WrittenEntry, WrittenTunnel};
use crate::written_pattern::{self, WrittenPattern};

/// The version of the file's format that is understood.
const VERSION: &str = "1";
/// Characters of a label that people are to read in a table.
const LONGEST_NAME: usize = 120;

/// Zones of a file: a broker has a link to each.
const MOST_ZONES: usize = 4096;

/// What is said of an empty name.
const POSITION: &str = "leave the key out: the rule is then called by its position";

/// What is said of a `port` that looks like a slip.
pub(crate) const PORTS_ARE_MEANT: &str = "`ports` says which ports a rule is about";

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) place: Place,
    pub(crate) value: T,
}

/// A rule file.
#[derive(Debug, Default)]
pub(crate) struct WrittenFile {
    pub(crate) include: Vec<At<SmolStr>>,
    pub(crate) sets: Vec<WrittenSet>,
    pub(crate) zones: Vec<WrittenZone>,
    pub(crate) entries: Vec<WrittenEntry>,
    pub(crate) tunnels: Vec<WrittenTunnel>,
    pub(crate) rules: Vec<WrittenRule>,
    pub(crate) default: Option<At<SmolStr>>,
    /// Where there is no `default`.
    pub(crate) lacks_default: Option<Place>,
    pub(crate) tests: Vec<WrittenTest>,
}

/// An entry of `zones:`.
#[derive(Debug)]
pub(crate) struct WrittenZone {
    pub(crate) name: At<SmolStr>,
    pub(crate) gateways: Vec<At<SmolStr>>,
    settings: Option<Box<Settings>>,
}

/// What a zone says beside its gateways.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) reach: WrittenReach,
    pub(crate) identity: Option<At<SmolStr>>,
    pub(crate) certificate: Option<At<SmolStr>>,
    pub(crate) methods: Vec<At<SmolStr>>,
    pub(crate) known_hosts: Vec<At<SmolStr>>,
    pub(crate) host_keys: Option<At<SmolStr>>,
    pub(crate) engine: Option<At<SmolStr>>,
    pub(crate) hand_over: Option<At<SmolStr>>,
    pub(crate) on_down: Option<At<SmolStr>>,
    pub(crate) connect: Option<At<SmolStr>>,
}

/// Of a zone that says nothing of it.
static NO_SETTINGS: Settings = Settings {
    reach: WrittenReach::NOTHING,
    identity: None,
    certificate: None,
    methods: Vec::new(),
    known_hosts: Vec::new(),
    host_keys: None,
    engine: None,
    hand_over: None,
    on_down: None,
    connect: None,
};

impl WrittenZone {
    pub(crate) fn settings(&self) -> &Settings {
        self.settings.as_deref().unwrap_or(&NO_SETTINGS)
    }
}

/// An entry of `rules:`.
#[derive(Debug)]
pub(crate) struct WrittenRule {
    pub(crate) place: Place,
    /// From 1.
    pub(crate) position: usize,
    pub(crate) name: Option<At<SmolStr>>,
    pub(crate) user: Option<Vec<At<WrittenPattern>>>,
    pub(crate) group: Option<Vec<At<WrittenPattern>>>,
    pub(crate) app: Option<Vec<At<WrittenPattern>>>,
    pub(crate) to: Option<Vec<At<WrittenPattern>>>,
    pub(crate) ports: Option<Vec<At<WrittenPattern>>>,
    pub(crate) action: At<SmolStr>,
    pub(crate) zone: Option<At<SmolStr>>,
    seldom: Option<Box<Seldom>>,
}

/// What few rules say.
#[derive(Debug)]
pub(crate) struct Seldom {
    pub(crate) protocol: Option<At<SmolStr>>,
    pub(crate) enabled: Option<At<SmolStr>>,
    pub(crate) expires: Option<At<SmolStr>>,
    pub(crate) log: Option<At<SmolStr>>,
    pub(crate) notify: Option<At<SmolStr>>,
    pub(crate) with: Option<At<SmolStr>>,
    pub(crate) destination: Option<At<SmolStr>>,
    pub(crate) port: Option<At<SmolStr>>,
    pub(crate) on_down: Option<At<SmolStr>>,
    pub(crate) connect: Option<At<SmolStr>>,
}

/// Of a rule that says nothing of it.
static NOTHING: Seldom = Seldom {
    protocol: None,
    enabled: None,
    expires: None,
    log: None,
    notify: None,
    with: None,
    destination: None,
    port: None,
    on_down: None,
    connect: None,
};

impl WrittenRule {
    pub(crate) fn seldom(&self) -> &Seldom {
        self.seldom.as_deref().unwrap_or(&NOTHING)
    }
}

/// An entry of `tests:`.
#[derive(Debug)]
pub(crate) struct WrittenTest {
    pub(crate) app: Option<WrittenApplication>,
    pub(crate) user: Option<At<SmolStr>>,
    pub(crate) group: Option<Vec<At<SmolStr>>>,
    pub(crate) to: At<SmolStr>,
    pub(crate) on: Option<At<SmolStr>>,
    pub(crate) expect: At<SmolStr>,
}

/// `app:` of a test.
#[derive(Debug)]
pub(crate) struct WrittenApplication {
    pub(crate) path: At<SmolStr>,
    pub(crate) script: Option<At<SmolStr>>,
    pub(crate) parent: Option<Vec<At<SmolStr>>>,
    pub(crate) unit: Option<At<SmolStr>>,
    pub(crate) sha256: Option<At<SmolStr>>,
}

/// Reads the tree of a file. What cannot be read is noted and left out.
pub(crate) fn read(root: Node, findings: &mut Findings) -> WrittenFile {
    let place = root.place;
    if root.content == Content::Nothing {
        let hint = "the least that makes sense: `version: 1` and `default: pass`";
        findings.error(place, Fault::new("the file is empty").hint(hint));
        return WrittenFile::default();
    }
    if let Err((place, fault)) = is_known_version(&root.content) {
        findings.error(place, fault);
        return WrittenFile::default();
    }
    let Some(mut keys) = Keys::of(root, What::Words("the file"), language::FILE, findings) else {
        return WrittenFile::default();
    };
    keys.required("version", &only_version(), findings);
    let lacks_default = (!keys.names("default")).then_some(keys.place);
    let include = keys.list("include", findings, scalar);
    WrittenFile {
        include: include.flatten().unwrap_or_default(),
        sets: sets(&mut keys, findings),
        zones: zones(&mut keys, findings),
        entries: written_entrances::entries(&mut keys, findings),
        tunnels: written_entrances::tunnels(&mut keys, findings),
        rules: rules(&mut keys, findings),
        default: keys.scalar("default", findings),
        lacks_default,
        tests: tests(&mut keys, findings),
    }
}

/// A file of another version is not looked at further: its keys may mean something else.
fn is_known_version(root: &Content) -> Result<(), (Place, Fault)> {
    let Content::Map(entries) = root else {
        return Ok(());
    };
    match entries.iter().find(|(key, _)| key.is("version")) {
        Some((_, node)) => match &node.content {
            Content::Scalar(version) if version != VERSION => Err((
                node.place,
                Fault::new(format!("version {version:?} is not known")).hint(only_version()),
            )),
            Content::Scalar(_) | Content::Nothing | Content::List(_) | Content::Map(_) => Ok(()),
        },
        None => Ok(()),
    }
}

fn only_version() -> String {
    format!("this program reads `version: {VERSION}`")
}

fn sets(keys: &mut Keys, findings: &mut Findings) -> Vec<WrittenSet> {
    let Some(node) = keys.take("sets").filter(has_content) else {
        return Vec::new();
    };
    let entries = mapping(node, What::Words("`sets`"), findings)
        .into_iter()
        .flatten();
    entries
        .filter_map(|(name, node)| {
            let name = scalar(name, What::Words("the name of a set"), findings)?;
            let content = set(&name.value, node, findings).unwrap_or(SetContent::Wrong);
            Some(WrittenSet { name, content })
        })
        .collect()
}

fn set(name: &str, node: Node, findings: &mut Findings) -> Option<SetContent> {
    match node.content {
        Content::List(ref nodes) if nodes.is_empty() => Some(SetContent::Inline(Vec::new())),
        Content::Map(_) => {
            let mut keys = Keys::of(node, What::Set(name), language::SET_FILE, findings)?;
            let file = keys.required("file", "write `file: NAME`, or a list", findings)?;
            keys.are_known().then_some(SetContent::File(file))
        }
        Content::List(_) | Content::Scalar(_) | Content::Nothing => {
            let entries = items(node, name, findings, written_pattern::set_entry)?;
            Some(SetContent::Inline(entries))
        }
    }
}

fn zones(keys: &mut Keys, findings: &mut Findings) -> Vec<WrittenZone> {
    let Some(node) = keys.take("zones").filter(has_content) else {
        return Vec::new();
    };
    let Some(mut entries) = mapping(node, What::Words("`zones`"), findings) else {
        return Vec::new();
    };
    if let Some((beyond, _)) = entries.get(MOST_ZONES) {
        let fault = Fault::new(format!("there are more than {MOST_ZONES} zones"));
        findings.error(beyond.place, fault);
        entries.truncate(MOST_ZONES);
    }
    let mut zones = Vec::with_capacity(entries.len());
    let read = entries.into_iter();
    zones.extend(read.filter_map(|(name, node)| zone(name, node, findings)));
    zones
}

fn zone(name: Node, node: Node, findings: &mut Findings) -> Option<WrittenZone> {
    let name = scalar(name, What::Words("the name of a zone"), findings)?;
    let nothing = WrittenZone {
        name,
        gateways: Vec::new(),
        settings: None,
    };
    let called = nothing.name.value.clone();
    let what = What::Zone(&called);
    let Some(mut keys) = Keys::of(node, what, language::ZONE, findings) else {
        return Some(nothing);
    };
    let gateways = keys.take("gateways");
    if gateways.is_none() {
        let fault = Fault::new(format!("{what} has no gateways"));
        findings.error(
            nothing.name.place,
            fault.hint("write `gateways: [USER@HOST:PORT]`"),
        );
    }
    let gateways = gateways.and_then(|node| items(node, "gateways", findings, scalar));
    Some(WrittenZone {
        gateways: gateways.unwrap_or_default(),
        settings: keys.has_more().then(|| settings(&mut keys, findings)),
        ..nothing
    })
}

fn settings(keys: &mut Keys, findings: &mut Findings) -> Box<Settings> {
    Box::new(Settings {
        reach: WrittenReach::take(keys, findings),
        identity: keys.scalar("identity", findings),
        certificate: keys.scalar("certificate", findings),
        methods: texts(keys, "methods", findings),
        known_hosts: texts(keys, "known_hosts", findings),
        host_keys: keys.scalar("host_keys", findings),
        engine: keys.scalar("engine", findings),
        hand_over: keys.scalar("hand_over", findings),
        on_down: keys.scalar("on_down", findings),
        connect: keys.scalar("connect", findings),
    })
}

/// One text or a list of them; none where something was wrong, and noted.
fn texts(keys: &mut Keys, key: &str, findings: &mut Findings) -> Vec<At<SmolStr>> {
    let taken = keys.take(key);
    let texts = taken.and_then(|node| items(node, key, findings, scalar));
    texts.unwrap_or_default()
}

fn rules(keys: &mut Keys, findings: &mut Findings) -> Vec<WrittenRule> {
    let nodes = list(keys, "rules", findings);
    let mut rules = Vec::with_capacity(nodes.len());
    let read = nodes.into_iter().enumerate();
    rules.extend(read.filter_map(|(index, node)| rule(index + 1, node, findings)));
    rules
}

fn rule(position: usize, node: Node, findings: &mut Findings) -> Option<WrittenRule> {
    let mut keys = Keys::of(node, What::Rule(position), language::RULE, findings)?;
    let hint = "write `action: tunnel`, `action: pass` or `action: block`";
    let action = keys.required("action", hint, findings);
    let name = keys.scalar("name", findings);
    let name = name.filter(|name| is_readable(name, POSITION, findings));
    let to = keys.list("to", findings, written_pattern::host);
    let ports = keys.list("ports", findings, written_pattern::ports);
    let app = keys.list("app", findings, written_pattern::application);
    let zone = keys.scalar("zone", findings);
    let user = keys.list("user", findings, written_pattern::name);
    let group = keys.list("group", findings, written_pattern::name);
    let seldom = keys.has_more().then(|| seldom(&mut keys, findings));
    let action = action?;
    if !keys.are_known() {
        // What the rule would match without that key is not what was meant.
        return None;
    }
    Some(WrittenRule {
        place: name.as_ref().map_or(keys.place, |name| name.place),
        position,
        name,
        user: user?,
        group: group?,
        app: app?,
        to: to?,
        ports: ports?,
        action,
        zone,
        seldom,
    })
}

fn seldom(keys: &mut Keys, findings: &mut Findings) -> Box<Seldom> {
    Box::new(Seldom {
        protocol: keys.scalar("protocol", findings),
        enabled: keys.scalar("enabled", findings),
        expires: keys.scalar("expires", findings),
        log: keys.scalar("log", findings),
        notify: keys.scalar("notify", findings),
        with: keys.scalar("with", findings),
        destination: keys.scalar("destination", findings),
        port: other_port(keys, findings),
        on_down: keys.scalar("on_down", findings),
        connect: keys.scalar("connect", findings),
    })
}

/// `port:`, which is easily taken for `ports:`.
fn other_port(keys: &mut Keys, findings: &mut Findings) -> Option<At<SmolStr>> {
    let node = keys.take("port")?;
    if let Content::Scalar(_) = node.content {
        return scalar(node, What::Key("port"), findings);
    }
    let fault = Fault::new("`port` is one port to tunnel to");
    findings.error(node.place, fault.hint(PORTS_ARE_MEANT));
    None
}

fn tests(keys: &mut Keys, findings: &mut Findings) -> Vec<WrittenTest> {
    let tests = list(keys, "tests", findings).into_iter();
    tests.filter_map(|node| test(node, findings)).collect()
}

fn test(node: Node, findings: &mut Findings) -> Option<WrittenTest> {
    let mut keys = Keys::of(node, What::Words("a test"), language::TEST, findings)?;
    let app = match keys.take("app") {
        None => Some(None),
        Some(node) => tested_application(node, findings).map(Some),
    };
    let user = keys.scalar("user", findings);
    let group = keys.list("group", findings, scalar);
    let to = keys.required("to", "write `to: \"10.20.1.1:443\"`", findings);
    let hint = "write `expect: tunnel ZONE`, `expect: pass` or `expect: block`";
    let expect = keys.required("expect", hint, findings);
    let on = keys.scalar("on", findings);
    Some(WrittenTest {
        on,
        app: app?,
        user,
        group: group?,
        to: to?,
        expect: expect?,
    })
}

fn tested_application(node: Node, findings: &mut Findings) -> Option<WrittenApplication> {
    if !matches!(node.content, Content::Map(_)) {
        return Some(WrittenApplication {
            path: scalar(node, What::Key("app"), findings)?,
            script: None,
            parent: None,
            unit: None,
            sha256: None,
        });
    }
    let mut keys = Keys::of(
        node,
        What::Words("`app` of a test"),
        language::TESTED_APPLICATION,
        findings,
    )?;
    let path = keys.required("path", "write `path: /usr/bin/python3`", findings);
    let parent = keys.list("parent", findings, scalar);
    Some(WrittenApplication {
        script: keys.scalar("script", findings),
        parent: parent?,
        unit: keys.scalar("unit", findings),
        sha256: keys.scalar("sha256", findings),
        path: path?,
    })
}

/// A name stands in tables, logs and messages on one line.
pub(crate) fn is_readable(name: &At<SmolStr>, without: &str, findings: &mut Findings) -> bool {
    let text = name.value.trim();
    let fault = if text.is_empty() {
        Fault::new("a name is empty").hint(without)
    } else if name.value.chars().any(char::is_control) {
        Fault::new("a name has control characters or several lines")
    } else if name.value.chars().count() > LONGEST_NAME {
        Fault::new(format!("a name has at most {LONGEST_NAME} characters"))
    } else {
        return true;
    };
    findings.error(name.place, fault);
    false
}
