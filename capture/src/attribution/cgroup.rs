//! The control group of a process (cgroups(7)).

use super::Unknowable;
use super::process::Handle;

/// A line for each hierarchy, each with a path.
const MOST: usize = 64 << 10;
/// Of the unified hierarchy.
const UNIFIED: &[u8] = b"0::";

/// From the root of the unified hierarchy, as we see it. `None`: the kernel has none.
pub(super) fn of(process: &Handle) -> Result<Option<String>, Unknowable> {
    parse(&process.read("cgroup", MOST).ok_or(Unknowable)?)
}

fn parse(text: &[u8]) -> Result<Option<String>, Unknowable> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let Some(path) = lines.find_map(|line| line.strip_prefix(UNIFIED)) else {
        return Ok(None);
    };
    let path = std::str::from_utf8(path).map_err(|_| Unknowable)?;
    // Removed, or outside of what our own namespace shows.
    if path.ends_with(" (deleted)") || path == "/.." || path.starts_with("/../") {
        return Err(Unknowable);
    }
    Ok(Some(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_one() {
        let slice = "/user.slice/user-1000.slice/session-2.scope";
        let text = format!("3:cpuset:/x\n1:name=systemd:/y\n0::{slice}\n");
        assert_eq!(parse(text.as_bytes()).unwrap().as_deref(), Some(slice));
        assert_eq!(parse(b"0::/\n").unwrap().as_deref(), Some("/"));
        assert_eq!(parse(b"10::/x\n1:cpu:/0::/y\n").unwrap(), None);
        for unclear in ["0::/a (deleted)\n", "0::/..\n", "0::/../b\n"] {
            assert!(parse(unclear.as_bytes()).is_err(), "{unclear}");
        }
    }
}
