//! Who may set an image. Never looks anything up: the caller brings what the API server said.

use crate::model::{DeployerKind, Policy};

/// Whether `user` (or one of their `groups`) may change a pod template or make a bare pod.
/// A policy that names no deployers does not restrict them.
pub fn is_deployer(policy: &Policy, user: &str, groups: &[String]) -> bool {
    policy.deployers.is_empty()
        || policy.deployers.iter().any(|deployer| match deployer.kind {
            DeployerKind::User => deployer.name == user,
            DeployerKind::Group => groups.contains(&deployer.name),
            DeployerKind::ServiceAccount => service_account_user(&deployer.name).is_some_and(|name| name == user),
        })
}

/// `namespace:name` as the API server spells its user.
fn service_account_user(name: &str) -> Option<String> {
    let (namespace, account) = name.split_once(':')?;
    Some(format!("system:serviceaccount:{namespace}:{account}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Deployer;

    fn policy() -> Policy {
        let deployer = |kind, name: &str| Deployer { kind, name: name.to_owned() };
        Policy {
            deployers: vec![
                deployer(DeployerKind::User, "anna"),
                deployer(DeployerKind::Group, "release-managers"),
                deployer(DeployerKind::ServiceAccount, "tidegate-system:spoke"),
            ],
            ..Policy::default()
        }
    }

    #[test]
    fn only_named_users_groups_and_accounts_are_deployers() {
        let groups = |g: &[&str]| g.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        for (user, member_of, expected) in [
            ("anna", vec![], true),
            ("bob", vec!["release-managers"], true),
            ("bob", vec!["developers"], false),
            ("system:serviceaccount:tidegate-system:spoke", vec![], true),
            ("system:serviceaccount:other:spoke", vec![], false),
            // A user's name never stands for a group's, nor the other way round.
            ("release-managers", vec![], false),
            ("bob", vec!["anna"], false),
            ("tidegate-system:spoke", vec![], false),
        ] {
            assert_eq!(is_deployer(&policy(), user, &groups(&member_of)), expected, "{user} {member_of:?}");
        }
    }

    #[test]
    fn a_policy_without_deployers_restricts_nobody() {
        assert!(is_deployer(&Policy::default(), "anyone", &[]));
    }
}
