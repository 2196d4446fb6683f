//! Layers as functions that add nodes to a graph.

pub mod denoiser;
pub mod fields;
pub mod layers;
pub mod list_network;
pub mod optimizer;
pub mod scorer;
pub mod state;
pub mod tokens;
pub mod transformer;

pub use denoiser::{Denoiser, SlotMask};
pub use fields::Impressions;
pub use layers::Dense;
pub use list_network::{Candidates, ListNetwork, QForm, Values, Walk};
pub use optimizer::{Optimizer, adam_step, optimizer_inputs, optimizers};
pub use scorer::Scorer;
pub use state::{Base, StateEncoder, StatePass};
pub use tokens::{Ids, Tokens};
pub use transformer::{PassNoise, Transformer};
