//! Events as entries of the journal, in its native protocol (systemd.io, "Native Journal Protocol"):
//! each field with its length, so that no value can begin another.
use std::fmt::{Debug, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::log_queue::LogQueue;

/// Longest value, in bytes: an entry has to fit into a datagram.
const MAX_VALUE: usize = 4096;

/// Puts events into the queue of a thread that sends them to the journal.
pub(crate) struct JournalLayer(pub(crate) LogQueue);

impl<S: Subscriber> Layer<S> for JournalLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut entry = Entry::default();
        // syslog(3), as numbers.
        let priority = match *metadata.level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "5",
            Level::DEBUG => "6",
            Level::TRACE => "7",
        };
        entry.put("PRIORITY", priority);
        entry.put("SYSLOG_IDENTIFIER", "adit-server");
        entry.put("TARGET", metadata.target());
        event.record(&mut entry);
        self.0.put(metadata.target(), entry.bytes);
    }
}

#[derive(Debug, Default)]
struct Entry {
    bytes: Vec<u8>,
}

impl Entry {
    /// `name` is one of ours: capital letters, digits and underscores.
    fn put(&mut self, name: &str, value: &str) {
        let value = value.as_bytes();
        let value = value.get(..MAX_VALUE).unwrap_or(value);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(b'\n');
        self.bytes
            .extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.push(b'\n');
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.put("MESSAGE", value),
            // Apart from the journal's own.
            name => self.put(&format!("F_{}", name.to_ascii_uppercase()), value),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        // A value that cannot be shown is shown as far as it goes.
        let _ = write!(text, "{value:?}");
        self.record_str(field, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_begin_another_field_and_has_an_end() {
        let mut entry = Entry::default();
        entry.put("F_USER", "x\nMESSAGE=forged");
        assert_eq!(
            entry.bytes,
            b"F_USER\n\x10\0\0\0\0\0\0\0x\nMESSAGE=forged\n".to_vec()
        );
        let mut entry = Entry::default();
        entry.put("F_USER", &"x".repeat(10_000));
        assert_eq!(entry.bytes.len(), 7 + 8 + 4096 + 1);
    }
}
