//! `google.cloud.binaryauthorization.v1.Attestor` as YAML.

use serde::{Deserialize, Serialize};

use super::policy::attestor_id;
use crate::evidence::public_key_id;
use crate::model::{PolicyError, SignatureAlgorithm};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attestor {
    /// `projects/*/attestors/*`.
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_time: Option<String>,
    pub user_owned_grafeas_note: GrafeasNote,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrafeasNote {
    /// `projects/*/notes/*`.
    pub note_reference: String,
    /// Any of them may have signed. None: the attestor is never satisfied.
    #[serde(default)]
    pub public_keys: Vec<GrafeasPublicKey>,
    /// Output only at Google.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegation_service_account_email: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrafeasPublicKey {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ascii_armored_pgp_public_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pkix_public_key: Option<PkixPublicKey>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PkixPublicKey {
    pub public_key_pem: String,
    pub signature_algorithm: SignatureAlgorithm,
    /// Newer exports repeat the id here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
}

impl Attestor {
    /// The last segment of its name.
    pub fn id(&self) -> Option<&str> {
        attestor_id(&self.name)
    }

    pub fn validate(&self) -> Result<(), Vec<PolicyError>> {
        let mut errors = Vec::new();
        let mut add = |path: String, message: String| errors.push(PolicyError { path, message });
        if self.id().is_none() {
            add("name".to_owned(), format!("`{}` is not of the form projects/*/attestors/*", self.name));
        }
        let note: Vec<&str> = self.user_owned_grafeas_note.note_reference.split('/').collect();
        if !matches!(note.as_slice(), ["projects", project, "notes", id] if !project.is_empty() && !id.is_empty()) {
            add("userOwnedGrafeasNote.noteReference".to_owned(), "is not of the form projects/*/notes/*".to_owned());
        }
        for (i, key) in self.user_owned_grafeas_note.public_keys.iter().enumerate() {
            let path = format!("userOwnedGrafeasNote.publicKeys[{i}]");
            match (&key.pkix_public_key, &key.ascii_armored_pgp_public_key) {
                (Some(pkix), None) => {
                    if let Err(reason) = public_key_id(&pkix.public_key_pem) {
                        add(format!("{path}.pkixPublicKey.publicKeyPem"), reason);
                    }
                    // Google asks an id of a PKIX key to be a URI (RFC 3986); its own examples begin with `//`.
                    if key.id.as_ref().is_some_and(|id| !is_uri(id)) {
                        add(format!("{path}.id"), "must be a URI, or be left out".to_owned());
                    }
                }
                (None, Some(_)) => {}
                _ => add(path, "must have exactly one of pkixPublicKey and asciiArmoredPgpPublicKey".to_owned()),
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }
}

fn is_uri(id: &str) -> bool {
    let absolute = if id.starts_with("//") { format!("https:{id}") } else { id.to_owned() };
    !id.contains(char::is_whitespace) && url::Url::parse(&absolute).is_ok()
}
