//! The choices that DiffRec's paper leaves, as keys.

use crate::error::{Error, Result};
use crate::methods::Training;
use crate::nn::{SlotMask, Transformer};
use crate::ops::softmax_mixture::MAX_SAMPLES;
use crate::ops::step_mix::Noise;
use crate::settings;
use serde::{Deserialize, Serialize};

/// How a list is made from noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Inference {
    /// In one jump from pure noise (Algorithm 3).
    Jump,
    /// By all N steps back (Algorithm 2): N times the work.
    Chain,
}

/// Which vector of the target the cross-entropy reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecOn {
    /// The denoised one (Algorithm 1).
    Predicted,
    /// The item's own (Eq. 13 as it is printed).
    True,
    /// The sum of both.
    Both,
}

/// Keys of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct DiffRecConfig {
    /// The preset's table.
    pub mode: String,
    /// N: noise steps of the diffusion.
    pub steps: usize,
    /// How noise grows with the step.
    pub schedule: Noise,
    /// S: noises that a list is the mean of.
    pub samples: usize,
    /// How a list is made from noise.
    pub inference: Inference,
    /// What attends to the noisy slot.
    pub slot_mask: SlotMask,
    /// What the cross-entropy reads.
    pub rec_on: RecOn,
    /// Whether the output layer is the item table, without bias.
    pub tie_weights: bool,
    /// Items at the end that are noised in training, the target included; 0 for all.
    pub noised_items: usize,
    /// What noised vectors are multiplied by where they enter the network.
    pub noised_scale: f64,
    /// What the step's sinusoids are multiplied by.
    pub step_scale: f64,
    /// Whether the vector of the last item of the history is added to the slot.
    pub slot_from_last: bool,
    /// Draw steps with large losses more often.
    pub importance: bool,
    /// Whether the step's sinusoids are added.
    pub step_embedding: bool,
    /// Whether learned positions are added.
    pub position_embedding: bool,
    /// What the squared error, a mean over the columns, is multiplied by; `dim` makes it a sum.
    pub mse_weight: f64,
    /// Whether the squared error leaves the item's vector alone.
    pub detach_target: bool,
    /// Standard deviation of the item vectors at the start; the noise that is mixed into them has 1.
    pub item_init_std: f64,
    /// The network; `max_len` counts the slot.
    #[serde(flatten)]
    pub encoder: Transformer,
    /// How long and how fast to train.
    #[serde(flatten)]
    pub training: Training,
}

impl Default for DiffRecConfig {
    fn default() -> Self {
        let encoder = Transformer {
            dim: 256,
            inner_dim: 1024,
            hidden_dropout: 0.3,
            attention_dropout: 0.3,
            ..Default::default()
        };
        DiffRecConfig {
            mode: String::new(),
            steps: 1000,
            schedule: Noise::Sqrt,
            samples: 10,
            inference: Inference::Jump,
            slot_mask: SlotMask::Bidirectional,
            rec_on: RecOn::Predicted,
            tie_weights: false,
            noised_items: 1,
            noised_scale: 1.0,
            step_scale: 1.0,
            slot_from_last: false,
            importance: true,
            step_embedding: true,
            position_embedding: true,
            mse_weight: 1.0,
            detach_target: false,
            item_init_std: 0.02,
            encoder,
            training: Training::default(),
        }
    }
}

/// Refuses settings that make no model.
pub fn checked(config: DiffRecConfig) -> Result<DiffRecConfig> {
    config.encoder.validate()?;
    config.training.validate()?;
    let DiffRecConfig { noised_scale, step_scale, mse_weight, item_init_std, .. } = config;
    settings::not_negative(&[
        ("noised_scale", noised_scale),
        ("step_scale", step_scale),
        ("mse_weight", mse_weight),
        ("item_init_std", item_init_std),
    ])?;
    settings::at_least_one(&[("steps", config.steps), ("samples", config.samples), ("blocks", config.encoder.blocks)])?;
    if config.samples > MAX_SAMPLES {
        let help = format!("set samples to {MAX_SAMPLES} or less");
        return Err(Error::usage(format!("samples = {} are too many at a time", config.samples), help));
    }
    if config.encoder.max_len < 2 {
        return Err(Error::usage("max_len = 1 leaves no place for a history", "set max_len to 2 or more"));
    }
    if config.slot_from_last && config.noised_items != 1 {
        let problem = format!("noised_items = {} noises the item that slot_from_last = true adds", config.noised_items);
        return Err(Error::usage(problem, "set noised_items=1, or slot_from_last=false"));
    }
    if config.slot_mask == SlotMask::Prefix && config.noised_items != 1 {
        let problem =
            format!("noised_items = {} noises the history, which slot_mask = prefix shares", config.noised_items);
        return Err(Error::usage(problem, "set noised_items=1, or slot_mask=bidirectional"));
    }
    Ok(config)
}
