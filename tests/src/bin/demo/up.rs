//! `make up`: the fleet left to play with, with images to ship and the commands for it. Ends by Ctrl-C.

use std::path::Path;

use anyhow::{Context, Result};
use tidegate_tests::acts;
use tidegate_tests::netns;
use tidegate_tests::rig::cluster::{ADMIN, DEPLOYER, DEPLOYERS, DEVELOPER};
use tidegate_tests::stage::{DELIBERATE, Stage, spec};
use tidegate_tests::supply::behavior::Behavior;
use tidegate_tests::supply::release::{PublishSpec, Published};
use tidegate_tests::supply::sbom::Component;

use crate::screen::Screen;

/// Images beside the good one, and what becomes of them.
fn more_images() -> [(PublishSpec, &'static str); 3] {
    let healthy = |version: &str| Behavior::version(version).errors(DELIBERATE);
    [
        (
            spec("v2-bad", Behavior::version("v2-bad").errors(0.15)),
            "15 % errors: rolled back in staging and quarantined",
        ),
        (spec("v3-unsigned", healthy("v3-unsigned")).unsigned(), "not signed: denied, nothing is written anywhere"),
        (
            spec("v4-banned-sbom", healthy("v4-banned-sbom")).with_component(Component::log4j_core("2.14.1")),
            "its SBOM names a banned log4j-core: denied, naming it",
        ),
    ]
}

pub async fn up(stage: std::sync::Arc<Stage>, dir: &Path, screen: &Screen) -> Result<bool> {
    acts::follow(stage.clone());
    screen.say("signing and publishing images to play with");
    let next = stage.publish(&spec("v1", Behavior::version("v1").errors(DELIBERATE))).await.context("v1")?;
    let mut more = Vec::new();
    for (image, becomes) in more_images() {
        more.push((stage.publish(&image).await.with_context(|| image.tag.clone())?, becomes));
    }
    let enter = dir.join("enter");
    let kubectl = stage.fleet.parts.kubectl.parent().context("kubectl lies in a directory")?;
    netns::write_enter_script(&enter, kubectl)?;
    println!("{}", told(&stage, dir, &enter.display().to_string(), &next, &more)?);
    std::future::pending().await
}

fn told(
    stage: &Stage,
    dir: &Path,
    enter: &str,
    next: &Published,
    more: &[(Published, &'static str)],
) -> Result<String> {
    let hub = stage.fleet.hub.kubeconfig_for(ADMIN)?.display().to_string();
    let mut lines =
        vec![String::new(), "The fleet is up. Inside of its namespace:".into(), format!("  hub          {hub}")];
    for environment in &stage.fleet.environments {
        let kubeconfig = environment.cluster.kubeconfig_for(ADMIN)?;
        let (name, url) = (environment.name(), &environment.gateway_url);
        lines.push(format!("  {name:<12} {}   gateway {url}", kubeconfig.display()));
    }
    let tidegate = stage.roles.tidegate.display();
    let release = |image: &Published| {
        let (tag, revision) = (image.by_tag(), &image.revision);
        format!("  {enter} {tidegate} release {tag} --revision {revision} --kubeconfig {hub} -n portal")
    };
    lines.extend([String::new(), "Three commands to try, each in another terminal:".into()]);
    lines.push(release(next));
    lines.push(format!("  {enter} {tidegate} watch portal --kubeconfig {hub} -n portal"));
    lines.push(format!("  {enter} {tidegate} describe portal --kubeconfig {hub} -n portal"));
    for (image, becomes) in more {
        lines.extend([String::new(), format!("More images: {}: {becomes}", image.tag), release(image)]);
    }
    let first = stage.fleet.environments.first().context("a fleet has environments")?;
    let there = first.cluster.kubeconfig_for(ADMIN)?.display().to_string();
    let (name, url) = (first.name(), &first.gateway_url);
    lines.extend([
        String::new(),
        "Nothing of it answers outside of its namespace, the gateways neither: go through `enter`, which has a kubectl.".into(),
        format!("  {enter} kubectl --kubeconfig {there} get tro -A      # rollouts in {name}"),
        format!("  {enter} curl -si {url}      # which version answers: header x-version"),
        String::new(),
        format!(
            "Who makes workloads: the policy lets the group `{DEPLOYERS}` ({DEPLOYER}) alone; {DEVELOPER}, and an admin who says \
             nothing else, scale and restart."
        ),
        format!(
            "  {enter} kubectl --kubeconfig {there} --as {DEPLOYER} --as-group {DEPLOYERS} -n portal run by-hand --image {}",
            stage.first.by_digest()
        ),
        String::new(),
        format!("Ctrl-C ends all of it. Logs: {}", dir.join("logs").display()),
    ]);
    Ok(lines.join("\n"))
}
