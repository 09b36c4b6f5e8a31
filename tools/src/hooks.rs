//! Commands that are run before and after something is frozen, as by whom a guest's file systems are.
//!
//! Invariants kept here: the one after is run whenever the one before was, whatever came of that and of what is between; each ends in
//! its time, and neither by a signal that this command gets.

use crate::cli::Hooks;
use crate::exit::{Failure, Result};
use crate::terminal::signals;
use dirtymap_cli::set_json::{Hook, HookEnd, Hooks as Record};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What came of all three.
pub struct Ran<T> {
    /// Of what is between; it is not begun if the one before fails.
    pub result: Result<T>,
    /// Of the one after.
    pub after: Result<()>,
    pub record: Record,
}

/// Runs both around `work`.
pub fn around<T>(hooks: &Hooks, work: impl FnOnce() -> Result<T>) -> Ran<T> {
    let limit = Duration::from_secs(hooks.hook_limit);
    // What the one before has stopped the one after has go on.
    let _held = (hooks.pre_hook.is_some() || hooks.post_hook.is_some()).then(signals::hold);
    let run = |command: &Option<String>, which| command.as_ref().map(|command| run(command, which, limit)).unzip();
    let (pre, before) = run(&hooks.pre_hook, "pre-hook");
    let before =
        before.unwrap_or(Ok(())).map_err(|failure| failure.and("nothing was frozen; start it again when it works"));
    let result = before.and_then(|()| work());
    let (post, after) = run(&hooks.post_hook, "post-hook");
    Ran { result, after: after.unwrap_or(Ok(())), record: Record { pre, post } }
}

/// Runs a command; what it prints is for people.
fn run(command: &str, which: &str, limit: Duration) -> (Hook, Result<()>) {
    let begun = Instant::now();
    let mut shell = Command::new("sh");
    // A group of its own, which a signal from the terminal does not reach, and which can be ended as a whole.
    let shell = shell.args(["-c", command]).stdin(Stdio::null()).stdout(io::stderr()).process_group(0);
    let ended = shell.spawn().and_then(|mut child| wait(&mut child, begun, limit));
    let milliseconds = begun.elapsed().as_millis() as u64;
    let failed = |message: String| Err(Failure::new("hook-failed", message));
    let (ended, result) = match ended {
        Ok(Some(status)) if status.success() => (HookEnd::Done, Ok(())),
        Ok(Some(status)) => (HookEnd::Failed, failed(format!("the {which} failed: {status}"))),
        Ok(None) => (
            HookEnd::Late,
            failed(format!("the {which} was ended: it took more than {} seconds (--hook-limit)", limit.as_secs())),
        ),
        Err(e) => (HookEnd::Failed, Err(Failure::io(format_args!("the {which}"), &e))),
    };
    (Hook { ended, milliseconds }, result)
}

/// How it ended; `None` if it had to be, with all that is in its group.
fn wait(child: &mut Child, begun: Instant, limit: Duration) -> io::Result<Option<ExitStatus>> {
    const PAUSE: Duration = Duration::from_millis(5);
    const MOMENT: Duration = Duration::from_secs(1);
    while begun.elapsed() < limit {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(PAUSE);
    }
    kill_process_group(Pid::from_child(child), Signal::KILL)?;
    // What the kernel holds does not end at once, if ever.
    let killed = Instant::now();
    while child.try_wait()?.is_none() && killed.elapsed() < MOMENT {
        std::thread::sleep(PAUSE);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn hooks(pre: &str, post: &str) -> Hooks {
        Hooks { pre_hook: Some(pre.into()), post_hook: Some(post.into()), hook_limit: 300 }
    }

    /// How both ended, and what the whole said.
    fn ended(ran: Ran<()>) -> (HookEnd, HookEnd, Option<String>, bool) {
        let end = |hook: Option<Hook>| hook.expect("it was run").ended;
        (end(ran.record.pre), end(ran.record.post), ran.result.err().map(|e| e.message), ran.after.is_ok())
    }

    #[test]
    fn the_one_after_is_run_whatever_the_one_before_and_the_work_do() {
        let fine = ended(around(&hooks("true", "true"), || Ok(())));
        assert_eq!(fine, (HookEnd::Done, HookEnd::Done, None, true));
        let mut worked = false;
        let (pre, post, message, after) = ended(around(&hooks("exit 3", "true"), || {
            worked = true;
            Ok(())
        }));
        assert_eq!((pre, post, after, worked), (HookEnd::Failed, HookEnd::Done, true, false));
        assert!(message.is_some_and(|message| message.contains("the pre-hook failed: exit status: 3")));
        let work = || Err(Failure::new("io", "a disk that fails"));
        let failed = ended(around(&hooks("true", "true"), work));
        assert_eq!(failed, (HookEnd::Done, HookEnd::Done, Some("a disk that fails".into()), true));
        let thaw = ended(around(&hooks("true", "false"), || Ok(())));
        assert_eq!(thaw, (HookEnd::Done, HookEnd::Failed, None, false));
        assert_eq!(around(&Hooks::default(), || Ok(())).record, Record { pre: None, post: None });
    }

    #[test]
    fn one_that_takes_too_long_is_ended_with_all_that_it_has_begun() {
        let dir = tempfile::tempdir().expect("a directory");
        let pids = dir.path().join("pids");
        let slow = format!("trap '' TERM; sleep 1000 & echo $! > {0}.tmp; mv {0}.tmp {0}; wait", pids.display());
        let mut child = Command::new("sh");
        let child = child.args(["-c", &slow]).process_group(0).stdin(Stdio::null());
        let mut child = child.spawn().expect("run sh");
        while !pids.exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(wait(&mut child, Instant::now(), Duration::ZERO).expect("wait"), None);
        let pid: i32 = fs::read_to_string(pids).expect("read").trim().parse().expect("a number");
        // Whoever inherits it reaps it; until then it is there, and dead.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_else(|_| ") Z".into());
        assert!(stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])), "{stat}");
        let late = around(&Hooks { hook_limit: 0, ..hooks("sleep 1000", "true") }, || Ok(()));
        assert_eq!(late.record.pre.map(|hook| hook.ended), Some(HookEnd::Late));
        assert!(late.result.is_err_and(|e| e.message.contains("it took more than 0 seconds")));
    }
}
