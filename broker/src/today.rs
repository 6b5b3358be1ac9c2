//! Which day it is, and when the next one begins.

use std::time::Duration;

use adit_rules::Date;

/// A clock that is set, or a machine that sleeps, is noticed no later.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The day, where the machine is. `None`: the clock shows none that a rule can expire on.
pub fn today() -> Option<Date> {
    let today = jiff::Zoned::now().date();
    let number = |part: i8| u8::try_from(part).ok();
    let year = u16::try_from(today.year()).ok()?;
    Date::new(year, number(today.month())?, number(today.day())?)
}

/// Resolves when `day` is over.
pub async fn after(day: Date) {
    while today().is_none_or(|today| today <= day) {
        tokio::time::sleep(until_midnight().min(LONGEST_WAIT)).await;
    }
}

fn until_midnight() -> Duration {
    let now = jiff::Zoned::now();
    let midnight = now.tomorrow().and_then(|day| day.start_of_day());
    let wait = midnight.map(|midnight| now.duration_until(&midnight));
    wait.ok()
        .and_then(|wait| Duration::try_from(wait).ok())
        .map_or(LONGEST_WAIT, |wait| wait + Duration::from_millis(1))
}
