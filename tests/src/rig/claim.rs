//! The directory of a run belongs to one fleet at a time: claimed for as long as its process lives, emptied when it is
//! claimed. A directory that is not a rig's and has content is never emptied.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Marks a directory as a rig's own, so that a next run may empty it; locked and with the process's id while one runs.
const OWNED: &str = ".tidegate-rig";

/// Holds the directory until it is dropped.
#[derive(Debug)]
pub struct Claim {
    pub dir: PathBuf,
    _lock: File,
}

impl Claim {
    /// Takes the directory and empties it. `pid`: whom to end, for the refusal that others get.
    ///
    /// # Errors
    /// If a fleet runs from it, or if it is not a rig's.
    pub fn take(dir: &Path, pid: u32) -> Result<Self> {
        let mut lock = lock(dir)?;
        for entry in dir.read_dir()? {
            let entry = entry?;
            if entry.file_name() == OWNED {
                continue;
            }
            let path = entry.path();
            let removed = if entry.file_type()?.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{pid}")?;
        Ok(Self { dir: dir.canonicalize()?, _lock: lock })
    }
}

/// Refuses early what [`Claim::take`] would refuse; takes and changes nothing.
pub fn is_free(dir: &Path) -> Result<()> {
    if dir.exists() { lock(dir).map(drop) } else { Ok(()) }
}

fn lock(dir: &Path) -> Result<File> {
    let marker = dir.join(OWNED);
    if !marker.exists() && dir.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        bail!("{} is not empty and not a rig's", dir.display());
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&marker)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid)?;
            bail!("a fleet runs from {} (pid {}): end it, or use --dir", dir.display(), pid.trim())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", marker.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tidegate-claim-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn a_second_run_neither_starts_in_nor_empties_the_directory_of_a_running_one() {
        let dir = fresh("second");
        let first = Claim::take(&dir, 4711).unwrap();
        fs::write(dir.join("enter"), "of the first").unwrap();
        for refusal in [Claim::take(&dir, 4712).unwrap_err(), is_free(&dir).unwrap_err()] {
            let expected = format!("a fleet runs from {} (pid 4711): end it, or use --dir", dir.display());
            assert_eq!(refusal.to_string(), expected);
        }
        assert_eq!(fs::read_to_string(dir.join("enter")).unwrap(), "of the first");
        drop(first);
        is_free(&dir).unwrap();
        fs::create_dir(dir.join("logs")).unwrap();
        let _second = Claim::take(&dir, 4712).unwrap();
        assert!(!dir.join("enter").exists() && !dir.join("logs").exists(), "what an ended run left goes");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_foreign_directory_with_content_is_never_emptied() {
        let dir = fresh("foreign");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("thesis.txt"), "").unwrap();
        assert!(Claim::take(&dir, 1).unwrap_err().to_string().contains("not a rig's"));
        assert!(is_free(&dir).is_err());
        assert!(dir.join("thesis.txt").exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
