//! Google's classic Binary Authorization: policies and attestors as Google writes them, refused
//! where Google refuses them, judged as Google judges them ([`evaluate`](Policy::evaluate)), and
//! turned into ours ([`import`]). What cannot be expressed is a named error, never dropped.

mod attestor;
mod evaluate;
mod import;
mod policy;

pub use attestor::{Attestor, GrafeasNote, GrafeasPublicKey, PkixPublicKey};
pub use evaluate::{ClassicSubject, Conformance, Evaluation};
pub use import::{ImportOptions, Imported, import};
pub use policy::{
    AdmissionRule, AdmissionWhitelistPattern, EnforcementMode, EvaluationMode, GlobalPolicyEvaluationMode, Policy,
};

#[cfg(test)]
mod tests;
