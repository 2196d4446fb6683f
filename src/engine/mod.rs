//! The engine: a static list of ops, its reverse pass, its memory plan, and three executors. Knows no recommendation.

pub mod case;
pub mod exec;
pub mod fuse;
pub mod grad;
pub mod graph;
pub mod op;
pub mod params;
pub mod plan;
pub mod rng;
pub mod share;
pub mod tensor;

pub use exec::{Executor, Feed};
pub use graph::{Graph, ValueId};
pub use op::{Cost, Op};
pub use tensor::{Array, DType, Tensor, TensorType};
