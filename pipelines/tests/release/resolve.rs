//! Rows of the BuildEvent table.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use tidegate_pipelines::api::*;
use tidegate_pipelines::release::{
    Lookup, Outcome, PipelineView, ReleaseAction, ResolveInput, bound_to, reference, resolve, wanted,
};

use super::fleet::{Fleet, digest, image, pipeline};

const NOW: &str = "2026-01-01T00:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn source() -> EventSourceSpec {
    EventSourceSpec {
        kind: EventSourceKind::Github,
        hmac_secret: None,
        oidc: None,
        repositories: vec!["shop/portal".into()],
        images: vec!["reg:5000/shop/**".into()],
        wait: Span::from_secs(900),
        report: None,
    }
}

fn view<'a>(namespace: &'a str, name: &'a str, spec: &'a PipelineSpec) -> PipelineView<'a> {
    PipelineView { namespace, name, uid: "uid", spec, deleting: false, refused: None, ambiguous_with: vec![] }
}

fn named(repository: &str, tag: Option<&str>, digest: Option<String>) -> EventImage {
    EventImage { repository: repository.into(), tag: tag.map(str::to_owned), digest }
}

fn event(images: Vec<EventImage>) -> BuildEventSpec {
    BuildEventSpec {
        source: "github".into(),
        type_: "package".into(),
        key: "k".into(),
        occurred_at: None,
        received_at: Time(now()),
        repository: None,
        git_ref: None,
        revision: Some("a".repeat(40)),
        images,
        pipeline_namespace: None,
        nothing_to_ship: None,
    }
}

fn push(branch: &str) -> BuildEventSpec {
    BuildEventSpec {
        type_: "push".into(),
        repository: Some("shop/portal".into()),
        git_ref: Some(branch.into()),
        ..event(vec![])
    }
}

struct Scene {
    pipelines: Vec<(String, PipelineSpec)>,
    ambiguous: bool,
    source: Option<EventSourceSpec>,
    lookups: BTreeMap<String, Lookup>,
    indexes: BTreeMap<String, Vec<String>>,
    releases: Vec<Release>,
    quarantines: Vec<Quarantine>,
    now: Timestamp,
}

fn scene() -> Scene {
    Scene {
        pipelines: vec![("portal".into(), pipeline())],
        ambiguous: false,
        source: Some(source()),
        lookups: BTreeMap::new(),
        indexes: BTreeMap::new(),
        releases: vec![],
        quarantines: vec![],
        now: now(),
    }
}

impl Scene {
    fn found(mut self, asked: &str, digit: char) -> Self {
        self.lookups.insert(asked.into(), Lookup::Found(digest(digit)));
        self
    }

    fn resolve(&self, event: &BuildEventSpec) -> Outcome {
        let views: Vec<PipelineView<'_>> = self
            .pipelines
            .iter()
            .map(|(name, spec)| PipelineView {
                ambiguous_with: if self.ambiguous { vec!["shop/other".into()] } else { vec![] },
                ..view("shop", name, spec)
            })
            .collect();
        let releases: Vec<&Release> = self.releases.iter().collect();
        let quarantines: Vec<&Quarantine> = self.quarantines.iter().collect();
        resolve(&ResolveInput {
            name: "event-1",
            event,
            status: None,
            source: self.source.as_ref(),
            pipelines: &views,
            lookups: &self.lookups,
            indexes: &self.indexes,
            releases: &releases,
            quarantines: &quarantines,
            now: self.now,
        })
    }
}

#[test]
fn what_ships_nothing_says_why() {
    let tagged = |repository: &str| event(vec![named(repository, Some("1"), None)]);
    let mut delete = tagged("reg:5000/shop/portal");
    delete.nothing_to_ship = Some("DELETE of a tag".into());
    let ambiguous = Scene { ambiguous: true, ..scene() }.found("reg:5000/shop/portal:1", '1');
    let gone = Scene { source: None, ..scene() };
    for (reason, scene, event) in [
        ("NothingToShip", scene(), delete),
        ("UnknownPipeline", scene(), tagged("reg:5000/shop/unknown")),
        ("ForeignImage", scene(), tagged("evil.example/shop/portal")),
        ("AmbiguousPipelines", ambiguous, tagged("reg:5000/shop/portal")),
        ("UnknownSource", gone, tagged("reg:5000/shop/portal")),
        ("OtherBranch", scene(), push("feature")),
        ("UnknownPipeline", scene(), BuildEventSpec { repository: Some("shop/else".into()), ..push("main") }),
    ] {
        let outcome = scene.resolve(&event);
        assert_eq!((outcome.phase, outcome.reason), (BuildEventPhase::Ignored, reason), "{}", outcome.message);
        assert!(!outcome.message.is_empty() && outcome.actions.is_empty());
    }
}

#[test]
fn a_pipeline_image_that_its_source_may_not_speak_for_is_not_waited_for() {
    let mut scene = scene();
    scene.source.as_mut().unwrap().images = vec!["reg:5000/other".into()];
    assert_eq!(scene.resolve(&push("main")).reason, "ForeignImage");
}

#[test]
fn a_tag_becomes_a_release_of_its_digest() {
    let outcome = scene().found("reg:5000/shop/portal:1", '1').resolve(&event(vec![named(
        "reg:5000/shop/portal",
        Some("1"),
        None,
    )]));
    assert_eq!(outcome.phase, BuildEventPhase::Released);
    let [ReleaseAction::Create { name, spec, .. }] = outcome.actions.as_slice() else { panic!("{outcome:?}") };
    assert_eq!(spec.images, [image('1')]);
    assert!(name.starts_with("portal-"));
    assert_eq!(outcome.resolved[0].digest, Some(digest('1')));
}

#[test]
fn a_digest_is_looked_up_as_that_digest_whatever_the_tag_says() {
    let event = event(vec![named("reg:5000/shop/portal", Some("latest"), Some(digest('2')))]);
    let (spec, source) = (pipeline(), source());
    let asked = wanted(&event, Some(&source), &[view("shop", "portal", &spec)]).unwrap();
    assert_eq!(reference(&asked[0].ask), format!("reg:5000/shop/portal@{}", digest('2')));
}

#[test]
fn a_push_waits_for_the_image_of_its_commit_until_the_deadline() {
    let tag = format!("reg:5000/shop/portal:{}", "a".repeat(40));
    let mut scene = scene();
    for answer in [Lookup::NotThere, Lookup::Away("no route to host".into())] {
        scene.now = now();
        scene.lookups.insert(tag.clone(), answer);
        let outcome = scene.resolve(&push("main"));
        assert_eq!(outcome.phase, BuildEventPhase::Waiting);
        assert_eq!(outcome.waiting_until, Some(now() + SignedDuration::from_secs(900)));
        scene.now = now() + SignedDuration::from_secs(900);
        assert_eq!(scene.resolve(&push("main")).phase, BuildEventPhase::Expired);
    }
    scene.now = now();
    let outcome = scene.found(&tag, '1').resolve(&push("main"));
    assert_eq!(outcome.phase, BuildEventPhase::Released);
}

/// The release of digit `1`, in the given phase, and the event that names it once more.
fn again(prepare: impl FnOnce(&mut Fleet, &str)) -> Outcome {
    let mut fleet = Fleet::new(pipeline());
    let name = fleet.release('1');
    fleet.settle();
    prepare(&mut fleet, &name);
    let scene = Scene { releases: fleet.releases, quarantines: fleet.quarantines, ..scene() };
    let event = event(vec![named("reg:5000/shop/portal", None, Some(digest('1')))]);
    scene.found(&format!("reg:5000/shop/portal@{}", digest('1')), '1').resolve(&event)
}

#[test]
fn another_event_for_a_released_digest_is_told_what_holds_it() {
    let promoted = |fleet: &mut Fleet| {
        fleet.promote("staging").promote("prod-east").promote("prod-west");
    };
    for (reason, outcome) in [
        ("AlreadyUnderWay", again(|_, _| {})),
        ("AlreadyRuns", again(|fleet, _| promoted(fleet))),
        (
            "Quarantined",
            again(|fleet, _| {
                fleet.breach("staging", RolloutPhase::RolledBack).settle();
            }),
        ),
        (
            "Withdrawn",
            again(|fleet, name| {
                fleet
                    .change(name, |spec| spec.abort = true)
                    .settle()
                    .report("staging", RolloutPhase::Withdrawn)
                    .settle();
            }),
        ),
        (
            "Downgrade",
            again(|fleet, _| {
                promoted(fleet);
                fleet.pass(10);
                fleet.release('2');
                fleet.settle();
                promoted(fleet);
            }),
        ),
    ] {
        assert_eq!((outcome.phase, outcome.reason), (BuildEventPhase::Ignored, reason), "{}", outcome.message);
    }
}

#[test]
fn another_event_after_a_bad_end_is_another_attempt() {
    for end in [RolloutPhase::Inconclusive, RolloutPhase::Blind, RolloutPhase::Failed] {
        let outcome = again(|fleet, _| {
            fleet.report("staging", end).settle();
        });
        assert!(
            matches!(outcome.actions.as_slice(), [ReleaseAction::Attempt { attempt: 2, .. }]),
            "{end:?}: {outcome:?}"
        );
    }
}

#[test]
fn an_event_that_was_answered_already_is_not_counted_twice() {
    let outcome = again(|fleet, _| {
        fleet.report("staging", RolloutPhase::Failed).settle();
        fleet.releases[0].annotations_mut().insert(names::EVENTS_ANNOTATION.into(), "event-0,event-1".into());
    });
    assert_eq!(outcome.phase, BuildEventPhase::Released);
    assert!(matches!(outcome.actions.as_slice(), [ReleaseAction::Known(_)]), "{outcome:?}");
}

#[test]
fn a_quarantined_digest_makes_no_release_under_any_name() {
    let mut scene = scene().found("reg:5000/shop/portal:1", '1');
    let spec = QuarantineSpec {
        digests: vec![digest('1')],
        revision: None,
        repositories: vec![],
        environments: vec!["prod-east".into()],
        reason: "it burnt".into(),
        origin: None,
        lifted: None,
    };
    scene.quarantines = vec![Quarantine::new("q", spec)];
    let event = event(vec![named("reg:5000/shop/portal", Some("1"), None)]);
    assert_eq!(scene.resolve(&event).reason, "Quarantined");
    scene.quarantines[0].spec.lifted = Some(Lifted { by: "anna".into(), reason: "a false alarm of ours".into() });
    assert_eq!(scene.resolve(&event).phase, BuildEventPhase::Released);
}

#[test]
fn another_build_of_a_quarantined_revision_makes_no_release_of_that_image() {
    let spec = QuarantineSpec {
        digests: vec![digest('9')],
        revision: Some("a".repeat(40)),
        repositories: vec!["reg:5000/shop/portal".into()],
        environments: vec![],
        reason: "it burnt".into(),
        origin: None,
        lifted: None,
    };
    let event = event(vec![named("reg:5000/shop/portal", Some("1"), None)]);
    let resolved = |change: &dyn Fn(&mut QuarantineSpec)| {
        let mut spec = spec.clone();
        change(&mut spec);
        let quarantines = vec![Quarantine::new("q", spec)];
        Scene { quarantines, ..scene() }.found("reg:5000/shop/portal:1", '1').resolve(&event)
    };
    let held = resolved(&|_| {});
    assert_eq!(held.reason, "Quarantined");
    assert!(held.message.contains(&format!("source revision {}", "a".repeat(40))), "{}", held.message);
    assert_eq!(resolved(&|spec| spec.repositories.clear()).reason, "Quarantined", "of no image in particular");
    // The same commit builds other services too: what did not fail is not held.
    assert_eq!(resolved(&|spec| spec.repositories = vec!["reg:5000/shop/other".into()]).reason, "Released");
    assert_eq!(resolved(&|spec| spec.revision = Some("b".repeat(40))).reason, "Released");
    assert_eq!(resolved(&|spec| spec.environments = vec!["elsewhere".into()]).reason, "Released");
}

#[test]
fn what_an_index_lists_stands_in_the_release_and_holds_it_back() {
    let event = event(vec![named("reg:5000/shop/portal", Some("1"), None)]);
    let mut scene = scene().found("reg:5000/shop/portal:1", '1');
    scene.indexes.insert(digest('1'), vec![digest('a'), digest('b')]);
    let outcome = scene.resolve(&event);
    let [ReleaseAction::Create { spec, .. }] = outcome.actions.as_slice() else { panic!("{outcome:?}") };
    assert_eq!(spec.indexes, [ImageIndex { digest: digest('1'), children: vec![digest('a'), digest('b')] }]);
    let quarantined = QuarantineSpec {
        digests: vec![digest('9'), digest('b')],
        revision: None,
        repositories: vec![],
        environments: vec![],
        reason: "it burnt".into(),
        origin: None,
        lifted: None,
    };
    scene.quarantines = vec![Quarantine::new("q", quarantined)];
    let held = scene.resolve(&event);
    assert_eq!(held.reason, "Quarantined");
    assert!(held.message.contains(&digest('b')), "{}", held.message);
}

#[test]
fn containers_that_the_event_does_not_name_keep_their_last_released_digest() {
    let proxy = PipelineImage { container: "proxy".into(), repository: "reg:5000/shop/proxy".into() };
    let mut spec = pipeline();
    spec.images.push(proxy);
    let mut fleet = Fleet::new(spec.clone());
    fleet.release('1');
    let old = ReleaseImage { container: "proxy".into(), repository: "reg:5000/shop/proxy".into(), digest: digest('9') };
    fleet.releases[0].spec.images.push(old.clone());
    fleet.settle().promote("staging").promote("prod-east").promote("prod-west");
    let scene = Scene { pipelines: vec![("portal".into(), spec)], releases: fleet.releases, ..scene() };
    let outcome = scene.found("reg:5000/shop/portal:2", '2').resolve(&event(vec![named(
        "reg:5000/shop/portal",
        Some("2"),
        None,
    )]));
    let [ReleaseAction::Create { spec, .. }] = outcome.actions.as_slice() else { panic!("{outcome:?}") };
    assert_eq!(spec.images, [image('2'), old]);
}

#[test]
fn a_date_in_the_future_does_not_make_all_others_old() {
    let mut event = event(vec![named("reg:5000/shop/portal", Some("1"), None)]);
    event.occurred_at = Some(Time("2999-01-01T00:00:00Z".parse().unwrap()));
    let outcome = scene().found("reg:5000/shop/portal:1", '1').resolve(&event);
    let [ReleaseAction::Create { spec, .. }] = outcome.actions.as_slice() else { panic!("{outcome:?}") };
    assert_eq!(spec.built_at, Some(Time(now())));
}

#[test]
fn a_source_speaks_for_what_lies_below_and_for_nothing_beside() {
    let images = ["reg:5000/shop/**".to_owned(), "reg:5000/tools".to_owned()];
    for (repository, expected) in [
        ("reg:5000/shop/portal", true),
        ("reg:5000/shop/a/b", true),
        ("reg:5000/shop", false),
        ("reg:5000/shopping/portal", false),
        ("reg:5000/tools", true),
        ("reg:5000/tools/x", false),
        ("evil/reg:5000/shop/portal", false),
    ] {
        assert_eq!(bound_to(&images, repository), expected, "{repository}");
    }
}

#[test]
fn a_person_needs_no_source() {
    let mut scene = scene().found("reg:5000/shop/portal:1", '1');
    scene.source = None;
    let event = BuildEventSpec {
        source: names::PERSON_SOURCE.into(),
        ..event(vec![named("reg:5000/shop/portal", Some("1"), None)])
    };
    assert_eq!(scene.resolve(&event).phase, BuildEventPhase::Released);
}

#[test]
fn an_event_for_one_namespace_ships_in_no_other() {
    let spec = pipeline();
    let views = [view("shop", "portal", &spec), view("other", "portal", &spec)];
    for (namespace, expected) in [(None, Ok(vec![0, 1])), (Some("other"), Ok(vec![1])), (Some("gone"), Err(()))] {
        let event = BuildEventSpec {
            source: names::PERSON_SOURCE.into(),
            pipeline_namespace: namespace.map(str::to_owned),
            ..event(vec![named("reg:5000/shop/portal", Some("1"), None)])
        };
        let found = wanted(&event, None, &views).map(|found| found.iter().map(|w| w.pipeline).collect::<Vec<_>>());
        assert_eq!(found.map_err(drop), expected, "{namespace:?}");
        let push = BuildEventSpec { pipeline_namespace: event.pipeline_namespace, ..push("main") };
        let pushed =
            wanted(&push, Some(&source()), &views).map(|found| found.iter().map(|w| w.pipeline).collect::<Vec<_>>());
        assert_eq!(pushed.map_err(drop), expected, "{namespace:?}");
    }
    let nowhere = BuildEventSpec {
        pipeline_namespace: Some("gone".into()),
        ..event(vec![named("reg:5000/shop/portal", Some("1"), None)])
    };
    let told = scene().resolve(&nowhere).message;
    assert_eq!(told, "no pipeline ships reg:5000/shop/portal in namespace 'gone'");
}
