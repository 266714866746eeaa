//! Step 5: status, written only when it changed, and only over the very object that was looked at.

use std::fmt::Debug;

use kube::api::PostParams;
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidegate_pipelines::api::names;

use crate::connect::{CallError, bounded};

#[derive(Debug, thiserror::Error)]
#[error("status of {what}: {source}")]
pub struct StatusError {
    what: String,
    source: CallError,
}

impl StatusError {
    pub fn is_conflict(&self) -> bool {
        self.source.is_conflict()
    }
}

/// Writes `after` if it differs from `before`; whether it did. `set` puts it into the object.
pub async fn write<K, S>(
    api: &Api<K>,
    object: &K,
    before: Option<&S>,
    after: &S,
    set: impl FnOnce(&mut K, S),
) -> Result<bool, StatusError>
where
    K: Resource<DynamicType = ()> + Clone + Serialize + DeserializeOwned + Debug,
    S: PartialEq + Clone,
{
    if before == Some(after) {
        return Ok(false);
    }
    let mut changed = object.clone();
    set(&mut changed, after.clone());
    let params = PostParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PostParams::default() };
    match bounded(api.replace_status(&object.name_any(), &params, &changed)).await {
        Ok(_) => Ok(true),
        // Deleted meanwhile: nobody is left to tell.
        Err(error) if error.is_not_found() => Ok(false),
        Err(source) => Err(StatusError { what: object.name_any(), source }),
    }
}
