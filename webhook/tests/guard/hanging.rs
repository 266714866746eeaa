//! A registry that never answers: who named its images waits, and nobody else does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use tidegate_pipelines::api::VerdictDecision;
use tidegate_policies::digest::Digest;
use tidegate_policies::image::ImageRef;
use tidegate_policies::model::Scope;
use tidegate_policies::registry::{Fetch, FetchError, Location, Manifest, Referrer};
use tidegate_policies::verifier::Verifier;
use tidegate_webhook::guard::assess::{Assessment, Want};
use tidegate_webhook::guard::facts::Judged;
use tidegate_webhook::guard::metrics::UnfinishedLabels;
use tidegate_webhook::guard::{Ahead, Assessor, Guard, NotInForce, finish};
use tokio::sync::watch;

use crate::house::*;

/// Counts who waits for it; images of this digest alone are not there, which it says at once.
#[derive(Clone, Default)]
struct Hanging {
    waiting: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    answers_for: Option<Digest>,
    /// Answers after a while, with this.
    errs: Option<FetchError>,
}

struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Hanging {
    fn asked_by(self, house: &House) -> Arc<Assessor> {
        self.asked_for(Duration::from_secs(20), house)
    }

    /// A verification gives up after so long, and that was long.
    fn asked_for(self, deadline: Duration, house: &House) -> Arc<Assessor> {
        let verifier = Arc::new(Verifier::new(Arc::new(self)).with_deadline(deadline));
        let Guard { now, metrics, .. } = &house.guard;
        let assessor = Assessor::new(house.cluster.clone(), verifier, now.clone(), metrics.clone());
        Arc::new(assessor.with_patience(deadline))
    }

    async fn hang<T>(&self, digest: Option<&Digest>) -> Result<T, FetchError> {
        if digest.is_some() && digest == self.answers_for.as_ref() {
            return Err(FetchError::NotFound { what: "it".to_owned(), at: "r.test".to_owned() });
        }
        self.asked.fetch_add(1, Ordering::SeqCst);
        let now = self.waiting.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let _waiting = Waiting(self.waiting.clone());
        match &self.errs {
            Some(error) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(error.clone())
            }
            None => std::future::pending().await,
        }
    }
}

#[async_trait]
impl Fetch for Hanging {
    async fn resolve(&self, _: &Location, image: &ImageRef) -> Result<Digest, FetchError> {
        self.hang(image.digest.as_ref()).await
    }

    async fn manifest(&self, _: &Location, digest: &Digest) -> Result<Manifest, FetchError> {
        self.hang(Some(digest)).await
    }

    async fn referrers(&self, _: &Location, digest: &Digest) -> Result<Vec<Referrer>, FetchError> {
        self.hang(Some(digest)).await
    }

    async fn blob(&self, _: &Location, digest: &Digest, _: u64) -> Result<Bytes, FetchError> {
        self.hang(Some(digest)).await
    }
}

fn want(namespace: &str, n: u8) -> Want {
    let scope = Scope { namespace: namespace.to_owned(), service_account: Some("default".to_owned()) };
    Want { image: unsigned(n).parse().unwrap(), scope, revision: None }
}

/// All that the guard does behind requests.
async fn work(ahead: Ahead, changes: watch::Receiver<u64>) {
    let finishing = ahead.finishing();
    tokio::select! {
        () = ahead.run(changes) => {}
        () = finishing => {}
    }
}

#[tokio::test]
async fn one_namespaces_hanging_images_take_no_other_ones_place() {
    let house = House::enforcing();
    let in_force = house.guard.cluster.in_force().unwrap();
    let registry = Hanging { answers_for: Some(digest(200).parse().unwrap()), ..Hanging::default() };
    let assessor = registry.clone().asked_by(&house);
    let budget = Duration::from_millis(300);
    let hanging: Vec<Want> = (0..120).map(|n| want("noisy", n)).collect();
    let tags = join_all((0..120).map(|n| {
        let image = format!("r.test/unsigned/portal:{n}").parse().unwrap();
        let (assessor, in_force) = (&assessor, &in_force);
        async move { assessor.resolve(in_force, "noisy", &image, budget).await }
    }));
    let pods = join_all(hanging.iter().map(|want| assessor.assess(&in_force, want, budget, true)));
    let quiet = want("quiet", 200);
    let (pods, tags, quiet) = tokio::join!(pods, tags, assessor.assess(&in_force, &quiet, budget, true));
    assert!(
        pods.iter().all(|found| matches!(&found.judged, Judged::Error(why) if why.contains("could not be verified")))
    );
    assert!(tags.iter().all(Result::is_err));
    let waited = matches!(&quiet.judged, Judged::Error(why) if why.contains("within 300 ms"));
    assert!(!waited, "the other namespace waited as well: {:?}", quiet.judged);
    // A verification asks for a manifest and for what refers to it at once.
    let most = registry.most.load(Ordering::SeqCst);
    assert!((32..=64).contains(&most), "{most} requests at once");
    assert_eq!(registry.waiting.load(Ordering::SeqCst), 0, "who gave up waits no more");
}

#[tokio::test]
async fn what_a_pod_could_not_wait_for_holds_up_no_rollout() {
    let house = House::enforcing();
    let assessor = Hanging::default().asked_by(&house);
    let in_force = house.guard.cluster.in_force().unwrap();
    for n in 0..40 {
        assessor.assess(&in_force, &want("noisy", n), Duration::from_millis(1), true).await;
    }
    let changes = watch::Sender::new(0);
    let ahead = Ahead::new(house.cluster.clone(), assessor, house.guard.now.clone());
    let later = async {
        // The first pass finds no rollout; by then the others are under way.
        tokio::time::sleep(Duration::from_millis(50)).await;
        house.rollout("r-1", &[good(1)], &[], None, 0);
        changes.send_replace(1);
        while house.is_kept(&good(1)) != Some(VerdictDecision::Allow) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = work(ahead, changes.subscribe()) => panic!("it ended"),
        ended = tokio::time::timeout(Duration::from_secs(5), later) => assert!(ended.is_ok(), "no verdict for the rollout"),
    }
}

#[tokio::test]
async fn what_a_dry_run_could_not_wait_for_is_not_finished_behind_it() {
    let house = House::enforcing();
    let in_force = house.guard.cluster.in_force().unwrap();
    let registry = Hanging::default();
    let assessor = registry.clone().asked_by(&house);
    let want = want("portal", 1);
    for (dry_run, left) in [(true, 0), (false, 1)] {
        let text = assessor.assess(&in_force, &want, Duration::from_millis(1), !dry_run).await;
        assert_eq!(told(&text).contains("verified further in its turn"), !dry_run, "{text:?}");
        assert_eq!(counted(&house, "waits"), left, "dry run: {dry_run}");
        let before = registry.asked.load(Ordering::SeqCst);
        finish_for(100, &house, &assessor).await;
        let asked = registry.asked.load(Ordering::SeqCst) > before;
        assert_eq!(asked, !dry_run, "what waits is asked for, and else nothing; dry run: {dry_run}");
    }
}

/// What waits is worked off for so long.
async fn finish_for(millis: u64, house: &House, assessor: &Assessor) {
    let working = tokio::time::timeout(Duration::from_millis(millis), finish::run(&*house.cluster, assessor));
    assert!(working.await.is_err(), "it ended");
}

#[tokio::test]
async fn what_errs_sooner_than_a_request_would_does_not_rest_and_says_why() {
    let (what, at) = ("referrers".to_owned(), "r.test".to_owned());
    for (errs, why) in [
        (FetchError::Status { what: what.clone(), at: at.clone(), status: 429 }, "answered 429"),
        (FetchError::TooMany { what: what.clone(), at: at.clone(), limit: 64 }, "lists more than 64"),
        (FetchError::Malformed { what, at, reason: "no JSON".to_owned() }, "is malformed: no JSON"),
    ] {
        let house = House::enforcing();
        let in_force = house.guard.cluster.in_force().unwrap();
        let registry = Hanging { errs: Some(errs), ..Hanging::default() };
        let assessor = registry.clone().asked_by(&house);
        let want = want("portal", 1);
        let hasty = assessor.assess(&in_force, &want, Duration::from_millis(1), true).await;
        assert!(told(&hasty).contains("verified further in its turn"), "{hasty:?}");
        let before = registry.asked.load(Ordering::SeqCst);
        finish_for(300, &house, &assessor).await;
        assert!(registry.asked.load(Ordering::SeqCst) > before, "it was finished behind the request");
        let next = assessor.assess(&in_force, &want, Duration::from_secs(5), true).await;
        assert!(told(&next).contains(why), "{next:?}");
        assert_eq!(counted(&house, "rests"), 0, "{why}");
    }
}

#[tokio::test]
async fn what_waits_while_no_policy_is_in_force_is_verified_under_the_next() {
    let house = House::enforcing();
    let in_force = house.guard.cluster.in_force().unwrap();
    let waiting = Want { image: good(1).parse().unwrap(), ..want("portal", 1) };
    let told = house.assessor.later(&in_force, &waiting).await;
    assert!(told.contains("is verified further"), "{told}");
    *house.cluster.in_force.write().unwrap() = Err(NotInForce::NotSynced);
    finish_for(50, &house, &house.assessor).await;
    assert_eq!(house.is_kept(&good(1)), None);
    let kept = async {
        // By then it has been found that there is none.
        tokio::time::sleep(Duration::from_millis(50)).await;
        *house.cluster.in_force.write().unwrap() = Ok(in_force.clone());
        while house.is_kept(&good(1)) != Some(VerdictDecision::Allow) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = finish::run(&*house.cluster, &house.assessor) => panic!("it ended"),
        ended = tokio::time::timeout(Duration::from_secs(5), kept) => assert!(ended.is_ok(), "it was dropped"),
    }
}

fn counted(house: &House, outcome: &'static str) -> u64 {
    house.guard.metrics.unfinished.get_or_create(&UnfinishedLabels { outcome }).get()
}

fn told(found: &Assessment) -> &str {
    match &found.judged {
        Judged::Error(why) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_namespaces_unfinished_images_keep_no_other_ones_from_being_finished() {
    let house = House::enforcing();
    let in_force = house.guard.cluster.in_force().unwrap();
    let registry = Hanging::default();
    let assessor = registry.clone().asked_by(&house);
    let hanging: Vec<Want> = (0..200).map(|n| want("noisy", n)).collect();
    let budget = Duration::from_millis(100);
    let pods = join_all(hanging.iter().map(|want| assessor.assess(&in_force, want, budget, true))).await;
    assert_eq!((counted(&house, "waits"), counted(&house, "dropped")), (16, 184));
    let dropped = pods.iter().filter(|found| told(found).contains("of this namespace wait for that already")).count();
    assert_eq!(dropped, 184);
    assert!(pods.iter().all(|found| told(found).contains("try again")), "each says what to do");
    let quiet = Want { image: good(1).parse().unwrap(), ..want("portal", 1) };
    assessor.later(&in_force, &quiet).await;
    let (_change, changes) = watch::channel(0);
    let ahead = Ahead::new(house.cluster.clone(), assessor, house.guard.now.clone());
    let kept = async {
        while house.is_kept(&good(1)).is_none() || registry.waiting.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        registry.waiting.load(Ordering::SeqCst)
    };
    tokio::select! {
        () = work(ahead, changes) => panic!("it ended"),
        waiting = tokio::time::timeout(Duration::from_secs(5), kept) => {
            // A verification has two requests under way at most.
            assert!(waiting.is_ok_and(|waiting| waiting <= 2), "its turn, beside one of the others");
        }
    }
}

#[tokio::test]
async fn an_image_that_hung_is_asked_for_again_only_after_its_rest() {
    let house = House::enforcing();
    let in_force = house.guard.cluster.in_force().unwrap();
    let registry = Hanging::default();
    let assessor = registry.clone().asked_for(Duration::from_millis(50), &house);
    let want = want("portal", 1);
    let pod = async || assessor.assess(&in_force, &want, Duration::from_millis(1), true).await;
    let (_change, changes) = watch::channel(0);
    let ahead = Ahead::new(house.cluster.clone(), assessor.clone(), house.guard.now.clone());
    let story = async {
        for rest in [30, 60] {
            assert!(told(&pod().await).contains("is verified further in its turn"));
            let resting =
                format!("verified no further now: try again in {} s; lately it could not be verified: ", rest + 1);
            while !told(&pod().await).contains(&resting) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let asked = registry.asked.load(Ordering::SeqCst);
            for _ in 0..10 {
                house.advance(1);
                let found = pod().await;
                assert!(told(&found).contains("verified no further now"), "{found:?}");
                assert!(told(&found).contains("see whether the registry answers"), "why: {found:?}");
            }
            assert_eq!(registry.asked.load(Ordering::SeqCst), asked, "each try of a ReplicaSet asked its registry");
            house.advance(rest - 10);
        }
        assert!(counted(&house, "rests") >= 20);
        house.keep(&unsigned(1), VerdictDecision::Allow, None);
        assert!(matches!(pod().await.judged, Judged::Allow), "what is known is let in whatever rests");
    };
    tokio::select! {
        () = work(ahead, changes) => panic!("it ended"),
        ended = tokio::time::timeout(Duration::from_secs(5), story) => assert!(ended.is_ok(), "it never rested"),
    }
}
