//! The GPU executor: WGSL kernels through wgpu (Vulkan, Metal, DX12).

mod clock;
pub mod device;
pub mod kernel;
pub mod replay;
mod unroll;

pub use device::{AdapterSummary, Device, adapters};
pub use replay::GpuExecutor;
