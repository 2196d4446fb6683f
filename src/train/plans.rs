//! Compiled graphs by what they were built for.

use crate::engine::exec::PlanId;
use crate::engine::{Executor, Graph};
use crate::error::Result;
use std::collections::HashMap;
use std::hash::Hash;

/// Plans on one executor.
#[derive(Debug)]
pub struct Plans<K>(HashMap<K, PlanId>);

impl<K> Default for Plans<K> {
    fn default() -> Self {
        Plans(HashMap::new())
    }
}

impl<K: Copy + Eq + Hash> Plans<K> {
    /// The plan of the graph that `build` makes, which is compiled when it is first asked for.
    pub fn of(&mut self, executor: &mut dyn Executor, key: K, build: impl FnOnce() -> Result<Graph>) -> Result<PlanId> {
        if let Some(plan) = self.0.get(&key) {
            return Ok(*plan);
        }
        let plan = executor.compile(build()?)?;
        self.0.insert(key, plan);
        Ok(plan)
    }
}
