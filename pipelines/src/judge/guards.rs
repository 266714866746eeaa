//! What stands beside the e-process: the hard stop, the requests that pods never counted, and what is still lacking.
//! Simple counts over a recent window; no statistics.

use jiff::Timestamp;

use super::assess::Evidence;
use super::eprocess::Counts;
use super::state::{JudgeState, ProcessState};
use super::witness::Heard;

const HARD_STOP_ERRORS: f64 = 20.0;
const HARD_STOP_SHARE: f64 = 0.20;
const HARD_STOP_STABLE: f64 = 0.05;
/// The SRE workbook's page: at this pace a 30-day error budget is gone in two days.
const BURN: f64 = 14.4;
/// Below this a share of requests is noise.
const LEAST_REQUESTS: f64 = 100.0;

/// How far back the recent window reaches: long enough for three scrapes, however slow.
pub(crate) const fn window_ms(interval: i64) -> i64 {
    if 3 * interval > 30_000 { 3 * interval } else { 30_000 }
}

/// A collapse is not excused by warm-up: masked pods count here.
pub(crate) fn hard_stop(name: &str, recent: Counts, process: &ProcessState) -> Option<String> {
    let errors = recent.canary_errors.min(recent.canary_requests);
    let share = errors / recent.canary_requests.max(1.0);
    if errors < HARD_STOP_ERRORS || share < HARD_STOP_SHARE {
        return None;
    }
    // Without a control arm (the last step, baking) stable's rate is what it was before.
    let (requests, bad) = if recent.stable_requests > 0.0 {
        (recent.stable_requests, recent.stable_errors)
    } else if let (Some(requests), Some(bad)) = (process.past_requests, process.past_errors) {
        (requests as f64, bad as f64)
    } else {
        (process.stable_requests as f64, process.stable_errors as f64)
    };
    if requests <= 0.0 || bad / requests >= HARD_STOP_STABLE {
        return None;
    }
    Some(format!(
        "hard stop: {name}: {errors:.0} errors are {:.0} % of the canary's {:.0} requests, stable has {:.1} %",
        share * 100.0,
        recent.canary_requests,
        bad / requests * 100.0
    ))
}

/// The whole service burns its error budget, and has since the judged version is alone: over the recent window and
/// over all of that time. Acts only where there is no control arm, so that an outage that both arms share stays the
/// e-process's business, and only if the budget was not burning before.
pub(crate) fn burn_guard(
    name: &str,
    target: f64,
    recent: Counts,
    newest: Counts,
    process: &ProcessState,
) -> Option<String> {
    let budget = 1.0 - target;
    let burn = |errors: f64, requests: f64| errors.min(requests) / requests.max(1.0) / budget;
    if newest.stable_requests > 0.0 || recent.canary_errors < HARD_STOP_ERRORS || budget <= 0.0 {
        return None;
    }
    let now = burn(recent.canary_errors, recent.canary_requests);
    let long = burn(process.canary_errors as f64, process.canary_requests as f64);
    let past = match (process.past_requests, process.past_errors) {
        (Some(requests), Some(errors)) => burn(errors as f64, requests as f64),
        _ => burn(process.stable_errors as f64, process.stable_requests as f64),
    };
    (now >= BURN && long >= BURN && past < BURN / 2.0).then(|| {
        format!("burn guard: {name}: the error budget of {:.3} % burns {now:.1} times too fast (limit {BURN}; {past:.1} before)", budget * 100.0)
    })
}

fn witnesses(heard: &[Heard]) -> Option<(&Heard, &Heard)> {
    let gateway = heard.iter().find(|h| h.gateway)?;
    // Of several objectives the one that counts most requests stands for all that the pods count.
    let pods = heard
        .iter()
        .filter(|h| !h.gateway)
        .max_by(|a, b| a.recent.canary_requests.total_cmp(&b.recent.canary_requests))?;
    Some((gateway, pods))
}

/// Requests that the gateway sent to the canary and its pods never counted, measured by what stable's pods count.
pub(crate) fn lost_share(heard: &[Heard]) -> Option<f64> {
    let (gateway, pods) = witnesses(heard)?;
    let (sent, counted) = (gateway.recent, pods.recent);
    if sent.canary_requests < LEAST_REQUESTS || sent.stable_requests < LEAST_REQUESTS || counted.stable_requests <= 0.0
    {
        return None;
    }
    let usual = counted.stable_requests / sent.stable_requests;
    Some((1.0 - counted.canary_requests / sent.canary_requests / usual).clamp(0.0, 1.0))
}

/// The canary's share of requests in the newest interval: the gateway's word where there is one.
pub(crate) fn observed_share(heard: &[Heard]) -> Option<f64> {
    let of = |h: &Heard| {
        let all = h.newest.canary_requests + h.newest.stable_requests;
        (all > 0.0).then(|| h.newest.canary_requests / all)
    };
    heard.iter().filter(|h| h.gateway).find_map(of).or_else(|| heard.iter().find_map(of))
}

/// How much longer, at the pace so far, an objective would need.
pub(crate) fn lacks(state: &JudgeState, one: &Evidence, since: Timestamp, now: Timestamp) -> String {
    let (requests, errors) =
        state.process(&one.name).map_or((0, 0), |p| (p.step_canary_requests, p.step_canary_errors));
    let gained = one.good.max(f64::MIN_POSITIVE).ln();
    let needed = one.good_threshold.ln();
    let told = format!("{}: {errors} canary errors in {requests} requests at this step", one.name);
    if requests == 0 {
        return format!("{told}: no traffic to judge");
    }
    if one.bad >= 1.0 && gained <= 0.0 {
        return format!("{told} speak neither for nor against (E={:.1} of {:.0})", one.bad, one.bad_threshold);
    }
    if gained <= 0.0 {
        let hint =
            if one.stable_errors == 0 { "neither arm has errors to compare" } else { "the arms' errors are too few" };
        return format!("{told}: {hint}");
    }
    let elapsed = now.duration_since(since).as_secs_f64();
    let more = elapsed * (needed - gained) / gained;
    format!(
        "{told}: some {:.0} more requests ({more:.0} s at this pace) would certify it",
        requests as f64 * (needed - gained) / gained
    )
}
