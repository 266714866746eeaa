//! What was written at an API server, by whom: from its own audit log. Reads and the rig's own writes are not in it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;

/// Level Metadata for accounts and people that a suite watches, nothing for the control plane's own loops.
pub const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, verbs: [get, list, watch]}
- level: Metadata
  userGroups: ["system:serviceaccounts:tidegate-system", deployers, developers]
- {level: None}
"#;

/// One request that asked for a change, refused ones (`code` >= 400) included.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    pub at: Timestamp,
    pub user: String,
    pub verb: String,
    /// Plural, with the subresource: `rollouts/status`.
    pub resource: String,
    pub namespace: String,
    pub name: String,
    pub code: u16,
    pub dry_run: bool,
}

pub fn log_of(cluster_dir: &Path) -> PathBuf {
    cluster_dir.join("audit.log")
}

pub fn writes(log: &Path, since: Timestamp) -> Result<Vec<Write>> {
    let text = std::fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(events.filter_map(|event| write_of(&event)).filter(|write| write.at >= since).collect())
}

fn write_of(event: &Value) -> Option<Write> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = &event["objectRef"];
    let mut resource = text(&object["resource"]);
    if let Some(subresource) = object["subresource"].as_str() {
        resource = format!("{resource}/{subresource}");
    }
    Some(Write {
        at: event["requestReceivedTimestamp"].as_str()?.parse().ok()?,
        user: text(&event["user"]["username"]),
        verb: text(&event["verb"]),
        resource,
        namespace: text(&object["namespace"]),
        name: text(&object["name"]),
        code: event["responseStatus"]["code"].as_u64().and_then(|code| u16::try_from(code).ok()).unwrap_or_default(),
        dry_run: text(&event["requestURI"]).contains("dryRun=All"),
    })
}
