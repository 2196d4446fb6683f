// The first noise step whose running sum of p is above a uniform number, and its weight 1 / (N p); a thread draws one.
//include grid
struct Params { len: u32, steps: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> table: array<f32>;             // (2, steps): p, sum of p up to n
@group(0) @binding(2) var<storage, read> uniforms: array<f32>;          // (len)
@group(0) @binding(3) var<storage, read_write> drawn: array<u32>;        // (len), from 1
@group(0) @binding(4) var<storage, read_write> weight: array<f32>;      // (len)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        var low = 0u;
        var high = p.steps - 1u;
        while (low < high) {
            let middle = (low + high) / 2u;
            if (uniforms[i] < table[p.steps + middle]) {
                high = middle;
            } else {
                low = middle + 1u;
            }
        }
        drawn[i] = low + 1u;
        weight[i] = 1.0 / (f32(p.steps) * table[low]);
    }
}
