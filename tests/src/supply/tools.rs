//! Where the supply chain's programs lie. It builds none of them: that happens before the namespace is entered.

use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct SupplyTools {
    pub cosign: PathBuf,
    pub crane: PathBuf,
    pub fulcio: PathBuf,
    /// Rekor v2 over a POSIX file system; `go install` names it `posix`.
    pub rekor: PathBuf,
    pub timestamp_server: PathBuf,
    pub registry: PathBuf,
}

impl SupplyTools {
    /// All of them in one folder, under the names that `go install` gives them.
    pub fn in_dir(dir: &Path) -> Self {
        Self {
            cosign: dir.join("cosign"),
            crane: dir.join("crane"),
            fulcio: dir.join("fulcio"),
            rekor: dir.join("posix"),
            timestamp_server: dir.join("timestamp-server"),
            registry: dir.join("registry"),
        }
    }
}
