//! The judge's memory, kept in a Rollout's status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JudgeState {
    /// Samples up to here are in the evidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark: Option<Time>,
}
