//! Progress: a bar on a terminal, a line every few seconds elsewhere, nothing when quiet.
//!
//! Contained by: the session, which hands it to the library as its [`Progress`].
//! Invariants: all of it goes to standard error; `advance` is called from hot paths and costs an
//! addition and, at most once per interval, a line.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use capy_store::{Phase, Problem, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::human;

/// Between two lines where no bar can be drawn: cron mails stay short.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Redraws of the bar per second.
const REDRAWS_PER_SECOND: u8 = 10;
/// Problems printed as they come; the report carries them all.
const PROBLEMS_SHOWN_MAX: u64 = 20;

/// How progress is shown.
enum Form {
    Bar(ProgressBar),
    Lines,
    Silent,
}

/// Shows what a long operation is doing.
pub(crate) struct Meter {
    form: Form,
    begun: Instant,
    done: AtomicU64,
    /// Milliseconds after `begun` at which the next line is due.
    next_line: AtomicU64,
    problems: AtomicU64,
    stage: Mutex<StageNow>,
}

struct StageNow {
    phase: Option<Phase>,
    total: Option<u64>,
    begun: Instant,
}

impl Meter {
    /// The form that fits standard error.
    pub(crate) fn new(silent: bool) -> Self {
        let form = if silent {
            Form::Silent
        } else if std::io::stderr().is_terminal() {
            Form::Bar(ProgressBar::with_draw_target(
                None,
                ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND),
            ))
        } else {
            Form::Lines
        };
        let begun = Instant::now();
        Self {
            form,
            begun,
            done: AtomicU64::new(0),
            next_line: AtomicU64::new(LINE_INTERVAL.as_millis() as u64),
            problems: AtomicU64::new(0),
            stage: Mutex::new(StageNow { phase: None, total: None, begun }),
        }
    }

    /// Removes the bar, so that what follows stands on a clean line.
    pub(crate) fn finish(&self) {
        if let Form::Bar(bar) = &self.form {
            bar.finish_and_clear();
        }
    }

    fn say(&self, line: &str) {
        match &self.form {
            Form::Bar(bar) => bar.suspend(|| print_line(line)),
            Form::Lines | Form::Silent => print_line(line),
        }
    }

    fn line_if_due(&self, done: u64) {
        let now = self.begun.elapsed().as_millis() as u64;
        let due = self.next_line.load(Ordering::Relaxed);
        let next = now + LINE_INTERVAL.as_millis() as u64;
        if now < due
            || self.next_line.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return;
        }
        let stage = self.stage.lock().expect("no panic while the lock is held");
        let Some(phase) = stage.phase else { return };
        print_line(&line(phase, done, stage.total, stage.begun.elapsed()));
    }
}

impl Progress for Meter {
    fn phase(&self, phase: Phase, total_bytes: Option<u64>) {
        self.done.store(0, Ordering::Relaxed);
        {
            let mut stage = self.stage.lock().expect("no panic while the lock is held");
            *stage = StageNow { phase: Some(phase), total: total_bytes, begun: Instant::now() };
        }
        match &self.form {
            Form::Bar(bar) => {
                bar.reset();
                bar.set_style(style(total_bytes.is_some()));
                bar.set_length(total_bytes.unwrap_or(0));
                bar.set_message(phase.as_str());
            }
            // Every command prepares: on a line of its own that would be noise.
            Form::Lines if phase == Phase::Prepare => {}
            Form::Lines => print_line(phase.as_str()),
            Form::Silent => {}
        }
    }

    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match &self.form {
            Form::Bar(bar) => bar.set_position(done),
            Form::Lines => self.line_if_due(done),
            Form::Silent => {}
        }
    }

    fn problem(&self, problem: Problem) {
        match self.problems.fetch_add(1, Ordering::Relaxed) {
            // A warning is never hidden by the output's form.
            n if n < PROBLEMS_SHOWN_MAX => {
                self.say(&format!("warning: {}: {}", problem.subject, problem.message));
            }
            PROBLEMS_SHOWN_MAX => self.say("warning: more of the same; all are in the report"),
            _ => {}
        }
    }
}

fn print_line(line: &str) {
    // Nobody reads: nothing to do about it, and no reason to stop a backup.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A plain line: `backing up: 1.20 GB of 4.00 GB (30.0 %), 410 MB/s, 7 s left`.
fn line(phase: Phase, done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let rate = human::rate(done, elapsed);
    match total.filter(|total| *total > 0) {
        None => format!("{}: {}, {rate}", phase.as_str(), human::bytes(done)),
        Some(total) => {
            let percent = human::percent(done.min(total), total);
            let left = remaining(done, total, elapsed);
            format!(
                "{}: {} of {} ({percent}), {rate}, {left} left",
                phase.as_str(),
                human::bytes(done),
                human::bytes(total)
            )
        }
    }
}

/// The time left at the average rate so far.
fn remaining(done: u64, total: u64, elapsed: Duration) -> String {
    if done == 0 || elapsed.is_zero() {
        return "unknown time".to_owned();
    }
    let left = total.saturating_sub(done) as f64 / done as f64 * elapsed.as_secs_f64();
    // A year is more than any estimate is worth, and always a valid duration.
    human::duration(Duration::from_secs_f64(left.min(31_536_000.0)))
}

fn style(with_total: bool) -> ProgressStyle {
    let template = if with_total {
        "{msg} [{bar:30}] {done} of {whole} {percent:>3}% {speed} {eta} left"
    } else {
        "{spinner} {msg} {done} {speed}"
    };
    ProgressStyle::with_template(template)
        .expect("the templates above are well-formed")
        .progress_chars("=> ")
        .with_key("done", |s: &ProgressState, w: &mut dyn std::fmt::Write| {
            let _ = w.write_str(&human::bytes(s.pos()));
        })
        .with_key("whole", |s: &ProgressState, w: &mut dyn std::fmt::Write| {
            let _ = w.write_str(&human::bytes(s.len().unwrap_or(0)));
        })
        .with_key("speed", |s: &ProgressState, w: &mut dyn std::fmt::Write| {
            let _ = write!(w, "{}/s", human::bytes(s.per_sec() as u64));
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_phase_share_rate_and_time_left() {
        let text = line(Phase::Backup, 1_000_000_000, Some(4_000_000_000), Duration::from_secs(2));
        assert_eq!(text, "backing up: 1.00 GB of 4.00 GB (25.0 %), 500 MB/s, 6.0 s left");
        let text = line(Phase::Backup, 1_000_000, None, Duration::from_secs(1));
        assert_eq!(text, "backing up: 1.00 MB, 1.00 MB/s");
    }

    #[test]
    fn an_estimate_never_overflows() {
        assert_eq!(remaining(0, 5, Duration::from_secs(1)), "unknown time");
        assert_eq!(remaining(1, u64::MAX, Duration::from_secs(1_000_000)), "8760 h 00 min");
        assert_eq!(remaining(9, 5, Duration::from_secs(1)), "0.0 s");
    }
}
