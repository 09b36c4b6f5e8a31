//! Says now and then how much is dirty, while others write, back up, come and go. It keeps nobody from anything.
//!
//! examples/writer.rs says how to run it beside writers and a backup.

use dirtymap::{Access, Error, Options, info::FileState};
use std::thread::sleep;
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(200);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: monitor MAP")?;
    loop {
        let map = match Options::new().access(Access::ReadOnly).open(&path) {
            // Somebody opens or closes it now, or has it alone.
            Err(Error::Locked { .. }) => {
                sleep(PAUSE);
                continue;
            }
            opened => opened?,
        };
        // When nobody has the map open, what was opened is how it was left, and will not change.
        let lives = map.info().is_ok_and(|info| info.state == FileState::Open);
        println!("{}", if lives { "open by others" } else { "open by nobody" });
        loop {
            let dirty = map.dirty_len();
            // It says "everything" if they have all closed the map meanwhile: then it is opened again.
            if map.verify_session().is_err() {
                break;
            }
            println!("{dirty} of {} bytes are dirty", map.len());
            sleep(PAUSE);
            if !lives {
                break;
            }
        }
    }
}
