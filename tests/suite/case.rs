//! What a case is: a name that says the behaviour, and an async function over the shared world.

use std::sync::Arc;

use anyhow::Result;
use futures::future::{FutureExt, LocalBoxFuture};

use crate::world::World;

type Run = Box<dyn FnOnce(Arc<World>) -> LocalBoxFuture<'static, Result<()>> + Send>;

pub struct Case {
    pub name: &'static str,
    pub run: Run,
    /// Left to `make test FULL=1`: counted as ignored otherwise.
    pub slow: bool,
    /// Needs more environments than `staging`.
    pub wide: bool,
}

impl Case {
    pub fn new<F>(name: &'static str, run: impl FnOnce(Arc<World>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Result<()>> + 'static,
    {
        Self { name, run: Box::new(|world| run(world).boxed_local()), slow: false, wide: false }
    }

    /// Run alone, it wants one environment beside `staging`; among the acts it has them anyway.
    pub fn beside_another(self) -> Self {
        Self { wide: true, ..self }
    }

    pub fn slow(self) -> Self {
        Self { slow: true, ..self }
    }
}
