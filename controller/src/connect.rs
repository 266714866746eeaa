//! Kubernetes clients: no hidden retries, bounded connects and writes. A role's kubeconfig comes from a Secret, so one
//! that would run a program, read other files, or send its credential past the server it names is refused; a person's
//! own may do all that, as kubectl's does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

use crate::reach::Reach;

/// Longest time one API call may take; callers wrap calls in [`bounded`].
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot read kubeconfig {path}: {}", unread(.reason))]
    Read { path: String, reason: KubeconfigError },
    #[error("kubeconfig {path}: {owner} names {what}, which {why}")]
    Unsafe { path: String, owner: String, what: &'static str, why: &'static str },
    #[error("no kubeconfig was given or found, and this runs in no cluster ({0}): name one with --kubeconfig")]
    Infer(kube::config::InClusterError),
    #[error("cannot build a Kubernetes client: {0}")]
    Client(kube::Error),
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
    bound(&mut config);
    let reach = Reach::of(&config.cluster_url.to_string());
    let builder = ClientBuilder::try_from(config).map_err(ConnectError::Client)?;
    Ok((builder.with_layer(&reach).build(), reach))
}

fn bound(config: &mut Config) {
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(3));
    config.write_timeout = Some(Duration::from_secs(10));
}

/// Where a person's command finds its cluster.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct PersonArgs {
    /// Kubeconfig of the cluster. Without it what kubectl would take: `KUBECONFIG`, `~/.kube/config`, or the cluster
    /// this runs in.
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig, if not the current one.
    #[arg(long, global = true)]
    pub context: Option<String>,
}

/// A person's connection.
pub struct Person {
    pub client: Client,
    /// That of their context.
    pub namespace: String,
    /// The API server's address.
    pub server: String,
}

/// A client for whoever types the command, and the namespace of their context. It is their own kubeconfig: a
/// credential plugin in it is run.
pub async fn person(args: &PersonArgs) -> Result<Person, ConnectError> {
    let name = args.kubeconfig.as_ref().map_or_else(|| "of this user".to_owned(), |path| path.display().to_string());
    let read = |reason| ConnectError::Read { path: name.clone(), reason };
    let file = match &args.kubeconfig {
        Some(path) => Some(Kubeconfig::read_from(path).map_err(read)?),
        // A usual file that is not there is none; one that is broken, or named and missing, must not send the command
        // to another cluster.
        None => match Kubeconfig::from_env().map_err(read)? {
            Some(file) => Some(file),
            None => match Kubeconfig::read() {
                Ok(file) => Some(file),
                Err(KubeconfigError::FindPath) => None,
                Err(KubeconfigError::ReadConfig(error, _)) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(read(error)),
            },
        },
    };
    let mut config = match file {
        Some(file) => {
            let options = KubeConfigOptions { context: args.context.clone(), ..KubeConfigOptions::default() };
            Config::from_custom_kubeconfig(file, &options).await.map_err(read)?
        }
        None => Config::incluster().map_err(ConnectError::Infer)?,
    };
    bound(&mut config);
    let namespace = config.default_namespace.clone();
    let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
    let client = ClientBuilder::try_from(config).map_err(ConnectError::Client)?.build();
    Ok(Person { client, namespace, server })
}

/// The cause alone where the reason would repeat the path.
fn unread(reason: &KubeconfigError) -> String {
    match reason {
        KubeconfigError::ReadConfig(cause, _) => cause.to_string(),
        other => other.to_string(),
    }
}

async fn from_file(path: &Path) -> Result<Config, ConnectError> {
    let name = path.display().to_string();
    let read = |reason| ConnectError::Read { path: name.clone(), reason };
    let file = Kubeconfig::read_from(path).map_err(read)?;
    let dir = path.parent().unwrap_or(Path::new(""));
    if let Some((owner, what, why)) = unsafe_entry(&file, dir) {
        return Err(ConnectError::Unsafe { path: name, owner, what, why });
    }
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(read)
}

/// The first entry of a kubeconfig, of whatever context, with which its author would reach further than one server and
/// one credential: whose it is, its name, and why not. Files beside the kubeconfig are its author's own.
fn unsafe_entry(file: &Kubeconfig, dir: &Path) -> Option<(String, &'static str, &'static str)> {
    const RUNS: &str = "would run what the file's author chooses: use a token or a client certificate";
    const READS: &str =
        "is a file elsewhere, chosen by the file's author: put its content here, or the file beside this one";
    const ASTRAY: &str =
        "would show the credential to others than the server: name the server itself and its authority";
    let elsewhere = |named: &Option<String>| named.as_ref().is_some_and(|named| Path::new(named).parent() != Some(dir));
    for cluster in &file.clusters {
        let Some(of) = &cluster.cluster else { continue };
        let found = [
            (of.insecure_skip_tls_verify == Some(true), "insecure-skip-tls-verify", ASTRAY),
            (of.proxy_url.is_some(), "proxy-url", ASTRAY),
            (of.server.as_ref().is_some_and(|url| !url.starts_with("https://")), "a server without https", ASTRAY),
            (elsewhere(&of.certificate_authority), "certificate-authority", READS),
        ];
        if let Some((_, what, why)) = found.into_iter().find(|(is, ..)| *is) {
            return Some((format!("cluster '{}'", cluster.name), what, why));
        }
    }
    for user in &file.auth_infos {
        let Some(of) = &user.auth_info else { continue };
        let found = [
            (of.exec.is_some(), "exec", RUNS),
            (of.auth_provider.is_some(), "auth-provider", RUNS),
            (elsewhere(&of.token_file), "tokenFile", READS),
            (elsewhere(&of.client_certificate), "client-certificate", READS),
            (elsewhere(&of.client_key), "client-key", READS),
        ];
        if let Some((_, what, why)) = found.into_iter().find(|(is, ..)| *is) {
            return Some((format!("user '{}'", user.name), what, why));
        }
    }
    None
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

/// Why no server answered, from the bottom of the chain of causes. None: one did, or it was never asked.
pub fn silence(error: &kube::Error) -> Option<String> {
    use std::error::Error;
    if !matches!(error, kube::Error::Service(_) | kube::Error::HyperError(_)) {
        return None;
    }
    let mut cause: &(dyn Error + 'static) = error;
    while let Some(source) = cause.source() {
        // A credential plugin that failed says nothing of the server.
        if source.is::<kube::client::AuthError>() {
            return None;
        }
        cause = source;
    }
    Some(match cause.downcast_ref::<std::io::Error>() {
        Some(io) if io.raw_os_error().is_some() => io.kind().to_string(),
        _ => cause.to_string(),
    })
}

impl CallError {
    /// Why nobody answered, for people.
    pub fn silence(&self) -> Option<String> {
        match self {
            CallError::Deadline => Some(self.to_string()),
            CallError::Deposed => None,
            CallError::Kube(error) => silence(error),
        }
    }

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

    /// Nothing of it reached a server: no connection was made, or no credential was found for it.
    pub fn was_never_sent(&self) -> bool {
        use std::error::Error;
        let CallError::Kube(kube::Error::Service(error)) = self else { return matches!(self, CallError::Deposed) };
        let mut cause: Option<&(dyn Error + 'static)> = Some(error.as_ref());
        while let Some(error) = cause {
            let connects = error.downcast_ref::<hyper_util::client::legacy::Error>();
            if error.is::<kube::client::AuthError>() || connects.is_some_and(|error| error.is_connect()) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// Whether what was asked for was done is not known: no answer that can be read, or one of a server in trouble.
    pub fn leaves_open(&self) -> bool {
        !self.was_never_sent() && self.code().is_none_or(|code| code >= 500)
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

#[cfg(test)]
mod tests {
    use super::*;

    const PLUGIN: &str = r#"
apiVersion: v1
kind: Config
clusters:
- {name: one, cluster: {server: "https://127.0.0.1:1"}}
- {name: two, cluster: {server: "https://127.0.0.1:2"}}
contexts:
- {name: one, context: {cluster: one, user: me, namespace: shop}}
- {name: two, context: {cluster: two, user: me}}
current-context: one
users:
- name: me
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      interactiveMode: Never
      command: echo
      args: ['{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "t"}}']
"#;

    fn written(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("tidegate-connect-{}-{name}", std::process::id()));
        std::fs::write(&path, PLUGIN).unwrap();
        path
    }

    #[tokio::test]
    async fn a_plugin_is_refused_in_a_roles_kubeconfig_and_a_persons_context_is_followed() {
        let path = written("plugin");
        let refused = client(Some(&path)).await.err().unwrap().to_string();
        assert!(refused.contains("user 'me' names exec"), "{refused}");
        for (context, namespace) in [(None, "shop"), (Some("two"), "default")] {
            let args = PersonArgs { kubeconfig: Some(path.clone()), context: context.map(str::to_owned) };
            assert_eq!(person(&args).await.unwrap().namespace, namespace);
        }
        let args = PersonArgs { kubeconfig: Some(path.clone()), context: Some("three".to_owned()) };
        let unknown = person(&args).await.err().unwrap().to_string();
        assert!(unknown.contains("three"), "{unknown}");
        std::fs::remove_file(path).unwrap();
    }
    #[tokio::test]
    async fn a_roles_kubeconfig_reaches_one_server_with_one_credential_and_nothing_else() {
        const PLAIN: &str = "{server: 'https://127.0.0.1:1'}";
        let (cluster, user) = (|more: &str| format!("{{server: 'https://127.0.0.1:1', {more}}}"), "{token: t}");
        let rows = [
            (PLAIN.to_owned(), user, None),
            (cluster("insecure-skip-tls-verify: false, tls-server-name: hub.example"), user, None),
            (PLAIN.to_owned(), "{tokenFile: beside}", None),
            (
                PLAIN.to_owned(),
                "{tokenFile: /etc/passwd}",
                Some("user 'me' names tokenFile, which is a file elsewhere"),
            ),
            (PLAIN.to_owned(), "{tokenFile: ../token}", Some("names tokenFile")),
            (PLAIN.to_owned(), "{tokenFile: deeper/token}", Some("names tokenFile")),
            (
                PLAIN.to_owned(),
                "{client-certificate: /x/tls.crt, client-key: /x/tls.key}",
                Some("names client-certificate"),
            ),
            (PLAIN.to_owned(), "{client-certificate-data: '', client-key: /x/tls.key}", Some("names client-key")),
            (PLAIN.to_owned(), "{auth-provider: {name: gcp}}", Some("names auth-provider, which would run")),
            (PLAIN.to_owned(), "{exec: {command: sh}}", Some("names exec, which would run")),
            (cluster("certificate-authority: /x/ca.crt"), user, Some("cluster 'one' names certificate-authority")),
            (cluster("insecure-skip-tls-verify: true"), user, Some("names insecure-skip-tls-verify, which would show")),
            (cluster("proxy-url: 'http://127.0.0.1:3128'"), user, Some("cluster 'one' names proxy-url")),
            ("{server: 'http://127.0.0.1:1'}".to_owned(), user, Some("names a server without https")),
        ];
        let dir = std::env::temp_dir().join(format!("tidegate-connect-{}-rows", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("beside"), "t").unwrap();
        let path = dir.join("kubeconfig");
        for (cluster, user, refusal) in rows {
            // No context uses it: a later change of the context must not find it either.
            let text = format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: x\n\
                 contexts:\n- {{name: x, context: {{cluster: used, user: used}}}}\n\
                 clusters:\n- {{name: used, cluster: {PLAIN}}}\n- {{name: one, cluster: {cluster}}}\n\
                 users:\n- {{name: used, user: {{token: t}}}}\n- {{name: me, user: {user}}}\n"
            );
            std::fs::write(&path, text).unwrap();
            let said = client(Some(&path)).await.err().map(|error| error.to_string());
            match (refusal, said) {
                (None, None) => {}
                (Some(sentence), Some(said)) => assert!(said.contains(sentence), "{cluster} {user}: {said}"),
                (_, said) => panic!("{cluster} {user}: {said:?}"),
            }
        }
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_told_by_its_cause() {
        let config = Config::new("http://127.0.0.1:1".parse().unwrap());
        let client = Client::try_from(config).unwrap();
        let error = bounded(client.apiserver_version()).await.unwrap_err();
        assert_eq!(error.silence().as_deref(), Some("connection refused"), "{error:?}");
        assert!(error.was_never_sent() && !error.leaves_open());
        assert!(!CallError::Deadline.was_never_sent() && CallError::Deadline.leaves_open());
        assert_eq!(CallError::Deadline.silence().as_deref(), Some("no answer within 5 s"));
        assert_eq!(CallError::Deposed.silence(), None);
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_named_once() {
        let args = PersonArgs { kubeconfig: Some("/nonexistent".into()), context: None };
        let told = person(&args).await.err().unwrap().to_string();
        assert_eq!(told, "cannot read kubeconfig /nonexistent: No such file or directory (os error 2)");
    }
}
