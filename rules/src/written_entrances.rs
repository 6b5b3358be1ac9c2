//! The first stage of `entries:` and `tunnels:`.

use smol_str::SmolStr;

use crate::diagnostics::Place;
use crate::document::Node;
use crate::entrance::EntryProtocol;
use crate::findings::Findings;
use crate::keys::{Keys, What, has_content, list, scalar};
use crate::language;
use crate::written::{At, is_readable};

const NAME: &str = "tables and messages call it so";

/// An address of `entries:`.
#[derive(Debug)]
pub(crate) struct WrittenEntry {
    pub(crate) protocol: EntryProtocol,
    pub(crate) listen: At<SmolStr>,
}

/// An entry of `tunnels:`.
#[derive(Debug)]
pub(crate) struct WrittenTunnel {
    pub(crate) place: Place,
    pub(crate) name: At<SmolStr>,
    pub(crate) listen: At<SmolStr>,
    pub(crate) zone: Option<At<SmolStr>>,
    pub(crate) to: At<SmolStr>,
    pub(crate) on_down: Option<At<SmolStr>>,
}

/// `entries:`
pub(crate) fn entries(keys: &mut Keys, findings: &mut Findings) -> Vec<WrittenEntry> {
    let Some(node) = keys.take("entries").filter(has_content) else {
        return Vec::new();
    };
    let Some(mut keys) = Keys::of(node, What::Words("`entries`"), language::ENTRIES, findings)
    else {
        return Vec::new();
    };
    let mut entries = Vec::new();
    for protocol in [EntryProtocol::Socks5, EntryProtocol::Http] {
        let listens = keys.list(protocol.as_str(), findings, scalar).flatten();
        let listens = listens.into_iter().flatten();
        entries.extend(listens.map(|listen| WrittenEntry { protocol, listen }));
    }
    entries
}

/// `tunnels:`
pub(crate) fn tunnels(keys: &mut Keys, findings: &mut Findings) -> Vec<WrittenTunnel> {
    let tunnels = list(keys, "tunnels", findings).into_iter();
    tunnels.filter_map(|node| tunnel(node, findings)).collect()
}

fn tunnel(node: Node, findings: &mut Findings) -> Option<WrittenTunnel> {
    let mut keys = Keys::of(
        node,
        What::Words("a static tunnel"),
        language::TUNNEL,
        findings,
    )?;
    let name = keys.required("name", NAME, findings);
    let name = name.filter(|name| is_readable(name, NAME, findings));
    let listen = keys.required("listen", "write `listen: 5433`", findings);
    let zone = keys.scalar("zone", findings);
    let to = keys.required("to", "write `to: \"db.finance.corp:5432\"`", findings);
    let on_down = keys.scalar("on_down", findings);
    if !keys.are_known() {
        return None;
    }
    Some(WrittenTunnel {
        place: keys.place,
        name: name?,
        listen: listen?,
        zone,
        to: to?,
        on_down,
    })
}
