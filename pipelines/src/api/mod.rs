//! The API group `tidegate.io/v1alpha1`: what users write and what the roles tell.
//! Types, their schema and their CEL rules; no behaviour beyond reading a value.

pub mod environment;
pub mod event;
pub mod guard;
pub mod names;
pub mod pipeline;
pub mod policy;
pub mod release;
pub mod rollout;
pub mod span;

pub use environment::{
    AllowedPipelines, Environment, EnvironmentSpec, EnvironmentStatus, GatewayMetrics, MetricsSource,
};
pub use event::{
    BuildEvent, BuildEventPhase, BuildEventSpec, BuildEventStatus, EventImage, EventSource, EventSourceKind,
    EventSourceSpec, GithubReport, OidcPolicy, SecretKeyRef,
};
pub use guard::{
    BreakGlass, BreakGlassSpec, Lifted, Quarantine, QuarantineSpec, Verdict, VerdictCheck, VerdictDecision,
    VerdictSpec, verdict_name,
};
pub use pipeline::{
    Objective, OnHubLost, OnInconclusive, Pause, Pipeline, PipelineImage, PipelineSpec, PipelineStatus, RatioMetric,
    RollbackScope, RouteRef, SourceRepository, Stage, Step, Strategy, WorkloadKind, WorkloadRef,
};
pub use policy::{Attestor, AttestorSpec, TrustRoot, TrustRootSpec, VerificationPolicy, VerificationPolicySpec};
pub use release::{
    Approval, ApprovalSpec, EnvironmentProgress, ImageIndex, Release, ReleaseImage, ReleasePhase, ReleaseSpec,
    ReleaseStatus,
};
pub use rollout::{
    Breach, BreachKind, DecisionEntry, Ending, GoingBack, PromotingStep, Rollout, RolloutPhase, RolloutReason,
    RolloutSpec, RolloutStatus,
};
pub use span::Span;
