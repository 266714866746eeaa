//! What a door must take, since only the hub can tell that nothing may come of it.

use anyhow::Result;
use tidegate_tests::stage::manifests::{GITHUB_REPOSITORY, SOURCE};
use tidegate_tests::stage::{revision_of, spec};
use tidegate_tests::supply::behavior::Behavior;
use tidegate_tests::supply::payloads::{self, Artifact};
use tidegate_tests::supply::provenance::Provenance;
use tidegate_tests::supply::release::PublishSpec;

use super::ground::{Ground, github, with};
use super::{Row, Then};

pub async fn rows(ground: &Ground<'_>) -> Result<Vec<Row>> {
    let mut rows = ignored(ground)?;
    rows.extend(denied(ground).await?);
    Ok(rows)
}

fn ignored(ground: &Ground<'_>) -> Result<Vec<Row>> {
    let nobody = ground.artifact("shop/nobody");
    let running = Artifact::from(&ground.stage.first);
    let mut npm = ground.package()?;
    npm["package"]["package_type"] = "npm".into();
    npm["package"]["package_version"]["container_metadata"] = serde_json::Value::Null;
    let mut empty = with(ground.build(), "/status", "SUCCESS");
    empty["results"]["images"] = serde_json::json!([]);
    let mut side = payloads::cloud_build(&ground.fresh(), "shop-prod", SOURCE, &running);
    side["substitutions"]["BRANCH_NAME"] = "side".into();
    let token = ground.token();
    Ok(vec![
        Row::ignored(
            "a DELETE",
            ground.registry(&payloads::artifact_registry("DELETE", &running)),
            "nothing to ship: a DELETE ships nothing",
        ),
        Row::ignored(
            "an image that no pipeline ships",
            ground.registry(&payloads::artifact_registry("INSERT", &nobody)),
            format!("no pipeline ships {}", nobody.repository),
        ),
        Row::ignored(
            "a branch that was deleted",
            github("push", &payloads::github_branch_deleted(GITHUB_REPOSITORY)?),
            "nothing to ship: the ref was deleted",
        ),
        Row::ignored(
            "a package that is no image",
            github("package", &npm),
            "nothing to ship: a package of type npm is no image",
        ),
        Row::ignored(
            "a build without images",
            ground.cloud_build(&token, &empty),
            "nothing to ship: the build made no image",
        ),
        Row::ignored(
            "a build of another branch",
            ground.cloud_build(&token, &side),
            "'side' is not a branch that ships (main)",
        ),
        Row::ignored(
            "a package that was deleted",
            github("package", &with(ground.package()?, "/action", "deleted")),
            "nothing to ship: a package was deleted",
        ),
    ])
}

/// Images in the registry, each properly announced, that the policy will not have.
async fn denied(ground: &Ground<'_>) -> Result<Vec<Row>> {
    let other = revision_of("another commit");
    let good = |name: &str| spec(name, Behavior::version(name));
    let unsigned = PublishSpec { signed: false, ..good("doors-unsigned") };
    let elsewhere = good("doors-commit").provenance(Provenance::cloud_build(SOURCE, &other));
    let by_hand = |spec: PublishSpec| {
        let by_hand = Provenance::cloud_build(SOURCE, &spec.revision).builder("https://evil.example/laptop");
        spec.provenance(by_hand)
    };
    let mut rows = Vec::new();
    for (name, spec, reason) in [
        ("an image that nobody signed", unsigned, "signed by the build"),
        ("provenance of another commit", elsewhere, other.as_str()),
        ("provenance of another builder", by_hand(good("doors-builder")), "https://evil.example/laptop"),
    ] {
        let published = ground.stage.publish(&spec).await?;
        let build = payloads::cloud_build(&ground.fresh(), "shop-prod", SOURCE, &Artifact::from(&published));
        let then = Then::Denied { digest: published.digest, reason: reason.to_owned() };
        rows.push(Row::stored(name, ground.cloud_build(&ground.token(), &build), then));
    }
    Ok(rows)
}
