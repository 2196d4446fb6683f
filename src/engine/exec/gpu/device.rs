//! Adapters and devices: what is there, which one to use, and what it allows.

use super::kernel::{AdapterClass, GpuLimits, KernelKey};
use crate::engine::exec::Precision;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// One adapter as `gpurec devices` lists it.
#[derive(Clone, Debug)]
pub struct AdapterSummary {
    /// As the driver gives it.
    pub name: String,
    /// `vulkan`, `metal` or `dx12`.
    pub backend: String,
    /// Name and version.
    pub driver: String,
    /// What wgpu takes it for.
    pub kind: wgpu::DeviceType,
    /// The largest storage binding.
    pub max_binding_bytes: u64,
    /// The largest buffer.
    pub max_buffer_bytes: u64,
    /// Memory that a workgroup shares.
    pub max_workgroup_bytes: u32,
    /// Whether it has a clock of its own.
    pub timestamps: bool,
    /// Whether shaders may use f16.
    pub f16: bool,
    /// Threads of a subgroup, where it is always the same and they can hand values to each other.
    pub subgroup: Option<u32>,
    /// Threads of a subgroup, where it is always the same and multiplies 16x16 matrices of f16 with sums in f32.
    pub matrix_subgroup: Option<u32>,
}

impl AdapterSummary {
    fn of(adapter: &wgpu::Adapter) -> Self {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        AdapterSummary {
            name: info.name,
            backend: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
            kind: info.device_type,
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
            timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
            f16: features.contains(wgpu::Features::SHADER_F16),
            subgroup: fixed_subgroup(adapter, wgpu::Features::SUBGROUP),
            matrix_subgroup: matrix_subgroup(adapter),
        }
    }

    /// What kind of device it is, in words.
    pub fn class(&self) -> &'static str {
        match self.kind {
            wgpu::DeviceType::DiscreteGpu => "discrete GPU",
            wgpu::DeviceType::IntegratedGpu => "integrated GPU",
            wgpu::DeviceType::VirtualGpu => "virtual GPU",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "unknown",
        }
    }

    /// A driver that computes on the host's cores: right, but far slower than the cpu executor.
    pub fn is_software(&self) -> bool {
        self.kind == wgpu::DeviceType::Cpu
    }

    /// Lower is better; `None` for adapters that are used only when named.
    fn preference(&self) -> Option<u8> {
        match self.kind {
            wgpu::DeviceType::DiscreteGpu => Some(0),
            wgpu::DeviceType::IntegratedGpu => Some(1),
            wgpu::DeviceType::VirtualGpu => Some(2),
            wgpu::DeviceType::Other | wgpu::DeviceType::Cpu => None,
        }
    }
}

/// What the shaders of mixed precision need.
fn matrix_features() -> wgpu::Features {
    wgpu::Features::SHADER_F16 | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX
}

fn matrix_subgroup(adapter: &wgpu::Adapter) -> Option<u32> {
    use wgpu::CooperativeScalarType::{F16, F32};
    let has_shape = adapter.cooperative_matrix_properties().iter().any(|shape| {
        [shape.m_size, shape.n_size, shape.k_size] == [16; 3] && shape.ab_type == F16 && shape.cr_type == F32
    });
    fixed_subgroup(adapter, matrix_features()).filter(|_| has_shape)
}

/// Threads of a subgroup, where it is always the same and the adapter has the features.
fn fixed_subgroup(adapter: &wgpu::Adapter, features: wgpu::Features) -> Option<u32> {
    let info = adapter.get_info();
    let fixed = info.subgroup_min_size == info.subgroup_max_size && info.subgroup_min_size > 0;
    (adapter.features().contains(features) && fixed).then_some(info.subgroup_min_size)
}

fn all_adapters() -> Vec<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env());
    pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY))
}

/// All adapters, in the order the drivers report them.
pub fn adapters() -> Vec<AdapterSummary> {
    all_adapters().iter().map(AdapterSummary::of).collect()
}

/// Which adapter to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// A real GPU: discrete before integrated. Never a software adapter.
    Hardware,
    /// Any adapter, a software one last.
    Any,
    /// The first whose name contains this, ignoring case.
    Named(&'a str),
}

/// The index of the adapter that `wanted` chooses.
pub fn choose(adapters: &[AdapterSummary], wanted: &Wanted) -> Option<usize> {
    let ranked = |allow_software: bool| {
        (0..adapters.len())
            .filter_map(|i| adapters[i].preference().or(allow_software.then_some(9)).map(|rank| (rank, i)))
            .min()
            .map(|(_, i)| i)
    };
    match wanted {
        Wanted::Hardware => ranked(false),
        Wanted::Any => ranked(true),
        Wanted::Named(name) => adapters.iter().position(|a| a.name.to_lowercase().contains(&name.to_lowercase())),
    }
}

/// An open device with its compiled kernels.
pub struct Device {
    /// What was opened.
    pub summary: AdapterSummary,
    /// wgpu's handle.
    pub device: wgpu::Device,
    /// Where work is submitted.
    pub queue: wgpu::Queue,
    /// What plans and ops may assume.
    pub limits: GpuLimits,
    /// The device's clock can be read between dispatches.
    pub timestamps: bool,
    pipelines: HashMap<KernelKey, Arc<Pipeline>>,
    /// Set by wgpu's callbacks; read after each submit.
    failure: Arc<Mutex<Option<Failure>>>,
}

/// A compiled kernel for one pattern of binding intents.
pub struct Pipeline {
    /// wgpu's handle.
    pub pipeline: wgpu::ComputePipeline,
    /// What its bind groups look like.
    pub layout: wgpu::BindGroupLayout,
}

/// What wgpu says behind our back.
enum Failure {
    Lost(String),
    OutOfMemory(String),
    /// A call that it does not accept.
    Invalid(String),
}

impl Device {
    /// Opens the adapter that `wanted` chooses. `Error::NoAdapter` where there is none such.
    pub fn open(wanted: &Wanted, precision: Precision) -> Result<Device> {
        let adapters = all_adapters();
        let summaries: Vec<AdapterSummary> = adapters.iter().map(AdapterSummary::of).collect();
        let index = choose(&summaries, wanted).ok_or_else(|| no_adapter(wanted, &summaries))?;
        let adapter = &adapters[index];
        let offered = adapter.limits();
        let limits = wgpu::Limits {
            max_buffer_size: offered.max_buffer_size,
            max_storage_buffer_binding_size: offered.max_storage_buffer_binding_size,
            ..wgpu::Limits::defaults()
        };
        let clock = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_ENCODERS;
        let timestamps = adapter.features().contains(clock);
        let matrix_subgroup = match precision {
            Precision::F32 => None,
            Precision::Mixed => {
                Some(summaries[index].matrix_subgroup.ok_or_else(|| no_matrix_units(&summaries[index].name))?)
            }
        };
        let mut features = if timestamps { clock } else { wgpu::Features::empty() };
        if summaries[index].subgroup.is_some() {
            features |= wgpu::Features::SUBGROUP;
        }
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        if matrix_subgroup.is_some() {
            features |= matrix_features();
            // SAFETY: wgpu asks its users to accept that experimental features may have bugs that lead to undefined
            // behaviour. This one is on only when the user asks for mixed precision; its shader passes naga's validation,
            // and every cooperative operation is in uniform control flow and inside its workgroup array.
            experimental_features = unsafe { wgpu::ExperimentalFeatures::enabled() };
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("gpurec"),
            required_limits: limits.clone(),
            required_features: features,
            experimental_features,
            ..Default::default()
        };
        let (device, queue) =
            pollster::block_on(adapter.request_device(&descriptor)).map_err(|error| Error::NoAdapter {
                wanted: format!("could be opened: {}: {error}", summaries[index].name),
                help: "use --device cpu, or update the graphics driver".into(),
            })?;
        let failure = Arc::new(Mutex::new(None));
        let (lost, uncaptured) = (failure.clone(), failure.clone());
        device.set_device_lost_callback(move |reason, message| {
            let failure = Failure::Lost(format!("device lost ({reason:?}): {message}"));
            lost.lock().expect("no panic while held").get_or_insert(failure);
        });
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let failure = match error {
                wgpu::Error::OutOfMemory { .. } => Failure::OutOfMemory(error.to_string()),
                _ => Failure::Invalid(error.to_string()),
            };
            uncaptured.lock().expect("no panic while held").get_or_insert(failure);
        }));
        let adapter = if summaries[index].is_software() { AdapterClass::Software } else { AdapterClass::Hardware };
        let binding_words = (limits.max_storage_buffer_binding_size / 4) as usize;
        let scratch_words = binding_words.min(8 << 20);
        Ok(Device {
            summary: summaries[index].clone(),
            device,
            queue,
            limits: GpuLimits {
                binding_words,
                scratch_words,
                adapter,
                subgroup: summaries[index].subgroup,
                matrix_subgroup,
            },
            timestamps,
            pipelines: HashMap::new(),
            failure,
        })
    }

    /// For reports: `gpu: NAME (vulkan)`, and the precision when it is not f32.
    pub fn describe(&self) -> String {
        let precision = if self.limits.matrix_subgroup.is_some() { ", mixed precision" } else { "" };
        format!("gpu: {} ({}){precision}", self.summary.name, self.summary.backend)
    }

    /// A failure that wgpu reported since the last call, as an error that names what was running.
    pub fn check(&self, running: &str) -> Result<()> {
        match self.failure.lock().expect("no panic while held").take() {
            None => Ok(()),
            Some(Failure::OutOfMemory(message)) => Err(Error::OutOfMemory { kernel: running.into(), message }),
            Some(Failure::Lost(message)) => Err(Error::DeviceLost { kernel: running.into(), message }),
            Some(Failure::Invalid(message)) => Err(Error::graph(running, message)),
        }
    }

    /// A buffer of `words` words. `Error::AdapterLimit` or `Error::OutOfMemory` where it does not fit.
    pub fn buffer(&self, label: &str, words: usize, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let size = 4 * words.max(4) as u64;
        if size > self.device.limits().max_buffer_size {
            let limit = self.device.limits().max_buffer_size;
            return Err(Error::AdapterLimit { op: label.into(), what: "a buffer".into(), needed: size, limit });
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        match pollster::block_on(scope.pop()) {
            None => Ok(buffer),
            Some(error) => Err(Error::OutOfMemory { kernel: label.into(), message: error.to_string() }),
        }
    }

    /// The compiled kernel; `read_only[i]` says how binding `i + 1` is declared.
    pub fn pipeline(&mut self, key: &KernelKey, read_only: &[bool]) -> Result<Arc<Pipeline>> {
        if let Some(known) = self.pipelines.get(key) {
            return Ok(known.clone());
        }
        let pipeline = Arc::new(self.compile(key, read_only)?);
        self.pipelines.insert(key.clone(), pipeline.clone());
        Ok(pipeline)
    }

    fn compile(&self, key: &KernelKey, read_only: &[bool]) -> Result<Pipeline> {
        let label = key.label();
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(&label),
            source: wgpu::ShaderSource::Wgsl(key.wgsl().into()),
        });
        let uniform = wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Uniform,
            has_dynamic_offset: true,
            min_binding_size: None,
        };
        let storage = |read_only| wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only },
            has_dynamic_offset: false,
            min_binding_size: None,
        };
        let types = std::iter::once(uniform).chain(read_only.iter().map(|&r| storage(r)));
        let entries: Vec<wgpu::BindGroupLayoutEntry> = types
            .zip(0..)
            .map(|(ty, binding)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty,
                count: None,
            })
            .collect();
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        match pollster::block_on(scope.pop()) {
            None => Ok(Pipeline { pipeline, layout }),
            Some(error) => Err(Error::ShaderCompile { kernel: label, message: error.to_string() }),
        }
    }
}

/// Why mixed precision is refused.
pub fn no_matrix_units(device: &str) -> Error {
    Error::usage(
        format!("--precision mixed: {device} has no matrix units that multiply 16x16 matrices of f16 with sums in f32"),
        "leave --precision out; `gpurec devices` shows which adapters have them",
    )
}

fn no_adapter(wanted: &Wanted, present: &[AdapterSummary]) -> Error {
    let names: Vec<&str> = present.iter().map(|a| a.name.as_str()).collect();
    let found = if names.is_empty() { "none was found".into() } else { format!("found: {}", names.join(", ")) };
    let (wanted, help) = match wanted {
        Wanted::Named(name) => {
            (format!("is called `{name}`"), "`gpurec devices` lists the adapters; --device cpu needs none")
        }
        _ if !names.is_empty() => (
            "that is a real GPU was found".into(),
            "a software adapter is used only when named, e.g. --device llvmpipe; --device cpu is far faster",
        ),
        _ => ("was found".into(), "install a Vulkan driver, or use --device cpu"),
    };
    Error::NoAdapter { wanted, help: format!("{found}; {help}") }
}
