//! What `gpurec bench` measures: kernels by shape, training steps of a method, inference by diffusion, list models in service, and the ceilings of the
//! device.

pub mod denoise;
pub mod kernels;
pub mod measure;
pub mod peaks;
pub mod serve;
pub mod step;

pub use denoise::DenoiseWork;
pub use kernels::{BenchKernel, KERNELS, Size};
pub use measure::{Measured, Patience, measure};
pub use peaks::{PeakSizes, Peaks};
pub use serve::{ServeWork, Served};
pub use step::StepWork;
