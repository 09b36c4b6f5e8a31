//! A status as Prometheus reads it.

use crate::control::{DiskStatus, Latency, Status};
use std::fmt::{Display, Write};

/// The metrics, with help and type of each; docs/cli.md lists them.
pub fn text(status: &Status) -> String {
    let mut text = Text::default();
    text.family("dirtymap_uptime_seconds", "gauge", "Time since the server began to serve.");
    text.sample("", &[], status.uptime);
    type Figure = (&'static str, &'static str, &'static str, fn(&DiskStatus) -> u64);
    const FIGURES: [Figure; 11] = [
        ("dirtymap_connections", "gauge", "NBD connections that use the disk.", |disk| disk.connections as u64),
        ("dirtymap_size_bytes", "gauge", "Bytes of the disk.", |disk| disk.size),
        ("dirtymap_dirty_bytes", "gauge", "Bytes that are dirty.", |disk| disk.dirty_bytes),
        ("dirtymap_armed_bytes", "gauge", "Bytes that a crash would make dirty.", |disk| disk.armed_bytes),
        ("dirtymap_intent_bytes", "gauge", "Of them, those by the write intent.", |disk| disk.intent_bytes),
        ("dirtymap_arms_total", "counter", "Commits that armed.", |disk| disk.arms),
        ("dirtymap_syncs_total", "counter", "Durable writes to the map.", |disk| disk.syncs),
        ("dirtymap_flushes_total", "counter", "Flushes of the map.", |disk| disk.flushes),
        ("dirtymap_map_written_bytes_total", "counter", "Bytes written durably to the map.", |disk| {
            disk.map_bytes_written
        }),
        ("dirtymap_waits_total", "counter", "Writes that waited for arming.", |disk| disk.waits),
        ("dirtymap_scratch_bytes", "gauge", "Bytes that the live snapshot keeps.", |disk| disk.scratch_bytes),
    ];
    for (name, kind, help, value) in FIGURES {
        text.family(name, kind, help);
        for disk in &status.disks {
            text.sample("", &[("disk", &disk.export)], value(disk));
        }
    }
    text.requests(status);
    text.0
}

#[derive(Default)]
struct Text(String, &'static str);

impl Text {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        self.1 = name;
    }

    /// A sample of the family that was begun last.
    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{}{suffix}{labels} {value}", self.1);
    }

    fn requests(&mut self, status: &Status) {
        let all = || status.disks.iter().flat_map(|d| d.requests.each().map(|(kind, r)| (d.export.as_str(), kind, r)));
        self.family("dirtymap_requests_total", "counter", "Requests, by kind.");
        all().for_each(|(disk, kind, r)| self.sample("", &[("disk", disk), ("kind", kind)], r.requests));
        self.family("dirtymap_failures_total", "counter", "Of them, those that failed.");
        all().for_each(|(disk, kind, r)| self.sample("", &[("disk", disk), ("kind", kind)], r.failed));
        self.family("dirtymap_bytes_total", "counter", "Bytes of those that did not.");
        all().for_each(|(disk, kind, r)| self.sample("", &[("disk", disk), ("kind", kind)], r.bytes));
        self.family("dirtymap_latency_seconds", "histogram", "How long requests took.");
        for (disk, kind, r) in all() {
            let labels = [("disk", disk), ("kind", kind)];
            let mut total = 0;
            for (place, count) in r.latency.counts.iter().enumerate() {
                total += count;
                let bound = match place < Latency::BOUNDS {
                    true => Latency::bound(place).as_secs_f64().to_string(),
                    false => "+Inf".into(),
                };
                self.sample("_bucket", &[labels[0], labels[1], ("le", &bound)], total);
            }
            self.sample("_sum", &labels, r.latency.sum);
            self.sample("_count", &labels, r.requests);
        }
    }
}

/// As it stands in a label.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_does_not_break_out_of_its_label() {
        let mut text = Text::default();
        text.family("x", "gauge", "X.");
        text.sample("", &[("disk", "a\"b\\c\nd")], 1);
        assert_eq!(text.0.lines().last(), Some(r#"x{disk="a\"b\\c\nd"} 1"#));
    }
}
