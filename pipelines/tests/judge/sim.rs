//! A service with four stable pods and a canary: seeded traffic, scrapes of pods and gateway, and a judge that is
//! asked after each second. Holds no expectations; those are the tests'.

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidegate_pipelines::api::{BreachKind, Objective, RatioMetric, Span, Strategy};
use tidegate_pipelines::judge::{
    Arms, Assessment, Batch, Decision, JudgeConfig, JudgeState, ObjectiveSamples, Pod, RawSeries, Scene, Watch, assess,
};

pub const START: i64 = 1_700_000_000_000;

pub fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap()
}

/// Cumulative counters of one scrape target.
#[derive(Clone)]
pub struct Target {
    pub name: String,
    pub canary: bool,
    pub offset: i64,
    pub requests: f64,
    pub errors: f64,
    pub total: Vec<(i64, f64)>,
    pub bad: Vec<(i64, f64)>,
    pub up: Vec<(i64, f64)>,
    pub since: i64,
}

impl Target {
    pub fn new(name: &str, canary: bool, offset: i64, since: i64) -> Self {
        Target {
            name: name.into(),
            canary,
            offset,
            requests: 0.0,
            errors: 0.0,
            total: vec![],
            bad: vec![],
            up: vec![],
            since,
        }
    }

    pub fn scrape(&mut self, second: i64) {
        let t = START + second * 1000 + self.offset;
        self.up.push((t, 1.0));
        // Counters exist from the first request, and the first error, on.
        if self.requests > 0.0 {
            self.total.push((t, self.requests));
        }
        if self.errors > 0.0 {
            self.bad.push((t, self.errors));
        }
    }
}

pub struct Sim {
    pub rng: StdRng,
    pub rps: f64,
    pub weight: f64,
    /// Error rates of stable and canary.
    pub p: (f64, f64),
    /// Errors come in clumps of this mean size on single pods.
    pub burst: f64,
    pub targets: Vec<Target>,
    pub gateway: Option<(Target, Target)>,
    /// The canary refuses connections: only the gateway counts.
    pub dead: bool,
    pub second: i64,
    pub config: JudgeConfig,
    pub strategy: Strategy,
    pub step: u8,
    pub since: i64,
    pub window_ms: i64,
}

impl Sim {
    pub fn new(seed: u64, rps: f64, p: (f64, f64)) -> Self {
        let strategy = Strategy { mask: Span::from_secs(5), step_min_time: Span::from_secs(3), ..Strategy::default() };
        let objective = Objective {
            name: "errors".into(),
            target: 0.9,
            ratio: RatioMetric { total: "x_total".into(), errors: "x_errors_total".into() },
        };
        let mut targets: Vec<Target> =
            (0..4).map(|i| Target::new(&format!("s{i}"), false, 130 * i, START - 3_600_000)).collect();
        targets.push(Target::new("c0", true, 610, START - 10_000));
        for t in targets.iter_mut().filter(|t| !t.canary) {
            t.requests = 1_000_000.0;
            t.errors = 40_000.0;
        }
        let config = JudgeConfig::new(&strategy, &[objective], 1.0, Span::from_secs(1), None);
        let mut sim = Sim {
            rng: StdRng::seed_from_u64(seed),
            rps,
            weight: 0.0,
            p,
            burst: 1.0,
            targets,
            gateway: None,
            dead: false,
            second: -5,
            config,
            strategy,
            step: 0,
            since: START,
            window_ms: 36_000,
        };
        while sim.second < 0 {
            sim.tick();
        }
        sim.weight = sim.step_weight(0);
        sim
    }

    pub fn with_gateway(mut self) -> Self {
        self.config.gateway = true;
        let mut stable = Target::new("stable", false, 820, 0);
        stable.requests = 5_000_000.0;
        stable.errors = 200_000.0;
        let mut canary = Target::new("canary", true, 820, 0);
        // An earlier rollout left its counts.
        canary.requests = 10_000.0;
        canary.errors = 9_000.0;
        for second in -10..self.second {
            stable.scrape(second);
            canary.scrape(second);
        }
        self.gateway = Some((stable, canary));
        self
    }

    pub fn step_weight(&self, step: usize) -> f64 {
        f64::from(self.strategy.steps[step].set_weight.unwrap()) / 100.0
    }

    pub fn binomial(&mut self, n: f64, p: f64) -> f64 {
        let clumps = self.burst;
        if clumps > 1.0 {
            // Compound: clumps arrive so that the mean stays n p.
            let arrivals = self.poisson(n * p / clumps);
            return (arrivals * clumps).min(n);
        }
        let n_int = n as u32;
        let (mut mass, u) = ((1.0 - p).powi(n_int as i32), self.rng.random::<f64>());
        let mut sum = mass;
        let mut k = 0;
        while u > sum && k < n_int {
            mass *= f64::from(n_int - k) / f64::from(k + 1) * p / (1.0 - p);
            k += 1;
            sum += mass;
        }
        f64::from(k)
    }

    pub fn poisson(&mut self, mean: f64) -> f64 {
        let (mut k, mut product) = (0.0, self.rng.random::<f64>());
        let limit = (-mean).exp();
        while product > limit {
            product *= self.rng.random::<f64>();
            k += 1.0;
        }
        k
    }

    /// One second of traffic, then everything is scraped.
    pub fn tick(&mut self) {
        let canary_n = (self.rps * self.weight).round();
        let stable_n = self.rps - canary_n;
        let pods = |canary: bool, s: &Sim| s.targets.iter().filter(|t| t.canary == canary).count().max(1) as f64;
        let (stable_pods, canary_pods) = (pods(false, self), pods(true, self));
        let (mut n, mut y) = ([0.0; 2], [0.0; 2]);
        for i in 0..self.targets.len() {
            let canary = self.targets[i].canary;
            let requests = if canary { (canary_n / canary_pods).floor() } else { (stable_n / stable_pods).floor() };
            let p = if canary { self.p.1 } else { self.p.0 };
            let errors = self.binomial(requests, p);
            let dead = canary && self.dead;
            if dead {
                let t = START + self.second * 1000 + self.targets[i].offset;
                self.targets[i].up.push((t, 0.0));
            } else {
                self.targets[i].requests += requests;
                self.targets[i].errors += errors;
                let second = self.second;
                self.targets[i].scrape(second);
            }
            n[usize::from(canary)] += requests;
            y[usize::from(canary)] += if dead { requests } else { errors };
        }
        let second = self.second;
        if let Some((stable, canary)) = &mut self.gateway {
            stable.requests += n[0];
            stable.errors += y[0];
            canary.requests += n[1];
            canary.errors += y[1];
            stable.scrape(second);
            canary.scrape(second);
        }
        self.second += 1;
    }

    /// Right after the last scrape of the second.
    pub fn now(&self) -> Timestamp {
        at(START + self.second * 1000 - 100)
    }

    pub fn arms(&self) -> Arms {
        let of = |canary: bool| {
            let those = self.targets.iter().filter(|t| t.canary == canary);
            those.map(|t| Pod { name: t.name.clone(), since: at(t.since) }).collect()
        };
        Arms { stable: of(false), canary: of(true) }
    }

    pub fn scene(&self) -> Scene {
        Scene { arms: self.arms(), watch: Watch::Canary { step: self.step, since: Some(at(self.since)) } }
    }

    pub fn batch_from(&self, state: &JudgeState) -> Batch {
        let now = self.now().as_millisecond();
        let from = state.watermark().map_or(i64::MAX, |t| t.as_millisecond() - 3_000).min(now - self.window_ms);
        let cut = |samples: &[(i64, f64)]| -> Vec<(i64, f64)> {
            let start = samples.partition_point(|(t, _)| *t <= from);
            samples[start..].iter().copied().take_while(|(t, _)| *t <= now).collect()
        };
        let series = |t: &Target, source: &str, samples: &[(i64, f64)]| {
            let samples = cut(samples);
            (!samples.is_empty()).then(|| RawSeries {
                of: t.name.clone(),
                source: source.to_owned(),
                key: String::new(),
                samples,
            })
        };
        let all = |pick: fn(&Target) -> &Vec<(i64, f64)>| {
            self.targets.iter().filter_map(|t| series(t, &t.name, pick(t))).collect::<Vec<_>>()
        };
        let gateway = self.gateway.as_ref().map(|(s, c)| {
            let both = |pick: fn(&Target) -> &Vec<(i64, f64)>| {
                [s, c].into_iter().filter_map(|t| series(t, "traefik", pick(t))).collect::<Vec<_>>()
            };
            ObjectiveSamples { total: Ok(both(|t| &t.total)), errors: Ok(both(|t| &t.bad)) }
        });
        Batch {
            objectives: vec![ObjectiveSamples { total: Ok(all(|t| &t.total)), errors: Ok(all(|t| &t.bad)) }],
            up: Ok(all(|t| &t.up)),
            gateway,
            config_errors: vec![],
        }
    }

    pub fn judge(&self, state: &JudgeState) -> (JudgeState, Assessment) {
        assess(&self.config, state, &self.scene(), &self.batch_from(state), self.now())
    }

    /// Judged second by second. `Ok(seconds)`: all steps below 100 certified; `Err`: rolled back.
    pub fn run(&mut self, limit: i64) -> Result<i64, (i64, BreachKind, String)> {
        let mut state = JudgeState::default();
        loop {
            self.tick();
            let (next, told) = self.judge(&state);
            state = next;
            match told.decision {
                Decision::RollBack { kind, why } => return Err((self.second, kind, why)),
                Decision::Advance => {
                    self.step += 1;
                    self.since = START + self.second * 1000 - 80;
                    self.weight = self.step_weight(self.step.into());
                    if self.weight >= 1.0 {
                        return Ok(self.second);
                    }
                }
                _ if self.second >= limit => return Ok(i64::MAX),
                _ => {}
            }
        }
    }
}
