//! Every kernel through naga to SPIR-V, MSL and HLSL, and the rules that naga does not check. Needs no GPU.

use super::{Checked, Failure, Outcome};
use crate::engine::case::Case;
use crate::engine::exec::gpu::kernel::{AdapterClass, GpuBuilder, GpuLimits, KernelKey};
use crate::verify::program::Program;
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use std::collections::{BTreeMap, HashSet};

/// WebGPU's default limits, which every adapter must allow.
fn web(adapter: AdapterClass) -> GpuLimits {
    GpuLimits { binding_words: 32 << 20, scratch_words: 8 << 20, adapter, subgroup: None, matrix_subgroup: None }
}
const MAX_STORAGE_BUFFERS: usize = 8;

/// All kernels, with their constants, that the cases dispatch on any class of adapter in full precision, gradients
/// included. They need nothing but WebGPU.
pub fn kernels(cases: &[Case]) -> Result<Vec<KernelKey>, Failure> {
    kernels_for(cases, &[AdapterClass::Hardware, AdapterClass::Software].map(web))
}

fn kernels_for(cases: &[Case], adapters: &[GpuLimits]) -> Result<Vec<KernelKey>, Failure> {
    let (mut seen, mut keys) = (HashSet::new(), Vec::new());
    for case in cases {
        let graph = Program::new(case, &BTreeMap::new())?.graph;
        for (node, limits) in graph.nodes.iter().flat_map(|node| adapters.iter().map(move |limits| (node, limits))) {
            let (inputs, outputs) = graph.node_types(node);
            let mut builder = GpuBuilder::new(&inputs, &outputs, *limits);
            node.op.gpu(&mut builder);
            for dispatch in builder.dispatches {
                if dispatch.bindings.len() > MAX_STORAGE_BUFFERS {
                    let problem =
                        format!("{} binds {} storage buffers", dispatch.kernel.label(), dispatch.bindings.len());
                    return Err(Failure(problem));
                }
                if seen.insert(dispatch.kernel.clone()) {
                    keys.push(dispatch.kernel);
                }
            }
        }
    }
    Ok(keys)
}

/// Checks the kernels of one op, those for subgroups too.
pub fn check(cases: &[Case]) -> Checked {
    let mut together = kernels_for(cases, &[GpuLimits { subgroup: Some(8), ..web(AdapterClass::Software) }])?;
    together.retain(|key| key.consts.contains(&("TOGETHER", 1)));
    let plain = kernels(cases)?.into_iter().map(|key| (key, Capabilities::empty()));
    for (key, extensions) in plain.chain(together.into_iter().map(|key| (key, Capabilities::SUBGROUP))) {
        let (module, info) = check_kernel(&key, extensions)?;
        translate(&module, &info).map_err(|(what, message)| Failure(format!("{}: {what}: {message}", key.label())))?;
    }
    Ok(Outcome::default())
}

/// Checks the kernels of one op that take matrix units. naga gives matrices of 16x16 to Vulkan alone.
pub fn check_mixed(cases: &[Case]) -> Checked {
    let extensions = Capabilities::SHADER_FLOAT16 | Capabilities::COOPERATIVE_MATRIX;
    for subgroup in [16, 32, 64] {
        let keys = kernels_for(cases, &[GpuLimits { matrix_subgroup: Some(subgroup), ..web(AdapterClass::Hardware) }])?;
        let mixed: Vec<&KernelKey> = keys.iter().filter(|key| key.consts.contains(&("SUBGROUP", subgroup))).collect();
        if mixed.is_empty() {
            return Err(Failure("no kernel takes matrix units".into()));
        }
        for key in mixed {
            let (module, info) = check_kernel(key, extensions)?;
            spv::write_vec(&module, &info, &spv::Options::default(), None)
                .map_err(|e| Failure(format!("{}: SPIR-V: {e}", key.label())))?;
        }
    }
    Ok(Outcome::default())
}

/// Parses and validates a kernel.
fn check_kernel(key: &KernelKey, extensions: Capabilities) -> Result<(naga::Module, ModuleInfo), Failure> {
    let failed = |what: &str, message: String| Failure(format!("{}: {what}: {message}", key.label()));
    let text = key.wgsl();
    let module = naga::front::wgsl::parse_str(&text).map_err(|e| failed("WGSL", e.emit_to_string(&text)))?;
    let mut validator = Validator::new(ValidationFlags::all(), extensions);
    if extensions.contains(Capabilities::SUBGROUP) {
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    }
    let info = validator.validate(&module).map_err(|e| failed("validation", e.emit_to_string(&text)))?;
    barriers_at_top_level(&text).map_err(|line| failed("barrier in a branch", line))?;
    Ok((module, info))
}

fn translate(module: &naga::Module, info: &ModuleInfo) -> Result<(), (&'static str, String)> {
    spv::write_vec(module, info, &spv::Options::default(), None).map_err(|e| ("SPIR-V", e.to_string()))?;
    let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    msl::write_string(module, info, &options, &Default::default()).map_err(|e| ("MSL", e.to_string()))?;
    let options =
        hlsl::Options { shader_model: hlsl::ShaderModel::V6_0, fake_missing_bindings: true, ..Default::default() };
    let mut text = String::new();
    let pipeline = hlsl::PipelineOptions::default();
    hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None).map_err(|e| ("HLSL", e.to_string()))?;
    Ok(())
}

/// naga accepts barriers in non-uniform control flow, browsers reject them and GPUs corrupt memory. Here a barrier may
/// stand at the top level of `main` or inside `for` loops, whose bounds are uniform by our own rule; never inside an
/// `if`, unless on a constant of the kernel, nor after an early `return`.
fn barriers_at_top_level(text: &str) -> Result<(), String> {
    let mut blocks: Vec<bool> = Vec::new(); // true: a branch
    let mut returned = false;
    for line in text.lines().map(|line| line.split("//").next().unwrap_or("")) {
        if line.starts_with("fn ") || line.contains("@compute") {
            returned = false;
        }
        if line.contains("Barrier()") && (returned || blocks.iter().any(|branch| *branch)) {
            return Err(line.trim().into());
        }
        returned |= line.trim_start().starts_with("return;");
        for c in line.chars() {
            match c {
                '{' => blocks.push(branches(line)),
                '}' => drop(blocks.pop()),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whether a line opens a block that only some threads may enter. `if (STAGED == 1u) {` asks a constant of the kernel.
fn branches(line: &str) -> bool {
    let condition = line.trim().strip_prefix("if (").and_then(|rest| rest.strip_suffix(" == 1u) {"));
    let constant = condition.is_some_and(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'));
    !constant && ["if ", "else", "switch"].iter().any(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_under_a_branch_or_after_a_return_is_found() {
        assert!(barriers_at_top_level("fn main() {\n  workgroupBarrier();\n}").is_ok());
        assert!(barriers_at_top_level("fn main() {\n  if (x) {\n    workgroupBarrier();\n  }\n}").is_err());
        assert!(barriers_at_top_level("fn main() {\n  if (STAGED == 1u) {\n    workgroupBarrier();\n  }\n}").is_ok());
        assert!(barriers_at_top_level("fn main() {\n  if (x) {\n    return;\n  }\n  workgroupBarrier();\n}").is_err());
    }
}
