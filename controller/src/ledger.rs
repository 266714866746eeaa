//! Every decision becomes one `DecisionRecord`, written through a `Ledger`:
//! today a JSON log line, later a hash chain.

use jiff::Timestamp;
use serde::Serialize;

/// One decision: who decided what, on which inputs, and why.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionRecord {
    pub at: Timestamp,
    /// Role and identity that decided, e.g. `spoke/prod-east`.
    pub actor: String,
    /// `Kind namespace/name` of the object it is about.
    pub subject: String,
    /// PascalCase; also the Event's reason and the metric's label.
    pub reason: String,
    /// One line for a person.
    pub message: String,
    /// Inputs by digest or by value: image digests, policy digest, evidence.
    pub inputs: serde_json::Value,
}

/// Where decisions are kept.
pub trait Ledger: Send + Sync {
    fn record(&self, record: &DecisionRecord);
}

/// Writes each record as one JSON log line with `target = "decision"`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogLedger;

impl Ledger for LogLedger {
    fn record(&self, record: &DecisionRecord) {
        match serde_json::to_string(record) {
            Ok(line) => {
                tracing::info!(target: "decision", reason = %record.reason, subject = %record.subject, record = %line, "DecisionRecord")
            }
            Err(error) => {
                tracing::error!(target: "decision", %error, reason = %record.reason, "DecisionRecord could not be written")
            }
        }
    }
}
