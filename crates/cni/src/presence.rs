//! True if the agent was able to serve pods a moment ago: a file beside its socket that it touches for as long as it
//! is.
//!
//! A runtime that is told that the network is not there has the node's pods taken out of Services, also those whose
//! traffic goes on. An agent that is being replaced is no reason for that; one that is away for long is.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The time that an agent may be away before that counts. An upgrade takes seconds, with an image to be fetched more.
const GRACE: Duration = Duration::from_mins(1);

/// The file, by the path of the agent's socket.
pub fn stamp(socket: &Path) -> PathBuf {
    socket.with_extension("serving")
}

/// Says that the agent is able to serve pods now.
pub fn touch(socket: &Path) -> io::Result<()> {
    File::options().create(true).write(true).truncate(false).open(stamp(socket))?.set_modified(SystemTime::now())
}

/// True if it said so not long ago. A time to come is none: somebody set the clock back, and nothing is known.
pub(crate) fn was_there(socket: &Path) -> bool {
    let touched = fs::metadata(stamp(socket)).and_then(|metadata| metadata.modified());
    touched.is_ok_and(|touched| touched.elapsed().is_ok_and(|away| away <= GRACE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absence_counts_after_a_minute() {
        let socket = std::env::temp_dir().join(format!("ringfence-presence-{}.sock", std::process::id()));
        assert!(!was_there(&socket), "no agent was ever there");
        touch(&socket).unwrap();
        assert!(was_there(&socket));
        let file = File::options().write(true).open(stamp(&socket)).unwrap();
        for (age, there) in [(50, true), (70, false)] {
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
            assert_eq!(was_there(&socket), there, "{age} s");
        }
        file.set_modified(SystemTime::now() + Duration::from_mins(5)).unwrap();
        assert!(!was_there(&socket));
        touch(&socket).unwrap();
        assert!(was_there(&socket));
        fs::remove_file(stamp(&socket)).unwrap();
    }
}
