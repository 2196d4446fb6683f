//! How an op says what runs on a GPU: shader, constants, bindings with declared intent, grid.
//!
//! A kernel's source is a generated block of `const` lines, the file, and the library files that it names in
//! `//include NAME` lines; loops may be written out (`unroll`). Constants are for tile sizes and variants, never for tensor
//! shapes: shapes travel in the uniform, so that one compiled kernel serves all shapes.

use super::unroll::unroll;
use crate::engine::tensor::TensorType;
use crate::error::Result;

/// A file of `shaders/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shader {
    pub name: &'static str,
    pub source: &'static str,
}

/// Names a file of `shaders/` without its ending; its text becomes part of the binary.
#[macro_export]
macro_rules! shader {
    ($name:literal) => {
        $crate::engine::exec::gpu::kernel::Shader {
            name: $name,
            source: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $name, ".wgsl")),
        }
    };
}

/// Files that shaders may include.
const LIBRARY: &[(&str, &str)] = &[
    ("attention", include_str!("../../../../shaders/lib/attention.wgsl")),
    ("attention_keys", include_str!("../../../../shaders/lib/attention_keys.wgsl")),
    ("grid", include_str!("../../../../shaders/lib/grid.wgsl")),
    ("math", include_str!("../../../../shaders/lib/math.wgsl")),
    ("philox", include_str!("../../../../shaders/lib/philox.wgsl")),
    ("reduce", include_str!("../../../../shaders/lib/reduce.wgsl")),
    ("segments", include_str!("../../../../shaders/lib/segments.wgsl")),
];

/// A shader with its constants: what is compiled, and the key of the pipeline cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelKey {
    pub shader: Shader,
    pub consts: Vec<(&'static str, u32)>,
}

impl KernelKey {
    /// `attention{HEAD_DIM=32}`.
    pub fn label(&self) -> String {
        let consts: Vec<String> = self.consts.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if consts.is_empty() {
            self.shader.name.into()
        } else {
            format!("{}{{{}}}", self.shader.name, consts.join(","))
        }
    }

    /// The complete WGSL text.
    pub fn wgsl(&self) -> String {
        let mut text: String =
            self.consts.iter().map(|(name, value)| format!("const {name}: u32 = {value}u;\n")).collect();
        for line in self.shader.source.lines().filter_map(|line| line.strip_prefix("//include ")) {
            let library = LIBRARY.iter().find(|(name, _)| *name == line.trim());
            text.push_str(library.unwrap_or_else(|| panic!("{} includes unknown `{line}`", self.shader.name)).1);
        }
        text.push_str(&unroll(self.shader.source, &self.consts));
        text
    }
}

/// What a kernel does with a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    Read,
    /// Every word is written; nothing is read before.
    Write,
    /// Read and written.
    Update,
}

/// A tensor of the node, or a scratch area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    Input(usize),
    Output(usize),
    Scratch(usize),
}

/// A range of 32-bit words of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    pub operand: Operand,
    pub offset: usize,
    pub len: usize,
}

impl Region {
    /// `len` words from `offset` on. The offset must be a multiple of 64 words (256 bytes).
    pub fn slice(self, offset: usize, len: usize) -> Region {
        assert!(offset.is_multiple_of(64) && offset + len <= self.len, "{offset}+{len} of {}", self.len);
        Region { offset: self.offset + offset, len, ..self }
    }
}

/// A uniform value of a dispatch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Param {
    U32(u32),
    F32(f32),
}

impl From<usize> for Param {
    fn from(value: usize) -> Self {
        Param::U32(u32::try_from(value).expect("sizes fit 32 bits"))
    }
}

impl From<u32> for Param {
    fn from(value: u32) -> Self {
        Param::U32(value)
    }
}

impl From<bool> for Param {
    fn from(value: bool) -> Self {
        Param::U32(u32::from(value))
    }
}

impl From<f64> for Param {
    fn from(value: f64) -> Self {
        Param::F32(value as f32)
    }
}

impl Param {
    pub fn bits(self) -> u32 {
        match self {
            Param::U32(value) => value,
            Param::F32(value) => value.to_bits(),
        }
    }
}

/// One dispatch: bindings 1.. in order after the uniform at binding 0.
#[derive(Clone, Debug)]
pub struct Dispatch {
    pub kernel: KernelKey,
    pub bindings: Vec<(Region, Access)>,
    pub params: Vec<Param>,
    /// Number of workgroups before folding.
    pub groups: usize,
}

/// Workgroups per grid row; shaders turn the folded grid back with `flat_group` of `lib/grid.wgsl`.
pub const GRID_FOLD: usize = 32_768;

impl Dispatch {
    /// The grid: one row up to `GRID_FOLD` workgroups, then more rows. WebGPU allows 65,535 per dimension.
    pub fn grid(&self) -> [u32; 3] {
        if self.groups <= GRID_FOLD {
            [self.groups as u32, 1, 1]
        } else {
            [GRID_FOLD as u32, self.groups.div_ceil(GRID_FOLD) as u32, 1]
        }
    }
}

/// What the plan may assume of an adapter.
#[derive(Clone, Copy, Debug)]
pub struct GpuLimits {
    /// Largest storage binding, in words.
    pub binding_words: usize,
    /// Scratch an op should stay below, in words.
    pub scratch_words: usize,
    /// The adapter computes on the host's cores: kernels with a variant for that take it.
    pub software: bool,
}

/// Collects the dispatches of one node.
pub struct GpuBuilder<'a> {
    pub inputs: &'a [&'a TensorType],
    pub outputs: &'a [&'a TensorType],
    pub limits: GpuLimits,
    pub dispatches: Vec<Dispatch>,
    pub scratch_words: Vec<usize>,
}

impl<'a> GpuBuilder<'a> {
    pub fn new(inputs: &'a [&'a TensorType], outputs: &'a [&'a TensorType], limits: GpuLimits) -> Self {
        GpuBuilder { inputs, outputs, limits, dispatches: Vec::new(), scratch_words: Vec::new() }
    }

    pub fn input(&self, i: usize) -> Region {
        Region { operand: Operand::Input(i), offset: 0, len: self.inputs[i].len() }
    }

    pub fn output(&self, i: usize) -> Region {
        Region { operand: Operand::Output(i), offset: 0, len: self.outputs[i].len() }
    }

    /// A scratch area that lives for this node only.
    pub fn scratch(&mut self, words: usize) -> Region {
        self.scratch_words.push(words);
        Region { operand: Operand::Scratch(self.scratch_words.len() - 1), offset: 0, len: words }
    }

    pub fn dispatch(
        &mut self,
        shader: Shader,
        consts: &[(&'static str, u32)],
        bindings: &[(Region, Access)],
        params: &[Param],
        groups: usize,
    ) -> Result<()> {
        if groups > 0 {
            let kernel = KernelKey { shader, consts: consts.to_vec() };
            let (bindings, params) = (bindings.to_vec(), params.to_vec());
            self.dispatches.push(Dispatch { kernel, bindings, params, groups });
        }
        Ok(())
    }
}
