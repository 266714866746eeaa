//! Kubernetes clients for the roles: no hidden retries, bounded connects and
//! writes. A kubeconfig that would run a program is refused.

use std::path::Path;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::reach::Reach;

/// Longest time one API call may take; callers wrap calls in [`bounded`].
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot read kubeconfig {path}: {source}")]
    Read { path: String, source: kube::config::KubeconfigError },
    #[error(
        "kubeconfig {path}: user '{user}' names {what}, which would run or read what the file's author chooses; use a token or a client certificate"
    )]
    Unsafe { path: String, user: String, what: &'static str },
    #[error("no kubeconfig was given and no in-cluster configuration was found: {0}")]
    Infer(#[source] kube::config::InClusterError),
    #[error("cannot build a Kubernetes client: {0}")]
    Client(#[source] kube::Error),
}

/// A client for `kubeconfig`, or for the cluster this process runs in.
///
/// kube's own retry is off (it repeats writes after a 504, whose first try may have arrived); each call
/// runs under a deadline of ours instead, and a conflict after an unknown answer is read again.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    reached(kubeconfig).await.map(|(client, _)| client)
}

/// The same, and what it knows of whether its server answers.
pub async fn reached(kubeconfig: Option<&Path>) -> Result<(Client, Reach), ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => from_file(path).await?,
        None => Config::incluster().map_err(ConnectError::Infer)?,
    };
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(3));
    config.write_timeout = Some(Duration::from_secs(10));
    let reach = Reach::of(&config.cluster_url.to_string());
    let builder = ClientBuilder::try_from(config).map_err(ConnectError::Client)?;
    Ok((builder.with_layer(&reach).build(), reach))
}

async fn from_file(path: &Path) -> Result<Config, ConnectError> {
    let name = path.display().to_string();
    let read = |source| ConnectError::Read { path: name.clone(), source };
    let file = Kubeconfig::read_from(path).map_err(read)?;
    for user in &file.auth_infos {
        let Some(info) = &user.auth_info else { continue };
        let what = match info {
            i if i.exec.is_some() => "exec",
            i if i.auth_provider.is_some() => "auth-provider",
            _ => continue,
        };
        return Err(ConnectError::Unsafe { path: name, user: user.name.clone(), what });
    }
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(read)
}

/// Why a bounded call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("no answer within {} s", CALL_DEADLINE.as_secs())]
    Deadline,
    /// A writer's own refusal: another process may lead by now.
    #[error("not sent: this process no longer leads")]
    Deposed,
    #[error("{}", answer(.0))]
    Kube(#[from] kube::Error),
}

/// The API server's own sentence, without the status object around it.
fn answer(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} ({})", status.message, status.code),
        other => other.to_string(),
    }
}

impl CallError {
    /// The HTTP status that the API server answered with, if it answered.
    pub fn code(&self) -> Option<u16> {
        match self {
            CallError::Kube(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// Nobody answered: one's [`Reach`] has told it already.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, CallError::Deadline | CallError::Kube(kube::Error::Service(_) | kube::Error::HyperError(_)))
    }

    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    pub fn is_conflict(&self) -> bool {
        matches!(self.code(), Some(409 | 422))
    }
}

/// Runs one API call under [`CALL_DEADLINE`].
pub async fn bounded<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_DEADLINE, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(CallError::Deadline),
    }
}
