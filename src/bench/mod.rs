//! What `gpurec bench` measures: kernels by shape, training steps of a method, and the ceilings of the device.

pub mod kernels;
pub mod measure;
pub mod peaks;
pub mod step;

pub use kernels::{BenchKernel, KERNELS, Size};
pub use measure::{Measured, Patience, measure};
pub use peaks::{PeakSizes, Peaks};
pub use step::StepWork;
