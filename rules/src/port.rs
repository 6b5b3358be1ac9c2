//! Ports: a number or `LOW-HIGH`.

use crate::diagnostics::Fault;
use crate::ranges::RangeSet;

/// Ports of a rule.
pub(crate) type PortSet = RangeSet<u16>;

/// Every port, also the port 0 that no one can listen on: what a rule without `ports:` means.
pub(crate) fn all() -> PortSet {
    PortSet::new(vec![(0, u16::MAX)])
}

/// Whether `ports` is every port.
pub(crate) fn is_all(ports: &PortSet) -> bool {
    ports.ranges() == [(0, u16::MAX)]
}

/// The lowest port that a connection can go to. `None`: there is none.
pub(crate) fn first(ports: &PortSet) -> Option<u16> {
    let mut ranges = ports.ranges().iter();
    let &(low, _) = ranges.find(|&&(_, high)| high > 0)?;
    Some(low.max(1))
}

/// Reads a port or a range of ports.
pub(crate) fn parse(text: &str) -> Result<(u16, u16), Fault> {
    let Some((low, high)) = text.split_once('-') else {
        return single(text).map(|port| (port, port));
    };
    let (low, high) = (single(low.trim())?, single(high.trim())?);
    if low <= high {
        return Ok((low, high));
    }
    Err(
        Fault::new(format!("the range of ports {low}-{high} is empty"))
            .hint(format!("the lower end comes first: {high}-{low}")),
    )
}

/// Reads one port.
pub(crate) fn single(text: &str) -> Result<u16, Fault> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port > 0 => Ok(port),
        Ok(_) | Err(_) if digits => {
            Err(Fault::new(format!("there is no port {text}")).hint("ports go from 1 to 65535"))
        }
        Ok(_) | Err(_) => {
            let fault = Fault::new(format!("{text:?} is not a port"));
            Err(if text.contains(',') {
                fault.hint("write a list: [80, 443]")
            } else {
                fault.hint("write a number, or a range such as 8000-8100")
            })
        }
    }
}

/// Ports as an administrator would write them.
pub(crate) fn show(ports: &PortSet) -> impl ExactSizeIterator<Item = String> {
    // Port 0, which nobody can write, is only there beside all others or as what a `not` leaves.
    let ranges = ports.ranges().iter().filter(|&&(_, high)| high > 0);
    let shown = ranges.map(|&(low, high)| match low.max(1) {
        low if low == high => low.to_string(),
        low => format!("{low}-{high}"),
    });
    shown.collect::<Vec<String>>().into_iter()
}

/// The ports of these ranges; those that can be written, all together, are all.
pub(crate) fn of(ranges: Vec<(u16, u16)>) -> PortSet {
    let ports = PortSet::new(ranges);
    match ports.ranges() {
        [(1, u16::MAX)] => all(),
        _ => ports,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(u16, u16), &str>) {
        let result = parse(text).map_err(|fault| fault.to_string());
        assert_eq!(result, expected.map_err(str::to_owned), "{text:?}");
    }

    #[test]
    fn reads_ports() {
        check("443", Ok((443, 443)));
        check("8000-8100", Ok((8000, 8100)));
        check("1 - 65535", Ok((1, 65535)));
        check("070", Ok((70, 70)));
    }

    #[test]
    fn nobody_sees_port_0() {
        let shown = |ports: &PortSet| show(ports).collect::<Vec<_>>().join(", ");
        assert_eq!(shown(&all()), "1-65535");
        assert_eq!(shown(&PortSet::new(vec![(1, 79)]).complement()), "80-65535");
        assert_eq!(
            shown(&PortSet::new(vec![(2, 79)]).complement()),
            "1, 80-65535"
        );
        assert_eq!(shown(&PortSet::new(vec![(0, 0)])), "");
        assert_eq!(first(&PortSet::new(vec![(2, 79)]).complement()), Some(1));
        assert_eq!(first(&PortSet::new(vec![(1, 79)]).complement()), Some(80));
        assert_eq!(first(&PortSet::new(vec![(0, 0)])), None);
        assert!(is_all(&of(vec![(1, 442), (443, u16::MAX)])));
        assert!(!is_all(&of(vec![(1, 442), (444, u16::MAX)])));
    }

    #[test]
    fn refuses_what_is_none() {
        let none = "is not a port; write a number, or a range such as 8000-8100";
        check(
            "70000",
            Err("there is no port 70000; ports go from 1 to 65535"),
        );
        check("0", Err("there is no port 0; ports go from 1 to 65535"));
        check("", Err(&format!("\"\" {none}")));
        check("+80", Err(&format!("\"+80\" {none}")));
        check("-80", Err(&format!("\"\" {none}")));
        check("http", Err(&format!("\"http\" {none}")));
        check("0x50", Err(&format!("\"0x50\" {none}")));
        check("80-", Err(&format!("\"\" {none}")));
        check(
            "80,443",
            Err("\"80,443\" is not a port; write a list: [80, 443]"),
        );
        check(
            "90-80",
            Err("the range of ports 90-80 is empty; the lower end comes first: 80-90"),
        );
    }
}
