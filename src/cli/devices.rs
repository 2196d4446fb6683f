//! `gpurec devices`: what this machine offers, and what `auto` makes of it.

use super::console::{say, table};
use crate::engine::exec::gpu::AdapterSummary;
use crate::engine::exec::gpu::device::{Wanted, adapters, choose};
use crate::error::Result;
use indicatif::HumanBytes;

pub const EXAMPLES: &str = "\
Examples:
  gpurec devices
  gpurec verify --device llvmpipe     an adapter by a part of its name, as in all commands with --device";

const HEADER: [&str; 10] = [
    "adapter",
    "backend",
    "type",
    "driver",
    "max binding",
    "max buffer",
    "workgroup memory",
    "timestamps",
    "f16",
    "matrix units",
];

pub fn devices() -> Result<()> {
    let adapters = adapters();
    say(table(&HEADER, adapters.iter().map(adapter_row).chain([cpu_row()]), 4))?;
    say(format!("auto: {}", verdict(&adapters)))
}

fn adapter_row(adapter: &AdapterSummary) -> [String; 10] {
    let yes = |has: bool| String::from(if has { "yes" } else { "no" });
    [
        adapter.name.clone(),
        adapter.backend.clone(),
        adapter.class().into(),
        adapter.driver.clone(),
        HumanBytes(adapter.max_binding_bytes).to_string(),
        HumanBytes(adapter.max_buffer_bytes).to_string(),
        HumanBytes(adapter.max_workgroup_bytes.into()).to_string(),
        yes(adapter.timestamps),
        yes(adapter.f16),
        yes(adapter.matrix_subgroup.is_some()),
    ]
}

fn cpu_row() -> [String; 10] {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut row: [String; 10] = std::array::from_fn(|_| "-".into());
    [row[0], row[1], row[2]] = ["cpu".into(), "own kernels".into(), format!("{cores} cores")];
    row
}

/// What `auto` opens, and why.
fn verdict(adapters: &[AdapterSummary]) -> String {
    if let Some(index) = choose(adapters, &Wanted::Hardware) {
        return format!(
            "{} ({}): a {} goes before the cpu",
            adapters[index].name,
            adapters[index].backend,
            adapters[index].class()
        );
    }
    let named = adapters.iter().find(|adapter| adapter.is_software());
    match named.map(|adapter| adapter.name.split_whitespace().next().unwrap_or_default()) {
        Some(name) => format!(
            "cpu: there is no GPU. A software adapter computes on the same cores, far slower; it is used only when \
             named: --device {name}"
        ),
        None => "cpu: no GPU adapter was found".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, kind: wgpu::DeviceType) -> AdapterSummary {
        AdapterSummary {
            name: name.into(),
            backend: "vulkan".into(),
            driver: String::new(),
            kind,
            max_binding_bytes: 0,
            max_buffer_bytes: 0,
            max_workgroup_bytes: 0,
            timestamps: false,
            f16: false,
            subgroup: None,
            matrix_subgroup: None,
        }
    }

    #[test]
    fn auto_prefers_a_discrete_gpu_and_never_takes_software() {
        let software = adapter("llvmpipe (LLVM 19)", wgpu::DeviceType::Cpu);
        assert!(verdict(&[]).starts_with("cpu: no GPU"));
        assert!(verdict(std::slice::from_ref(&software)).ends_with("--device llvmpipe"));
        let all =
            [software, adapter("Iris", wgpu::DeviceType::IntegratedGpu), adapter("RTX", wgpu::DeviceType::DiscreteGpu)];
        assert_eq!(verdict(&all), "RTX (vulkan): a discrete GPU goes before the cpu");
    }
}
