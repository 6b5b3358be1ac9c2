//! When an entry of the policy holds: days of the week and hours, in the gateway's own time zone.
use jiff::civil::{DateTime, Weekday};

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const MINUTES: u16 = 24 * 60;

/// Days, hours, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpeningHours {
    /// Bit 0 is Monday.
    days: u8,
    /// From the first minute of a day up to, and without, the second; over midnight when it is not
    /// above the first.
    minutes: Option<(u16, u16)>,
}

/// Not written as it has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not DAYS, HH:MM-HH:MM, or both, such as \"mon-fri 08:00-18:00\" or \"sat,sun\"")]
pub struct BadHours;

impl std::str::FromStr for OpeningHours {
    type Err = BadHours;

    fn from_str(text: &str) -> Result<Self, BadHours> {
        let (days, minutes) = match text.split_ascii_whitespace().collect::<Vec<_>>()[..] {
            [hours] if hours.contains(':') => (0x7f, Some(minutes(hours)?)),
            [all] => (days(all)?, None),
            [all, hours] => (days(all)?, Some(minutes(hours)?)),
            _ => return Err(BadHours),
        };
        Ok(Self { days, minutes })
    }
}

impl OpeningHours {
    /// Does it hold then? What goes over midnight belongs to the day on which it begins.
    pub fn hold(&self, at: DateTime) -> bool {
        let day = at.date().weekday();
        let minute =
            u16::from(at.hour().unsigned_abs()) * 60 + u16::from(at.minute().unsigned_abs());
        match self.minutes {
            None => self.has(day),
            Some((from, to)) if from < to => self.has(day) && (from..to).contains(&minute),
            Some((from, to)) => {
                self.has(day) && minute >= from || self.has(day.previous()) && minute < to
            }
        }
    }

    fn has(&self, day: Weekday) -> bool {
        self.days & 1 << day.to_monday_zero_offset() != 0
    }
}

fn days(text: &str) -> Result<u8, BadHours> {
    let number = |name: &str| {
        let found = DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
        found.ok_or(BadHours)
    };
    text.split(',').try_fold(0, |days, part| {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        let mut day = first;
        let mut these = 1 << first;
        // From Friday to Monday as well.
        while day != last {
            day = (day + 1) % DAYS.len();
            these |= 1 << day;
        }
        Ok(days | these)
    })
}

fn minutes(text: &str) -> Result<(u16, u16), BadHours> {
    let (from, to) = text.split_once('-').ok_or(BadHours)?;
    match (minute(from)?, minute(to)?) {
        (from, to) if from == to || from == MINUTES => Err(BadHours),
        both => Ok(both),
    }
}

fn minute(text: &str) -> Result<u16, BadHours> {
    let two = |text: &str| match text.len() {
        2 if text.bytes().all(|b| b.is_ascii_digit()) => text.parse::<u16>().map_err(|_| BadHours),
        _ => Err(BadHours),
    };
    let (hour, minute) = text.split_once(':').ok_or(BadHours)?;
    match (two(hour)?, two(minute)?) {
        (24, 0) => Ok(MINUTES),
        (hour @ 0..24, minute @ 0..60) => Ok(hour * 60 + minute),
        _ => Err(BadHours),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-01-02 is a Friday (`date -d 2026-01-02 +%a`).
    fn check(hours: &str, at: &str, holds: bool) {
        let parsed: OpeningHours = hours.parse().expect(hours);
        assert_eq!(
            parsed.hold(at.parse().expect("time")),
            holds,
            "{hours} {at}"
        );
    }

    #[test]
    fn days_and_hours_hold_or_do_not() {
        check("mon-fri 08:00-18:00", "2026-01-02T08:00", true);
        check("mon-fri 08:00-18:00", "2026-01-02T17:59:59", true);
        check("mon-fri 08:00-18:00", "2026-01-02T18:00", false);
        check("mon-fri 08:00-18:00", "2026-01-02T07:59", false);
        check("mon-fri 08:00-18:00", "2026-01-03T12:00", false);
        check("sat,sun", "2026-01-03T00:00", true);
        check("sat,SUN", "2026-01-02T23:59", false);
        check("fri-mon", "2026-01-05T10:00", true);
        check("fri-mon", "2026-01-06T10:00", false);
        check("00:00-24:00", "2026-01-02T23:59", true);
        // Over midnight: the night that begins on Friday.
        check("fri 22:00-06:00", "2026-01-02T23:00", true);
        check("fri 22:00-06:00", "2026-01-03T05:59", true);
        check("fri 22:00-06:00", "2026-01-03T06:00", false);
        check("fri 22:00-06:00", "2026-01-02T05:00", false);
        check("fri 22:00-06:00", "2026-01-03T23:00", false);
    }

    #[test]
    fn what_is_written_otherwise_is_refused() {
        for bad in [
            "",
            "always",
            "mon-",
            "8:00-18:00",
            "08:00",
            "08:00-08:00",
            "24:00-06:00",
            "08:60-09:00",
            "25:00-26:00",
            "mon 08:00-18:00 tue",
            "08:00-18:00 mon",
            "mon..fri",
            "+8:00-18:00",
        ] {
            assert_eq!(bad.parse::<OpeningHours>(), Err(BadHours), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z0-9:, -]{0,24}") {
            let _ = text.parse::<OpeningHours>();
        }

        #[test]
        fn inside_and_outside_are_all_there_is(from in 0_u16..1440, to in 0_u16..1440, at in 0_u16..1440) {
            prop_assume!(from != to);
            let write = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
            let holds = |from, to| {
                let hours: OpeningHours = format!("{}-{}", write(from), write(to)).parse().expect("hours");
                let at = format!("2026-01-02T{}", write(at));
                hours.hold(at.parse().expect("time"))
            };
            prop_assert!(holds(from, to) != holds(to, from));
        }
    }
}
