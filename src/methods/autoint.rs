//! AutoInt (Song et al., CIKM 2019): fields attend to each other, layer upon layer.
//!
//! ```text
//! x^0_f = v_f,   x^(l+1) = ReLU( sum over heads of softmax(Q x K x) V x  +  W_res x^l )       without a scale
//! logit = w_0 + sum_f w_f + <w, [x^L_1 | ... | x^L_F]>
//! ```

use super::MethodInfo;
use super::click_through::{ClickConfig, ClickModel, ClickThrough};
use super::config::{table_of, typed};
use crate::engine::{Graph, ValueId};
use crate::error::{Error, Result};
use crate::nn::Impressions;
use crate::nn::layers::{Dense, glorot};
use crate::ops::activation::Activation;
use crate::ops::add::Add;
use crate::ops::attention::Attention;
use crate::ops::linear::Linear;
use crate::settings;
use serde::{Deserialize, Serialize};

/// What `gpurec methods` lists.
pub const INFO: MethodInfo = MethodInfo {
    name: "autoint",
    title: "AutoInt",
    paper: "Song et al., AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks, CIKM 2019",
    preset: include_str!("autoint.toml"),
    defaults: || table_of(&AutoInt::default()),
    cases: &[&["dim=4"], &["dim=3", "heads=1", "interacting_layers=1"]],
    build: |config, sizes| Ok(Box::new(ClickThrough::<AutoInt>::new(typed(config)?, sizes)?)),
};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
struct AutoInt {
    #[serde(flatten)]
    common: ClickConfig,
    /// L
    interacting_layers: usize,
    /// They share the columns of a vector.
    heads: usize,
}

impl Default for AutoInt {
    fn default() -> Self {
        AutoInt { common: ClickConfig::default(), interacting_layers: 3, heads: 2 }
    }
}

impl ClickModel for AutoInt {
    fn common(&self) -> &ClickConfig {
        &self.common
    }

    fn validate(&self) -> Result<()> {
        settings::at_least_one(&[("heads", self.heads)])?;
        if !self.common.dim.is_multiple_of(self.heads) {
            let problem = format!("dim = {} cannot be split into {} heads", self.common.dim, self.heads);
            return Err(Error::usage(problem, "choose heads so that they divide dim"));
        }
        Ok(())
    }

    fn logits(&self, graph: &mut Graph, x: &Impressions, rows: usize) -> Result<ValueId> {
        let dim = self.common.dim;
        let table = self.common.table(graph, rows);
        let mut vectors = x.embed(graph, table)?;
        for layer in 0..self.interacting_layers {
            let mut parts = Vec::new();
            for name in ["query", "key", "value", "residual"] {
                let weight = graph.param(&format!("interacting{layer}.{name}"), &[dim, dim], glorot(dim, dim));
                parts.push(graph.add1(Linear::default(), &[vectors, weight])?);
            }
            let residual = parts.pop().expect("four parts");
            let op = Attention { heads: self.heads, scale: 1.0, causal: false, dropout: None, key_flags: false };
            parts.push(x.of_impression);
            let attended = graph.add1(op, &parts)?;
            let sum = graph.add1(Add, &[attended, residual])?;
            vectors = graph.add1(Activation::Relu, &[sum])?;
        }
        let flat = x.flat(graph, vectors)?;
        let interactions = Dense::new(1).of(graph, "output", flat)?;
        let first = x.first_order(graph, rows)?;
        graph.add1(Add, &[interactions, first])
    }
}
