// The losses of a batch push out the oldest of their noise steps, in the order of the batch. A thread owns a step.
//include grid
struct Params { len: u32, steps: u32, kept: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> drawn: array<u32>;             // (len), from 1
@group(0) @binding(2) var<storage, read> loss: array<f32>;             // (len)
@group(0) @binding(3) var<storage, read_write> history: array<f32>;    // (steps, kept) in the first words

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let n = flat_group(group) * 64u + lane;
    if (n < p.steps) {
        for (var i = 0u; i < p.len; i += 1u) {
            if (drawn[i] == n + 1u) {
                for (var k = n * p.kept; k + 1u < (n + 1u) * p.kept; k += 1u) {
                    history[k] = history[k + 1u];
                }
                history[(n + 1u) * p.kept - 1u] = loss[i];
            }
        }
    }
}
