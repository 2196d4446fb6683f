//! How an op says what runs on a GPU: shader, constants, bindings with declared intent, grid.
//!
//! A kernel's source is a generated block of `const` lines, the file, and the library files that it names in lines
//! `//include NAME` or, where types, bindings or extensions depend on a constant, `//include NAME if CONST=VALUE`; loops may
//! be written out (`unroll`). Lines `enable EXTENSION;` may stand anywhere. Constants are for tile sizes and variants, never
//! for tensor shapes: shapes travel in the uniform, so that one compiled kernel serves all shapes.

use super::unroll::unroll;
use crate::engine::tensor::TensorType;

/// A file of `shaders/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shader {
    /// Without its ending.
    pub name: &'static str,
    /// WGSL, before constants, library files and unrolled loops.
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

// `LIBRARY`: the files of `shaders/lib`, which shaders may include.
include!(concat!(env!("OUT_DIR"), "/shader_library.rs"));

/// A shader with its constants: what is compiled, and the key of the pipeline cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelKey {
    /// The file.
    pub shader: Shader,
    /// Name and value of each constant.
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
            let (name, condition) = line.split_once(" if ").map_or((line, None), |(name, rest)| (name, Some(rest)));
            if condition.is_none_or(|condition| self.holds(condition)) {
                let library = LIBRARY.iter().find(|(library, _)| *library == name.trim());
                text.push_str(library.unwrap_or_else(|| panic!("{} includes unknown `{line}`", self.shader.name)).1);
            }
        }
        text.push_str(&unroll(self.shader.source, &self.consts));
        let (extensions, rest): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with("enable "));
        [extensions, rest].concat().join("\n")
    }

    /// Whether `CONST=VALUE` is true of this kernel.
    fn holds(&self, condition: &str) -> bool {
        let wanted =
            condition.split_once('=').and_then(|(name, value)| Some((name, value.trim().parse::<u32>().ok()?)));
        let (name, value) = wanted.unwrap_or_else(|| panic!("{}: `{condition}` is no CONST=VALUE", self.shader.name));
        let held = self.consts.iter().find(|(held, _)| *held == name);
        held.unwrap_or_else(|| panic!("{} has no constant {name}", self.shader.name)).1 == value
    }
}

/// What a kernel does with a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Nothing is written.
    Read,
    /// Every word is written; nothing is read before.
    Write,
    /// Read and written.
    Update,
}

/// A tensor of the node, or a scratch area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// An input of the op.
    Input(usize),
    /// An output of the op.
    Output(usize),
    /// An area that `GpuBuilder::scratch` gave.
    Scratch(usize),
}

/// A range of 32-bit words of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Whose words.
    pub operand: Operand,
    /// The first word.
    pub offset: usize,
    /// How many words.
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
    /// Sizes, counts, flags.
    U32(u32),
    /// Factors.
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
    /// The word as it lies in the uniform.
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
    /// What runs.
    pub kernel: KernelKey,
    /// From binding 1 on.
    pub bindings: Vec<(Region, Access)>,
    /// The words of the uniform, in the order of the shader's struct.
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

/// What kernels are made for: an op may have other tiles, even another kernel, for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterClass {
    /// A GPU: workgroup memory is near, neighbouring threads share loads.
    Hardware,
    /// The host's cores: workgroup memory costs what all memory costs, every load counts, barriers are expensive.
    Software,
}

/// What the plan may assume of an adapter.
#[derive(Clone, Copy, Debug)]
pub struct GpuLimits {
    /// Largest storage binding, in words.
    pub binding_words: usize,
    /// Scratch an op should stay below, in words.
    pub scratch_words: usize,
    /// Which tiles and kernels suit it.
    pub adapter: AdapterClass,
    /// Threads of a subgroup, where it is always the same and they can hand values to each other.
    pub subgroup: Option<u32>,
    /// The same, where the device was opened for mixed precision: products whose inputs may be rounded to f16
    /// then run on the adapter's matrix units.
    pub matrix_subgroup: Option<u32>,
}

/// Collects the dispatches of one node.
pub struct GpuBuilder<'a> {
    /// Types of the op's inputs.
    pub inputs: &'a [&'a TensorType],
    /// Types of its outputs.
    pub outputs: &'a [&'a TensorType],
    /// What the adapter allows.
    pub limits: GpuLimits,
    /// What the op has asked for so far, in order.
    pub dispatches: Vec<Dispatch>,
    /// Its scratch areas so far.
    pub scratch_words: Vec<usize>,
}

impl<'a> GpuBuilder<'a> {
    /// Nothing is dispatched yet.
    pub fn new(inputs: &'a [&'a TensorType], outputs: &'a [&'a TensorType], limits: GpuLimits) -> Self {
        GpuBuilder { inputs, outputs, limits, dispatches: Vec::new(), scratch_words: Vec::new() }
    }

    /// The whole of input `i`.
    pub fn input(&self, i: usize) -> Region {
        Region { operand: Operand::Input(i), offset: 0, len: self.inputs[i].len() }
    }

    /// The whole of output `i`.
    pub fn output(&self, i: usize) -> Region {
        Region { operand: Operand::Output(i), offset: 0, len: self.outputs[i].len() }
    }

    /// A scratch area that lives for this node only.
    pub fn scratch(&mut self, words: usize) -> Region {
        self.scratch_words.push(words);
        Region { operand: Operand::Scratch(self.scratch_words.len() - 1), offset: 0, len: words }
    }

    /// Calls `each` for every turn of a loop. Turns run one after the other, so they share the scratch that they take.
    pub fn repeat<T>(&mut self, turns: impl IntoIterator<Item = T>, mut each: impl FnMut(&mut Self, T)) {
        let before = self.scratch_words.len();
        let mut most: Vec<usize> = Vec::new();
        for turn in turns {
            each(self, turn);
            for (i, words) in self.scratch_words.drain(before..).enumerate() {
                most.resize(most.len().max(i + 1), 0);
                most[i] = most[i].max(words);
            }
        }
        self.scratch_words.extend(most);
    }

    /// Runs a shader with these constants on `groups` workgroups: `bindings` from binding 1 on, `params` in the uniform
    /// at binding 0. Dispatches run one after the other.
    pub fn dispatch(
        &mut self,
        shader: Shader,
        consts: &[(&'static str, u32)],
        bindings: &[(Region, Access)],
        params: &[Param],
        groups: usize,
    ) {
        if groups > 0 {
            let kernel = KernelKey { shader, consts: consts.to_vec() };
            let (bindings, params) = (bindings.to_vec(), params.to_vec());
            self.dispatches.push(Dispatch { kernel, bindings, params, groups });
        }
    }
}
