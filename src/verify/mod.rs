//! The proof that kernels are right, run by `kernels-test/` and by `gpurec verify` on a user's own machine.
//!
//! Every check takes the cases that the ops themselves list. An executor is compared with the f64 reference under one
//! tolerance for the whole suite: 16 times the change that 1-ulp noise on the inputs makes in the f64 result, plus 1e-6
//! of the largest reference value; in mixed precision 4e-3 of it, for inputs that carry eleven bits. The share of the
//! tolerance that was used is part of every result.

pub mod checks;
pub mod golden;
pub mod portability;
pub mod program;
mod verdict;

use crate::engine::exec::cpu::CpuExecutor;
use crate::engine::exec::gpu::device::{Device, Wanted};
use crate::engine::exec::gpu::replay::GpuExecutor;
use crate::engine::exec::reference::ReferenceExecutor;
use crate::engine::exec::{ExecOptions, Executor, Precision};
use crate::error::{Error, Result};
pub use verdict::{Subject, Verdict};

/// Tolerance: this many times the reference's own change under 1-ulp input noise ...
pub const NOISE_FACTOR: f64 = 16.0;
/// ... plus this share of the largest reference value.
pub const RELATIVE_FLOOR: f64 = 1e-6;
/// The same share where products take inputs rounded to f16.
pub const MIXED_FLOOR: f64 = 4e-3;

/// An executor kind under test; a GPU device is opened once and handed from case to case with its compiled kernels.
pub enum Target {
    /// The specification itself.
    Reference,
    /// The host's cores.
    Cpu {
        /// 0 is one per core.
        threads: usize,
    },
    /// An adapter; empty while its executor is lent out.
    Gpu(Option<Box<Device>>),
}

impl Target {
    /// Opens the adapter that `wanted` chooses.
    pub fn gpu(wanted: &Wanted, precision: Precision) -> Result<Target> {
        Ok(Target::Gpu(Some(Box::new(Device::open(wanted, precision)?))))
    }

    /// The share of the largest reference value in the tolerance.
    pub fn relative_floor(&self) -> f64 {
        match self {
            Target::Gpu(Some(device)) if device.limits.matrix_subgroup.is_some() => MIXED_FLOOR,
            _ => RELATIVE_FLOOR,
        }
    }

    /// `reference`, `cpu` or `gpu`.
    pub fn name(&self) -> &'static str {
        match self {
            Target::Reference => "reference",
            Target::Cpu { .. } => "cpu",
            Target::Gpu(_) => "gpu",
        }
    }

    /// Lends an executor to `work`.
    pub fn with<T>(&mut self, options: ExecOptions, work: impl FnOnce(&mut dyn Executor) -> Result<T>) -> Result<T> {
        match self {
            Target::Reference => work(&mut ReferenceExecutor::new()),
            Target::Cpu { threads } => work(&mut CpuExecutor::new(*threads, options)),
            Target::Gpu(device) => {
                let device_now = device.take();
                let device_now = device_now.ok_or_else(|| Error::DeviceLost {
                    kernel: "verify".into(),
                    message: "lost by an earlier case".into(),
                })?;
                let mut executor = GpuExecutor::new(*device_now, options);
                let result = work(&mut executor);
                *device = Some(Box::new(executor.into_device()));
                result
            }
        }
    }
}

/// What a passed check says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Worst share of the tolerance that was used, 0 to 1.
    pub share: f64,
}

impl Outcome {
    /// Of both.
    pub fn worst(self, other: Outcome) -> Outcome {
        Outcome { share: self.share.max(other.share) }
    }
}

/// Why a check failed: one line that names the case, the tensor and the numbers.
#[derive(Debug)]
pub struct Failure(pub String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure(error.to_string())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What every check returns.
pub type Checked = std::result::Result<Outcome, Failure>;
