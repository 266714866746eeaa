//! The steps of a reconcile, and the one error that says which of them failed. Knows nothing of what they do.

/// Declares `ReconcileError` over the four steps that can fail, for a module that has `observe`, `validate`, `apply`
/// and `status` with an error each; those of `apply` and `status` know a conflict.
macro_rules! reconcile_error {
    ($($step:ident($error:ty) = $label:literal),+ $(,)?) => {
        /// Why a reconcile did not come to its end: the step's own error.
        #[derive(Debug, thiserror::Error)]
        pub enum ReconcileError {
            $(#[error("{step}: {0}", step = $label)] $step(#[from] $error),)+
        }

        impl ReconcileError {
            /// Which step failed; the metric's label.
            pub fn step(&self) -> &'static str {
                match self {
                    $(ReconcileError::$step(_) => $label,)+
                }
            }

            /// Another writer was there first; what we hold is stale and a fresh look will do.
            pub fn is_conflict(&self) -> bool {
                match self {
                    ReconcileError::Apply(error) => error.is_conflict(),
                    ReconcileError::Status(error) => error.is_conflict(),
                    ReconcileError::Observe(_) | ReconcileError::Validate(_) => false,
                }
            }
        }
    };
}

pub(crate) use reconcile_error;
