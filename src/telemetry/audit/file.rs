//! A log file that is moved away when it is large, and made anew when somebody else has moved it (logrotate).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Names and sizes of transfers are nobody's business but the operator's, and of the group that reads them.
const MODE: u32 = 0o640;

/// An open log file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: Option<u64>,
    keep: u32,
    /// It could not be moved away or made anew, which was told.
    is_stuck: bool,
}

impl LogFile {
    /// Opens it, to go on at its end. Beyond `max_size` bytes it becomes `….1`, what was that `….2`, up to `keep`.
    pub(super) fn open(path: &Path, max_size: Option<u64>, keep: u32) -> io::Result<Self> {
        let (file, size) = open(path)?;
        Ok(Self { path: path.to_owned(), file, size, max_size, keep, is_stuck: false })
    }

    /// Is the name still that of the open file?
    fn is_in_place(&self) -> bool {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        fs::metadata(&self.path).map(identity).ok() == self.file.metadata().map(identity).ok()
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }

    /// Moves it away where it is full, and makes it anew where it was moved.
    fn renew(&mut self, more: u64) -> io::Result<()> {
        let is_full = self.max_size.is_some_and(|most| self.size > 0 && self.size + more > most);
        if is_full && self.is_in_place() {
            self.rotate()?;
        }
        if !self.is_in_place() {
            (self.file, self.size) = open(&self.path)?;
        }
        Ok(())
    }

    fn rotate(&self) -> io::Result<()> {
        if self.keep == 0 {
            return fs::remove_file(&self.path);
        }
        for number in (1..self.keep).rev() {
            // What is not there yet needs no other name.
            let _ = fs::rename(self.numbered(number), self.numbered(number + 1));
        }
        fs::rename(&self.path, self.numbered(1))
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).mode(MODE).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A record in a file that is too large is better than none.
        match self.renew(bytes.len() as u64) {
            Ok(()) => self.is_stuck = false,
            Err(error) if !std::mem::replace(&mut self.is_stuck, true) => {
                tracing::error!(path = %self.path.display(), exception.message = %error, "an audit file cannot be moved away");
            }
            Err(_) => {}
        }
        let written = self.file.write(bytes)?;
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_large_file_is_moved_away_and_only_so_many_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        fs::write(&path, "old\n").unwrap();
        let mut file = LogFile::open(&path, Some(10), 2).unwrap();
        for line in ["12345\n", "23456\n", "34567\n", "45678\n"] {
            file.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(read(&path), "45678\n");
        assert_eq!(read(&file.numbered(1)), "34567\n");
        assert_eq!(read(&file.numbered(2)), "23456\n");
        assert!(!file.numbered(3).exists());
    }

    #[test]
    fn one_that_cannot_be_moved_away_is_written_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let mut file = LogFile::open(&path, Some(10), 1).unwrap();
        fs::create_dir_all(file.numbered(1).join("in the way")).unwrap();
        for line in ["12345678\n", "23456789\n"] {
            file.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(read(&path), "12345678\n23456789\n");
    }

    #[test]
    fn one_that_was_moved_by_somebody_else_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let mut file = LogFile::open(&path, None, 0).unwrap();
        file.write_all(b"before\n").unwrap();
        fs::rename(&path, directory.path().join("moved")).unwrap();
        file.write_all(b"after\n").unwrap();
        assert_eq!((read(&directory.path().join("moved")), read(&path)), ("before\n".to_owned(), "after\n".to_owned()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o007, 0);
    }
}
