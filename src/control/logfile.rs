//! A file that lines are written to, for as long as it is there: when it has been moved away or removed,
//! as logrotate does, it is made anew. Nobody needs to send a signal.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// For its owner and group: lines name clients.
const MODE: u32 = 0o640;

#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    /// Lines are added to what is there.
    ///
    /// # Errors
    /// With the path, when it cannot be written.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let file = append(&path)?;
        Ok(Self { path, file })
    }

    /// Whether the path leads to the file that is open.
    fn is_there(&self) -> bool {
        let (Ok(there), Ok(open)) = (self.path.metadata(), self.file.metadata()) else {
            return false;
        };
        (there.dev(), there.ino()) == (open.dev(), open.ino())
    }
}

fn append(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().create(true).append(true).mode(MODE).open(path);
    opened.map_err(|error| {
        let why = format!(
            "the log file {} cannot be written: {error}; its folder must be there and writable for \
             the user who runs fanin",
            path.display()
        );
        io::Error::new(error.kind(), why)
    })
}

impl Write for LogFile {
    /// One look at the path for each batch of lines.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if !self.is_there()
            && let Ok(file) = append(&self.path)
        {
            self.file = file;
        }
        self.file.write(lines)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for LogFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::control::tests::Scratch;

    #[test]
    fn a_file_that_is_moved_away_is_made_anew() {
        let scratch = Scratch::new("logfile");
        let (path, moved) = (scratch.path("log"), scratch.path("log.1"));
        let mut log = LogFile::open(path.clone()).unwrap();
        log.write_all(b"one\n").unwrap();
        fs::rename(&path, &moved).unwrap();
        log.write_all(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(&moved).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(path.metadata().unwrap().mode() & 0o777 & !MODE, 0);
        let error = LogFile::open(scratch.path("nowhere/log")).unwrap_err().to_string();
        assert!(error.contains("nowhere/log") && error.contains("folder"), "{error}");
    }
}
