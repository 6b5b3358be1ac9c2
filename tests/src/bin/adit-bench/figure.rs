//! What is measured: each figure is one run of `adit-load` on the client.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::path::Tool;

/// One thing that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Figure {
    Up,
    Down,
    Up8,
    Down8,
    RoundTrip,
    ConnectSerial,
    #[value(name = "connect-32")]
    Connect32,
    PassUp,
    PassDown,
    PassConnect,
    KernelPassUp,
    KernelPassDown,
    KernelPassConnect,
    PausedDown,
    PausedUp,
    BesideBulk,
    /// Last, because some of the peers do not live through it.
    Hold,
}

/// Which way is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// A number of a figure, as the tables show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) figure: Figure,
    /// Its name in the output of `adit-load`.
    pub(crate) number: &'static str,
    pub(crate) label: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
}

/// Who decides about connections, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decided {
    Tunnelled,
    /// A rule asks for the application, so the broker is asked.
    PassedByBroker,
    PassedByKernel,
}

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// As documented.
    Full,
    /// Just enough to see that it works.
    Smoke,
}

impl Figure {
    pub(crate) fn all() -> &'static [Figure] {
        Self::value_variants()
    }

    /// As `--figure` takes it.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Is it measured for `tool`?
    pub(crate) fn concerns(self, tool: Tool) -> bool {
        match self {
            Figure::PassConnect => matches!(tool, Tool::Direct | Tool::Held | Tool::Adit),
            Figure::ConnectSerial | Figure::Connect32 | Figure::Hold => tool != Tool::Held,
            Figure::PassUp
            | Figure::PassDown
            | Figure::KernelPassUp
            | Figure::KernelPassDown
            | Figure::KernelPassConnect => {
                matches!(tool, Tool::Direct | Tool::Adit)
            }
            Figure::Up
            | Figure::Down
            | Figure::Up8
            | Figure::Down8
            | Figure::RoundTrip
            | Figure::PausedDown
            | Figure::PausedUp
            | Figure::BesideBulk => !matches!(tool, Tool::AditEarly | Tool::Held),
        }
    }

    /// Who decides about the connections that it makes.
    pub(crate) fn decided(self) -> Decided {
        match self {
            Figure::PassUp | Figure::PassDown | Figure::PassConnect => Decided::PassedByBroker,
            Figure::KernelPassUp | Figure::KernelPassDown | Figure::KernelPassConnect => {
                Decided::PassedByKernel
            }
            Figure::Up
            | Figure::Down
            | Figure::Up8
            | Figure::Down8
            | Figure::RoundTrip
            | Figure::ConnectSerial
            | Figure::Connect32
            | Figure::PausedDown
            | Figure::PausedUp
            | Figure::BesideBulk
            | Figure::Hold => Decided::Tunnelled,
        }
    }

    /// How many short turns make a round. A difference of a few µs or per cent would drown in what the machine
    /// does from one second to the next, were each tool measured for a second.
    pub(crate) fn turns(self, size: Size) -> usize {
        match (self, size) {
            (
                Figure::ConnectSerial | Figure::PassConnect | Figure::KernelPassConnect,
                Size::Full,
            ) => 6,
            (
                Figure::PassUp | Figure::PassDown | Figure::KernelPassUp | Figure::KernelPassDown,
                Size::Full,
            ) => 10,
            _ => 1,
        }
    }

    /// What `adit-load` is to do, after the address.
    pub(crate) fn load(self, size: Size) -> Vec<String> {
        let line = match self {
            Figure::Up => bulk("--up=1", 1200, size),
            Figure::Down => bulk("--down=1", 1200, size),
            Figure::Up8 => bulk("--up=8", 1200, size),
            Figure::Down8 => bulk("--down=8", 1200, size),
            Figure::PassUp | Figure::KernelPassUp => bulk("--up=1", 400, size),
            Figure::PassDown | Figure::KernelPassDown => bulk("--down=1", 400, size),
            Figure::RoundTrip => format!("round-trip {}", bounds(size, 5000, 800)),
            Figure::ConnectSerial | Figure::PassConnect | Figure::KernelPassConnect => {
                format!("connect {}", bounds(size, 300, 250))
            }
            Figure::Connect32 => format!("connect --at-once=32 {}", bounds(size, 1000, 1200)),
            Figure::PausedDown => format!("beside paused-down {}", bounds(size, 3000, 500)),
            Figure::PausedUp => format!("beside paused-up {}", bounds(size, 3000, 500)),
            Figure::BesideBulk => format!("beside bulk {}", bounds(size, 3000, 800)),
            Figure::Hold => match size {
                Size::Full => "hold --at-once=32 --count=2000 --limit-ms=15000".to_owned(),
                Size::Smoke => "hold --at-once=32 --count=100 --limit-ms=5000".to_owned(),
            },
        };
        line.split(' ').map(str::to_owned).collect()
    }
}

fn bulk(flows: &str, measured_ms: u64, size: Size) -> String {
    let (warm_up, measured) = match size {
        Size::Full => (measured_ms / 4, measured_ms),
        Size::Smoke => (20, 50),
    };
    format!("bulk {flows} --warm-up-ms={warm_up} --measured-ms={measured}")
}

fn bounds(size: Size, count: usize, limit_ms: u64) -> String {
    let (count, limit_ms) = match size {
        Size::Full => (count, limit_ms),
        Size::Smoke => (20, 200),
    };
    format!("--count={count} --limit-ms={limit_ms}")
}

const fn row(
    figure: Figure,
    number: &'static str,
    label: &'static str,
    unit: &'static str,
    better: Better,
) -> Row {
    Row {
        figure,
        number,
        label,
        unit,
        better,
    }
}

pub(crate) const ROWS: [Row; 30] = [
    row(
        Figure::Up,
        "gbit_per_s",
        "one flow up",
        "Gbit/s",
        Better::Higher,
    ),
    row(
        Figure::Down,
        "gbit_per_s",
        "one flow down",
        "Gbit/s",
        Better::Higher,
    ),
    row(
        Figure::Up8,
        "gbit_per_s",
        "8 flows up",
        "Gbit/s",
        Better::Higher,
    ),
    row(
        Figure::Down8,
        "gbit_per_s",
        "8 flows down",
        "Gbit/s",
        Better::Higher,
    ),
    row(
        Figure::RoundTrip,
        "p50_us",
        "round trip, p50",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::RoundTrip,
        "p99_us",
        "round trip, p99",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::ConnectSerial,
        "connect_p50_us",
        "connect() alone, p50",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::ConnectSerial,
        "p50_us",
        "connect + one byte, p50",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::ConnectSerial,
        "p99_us",
        "connect + one byte, p99",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::Connect32,
        "connections_per_s",
        "the same, 32 at once",
        "per s",
        Better::Higher,
    ),
    row(
        Figure::Connect32,
        "p99_us",
        "the same, 32 at once, p99",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::PassUp,
        "gbit_per_s",
        "passed, one flow up",
        "Gbit/s",
        Better::Higher,
    ),
    row(
        Figure::PassDown,
        "gbit_per_s",
        "passed, one flow down",
        "Gbit/s",
        Better::Higher,
    ),
    row(
        Figure::PassConnect,
        "connect_p50_us",
        "passed, connect() alone, p50",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::PassConnect,
        "p50_us",
        "passed, connect + one byte, p50",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::KernelPassUp,
        "gbit_per_s",
        "passed by the kernel alone, one flow up",
        "Gbit/s",
        Better::Higher,
    ),
    row(
        Figure::KernelPassDown,
        "gbit_per_s",
        "passed by the kernel alone, one flow down",
        "Gbit/s",
        Better::Higher,
    ),
    row(
        Figure::KernelPassConnect,
        "connect_p50_us",
        "passed by the kernel alone, connect() alone, p50",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::KernelPassConnect,
        "p50_us",
        "passed by the kernel alone, connect + one byte, p50",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::PausedDown,
        "p50_us",
        "round trip beside a paused download, p50",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::PausedDown,
        "p99_us",
        "round trip beside a paused download, p99",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::PausedDown,
        "to_idle_times",
        "its p50, to idle",
        "×",
        Better::Lower,
    ),
    row(
        Figure::PausedUp,
        "p50_us",
        "round trip beside a paused upload, p50",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::PausedUp,
        "p99_us",
        "round trip beside a paused upload, p99",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::PausedUp,
        "to_idle_times",
        "its p50, to idle",
        "×",
        Better::Lower,
    ),
    row(
        Figure::BesideBulk,
        "p50_us",
        "round trip beside 4 flows up and 4 down, p50",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::BesideBulk,
        "p99_us",
        "round trip beside 4 flows up and 4 down, p99",
        "µs",
        Better::Lower,
    ),
    row(
        Figure::BesideBulk,
        "to_idle_times",
        "its p50, to idle",
        "×",
        Better::Lower,
    ),
    row(
        Figure::Hold,
        "open_s",
        "open 2,000 and hold them",
        "s",
        Better::Lower,
    ),
    row(
        Figure::Hold,
        "ask_all_again_s",
        "then a byte on all, back on all",
        "s",
        Better::Lower,
    ),
];
