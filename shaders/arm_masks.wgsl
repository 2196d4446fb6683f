// mask_a = [u < s], mask_b = [u > 1 - s], one element per thread.
//include grid
struct Params { len: u32, keep: f32, drop: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> u: array<f32>;                // (len)
@group(0) @binding(2) var<storage, read_write> mask_a: array<u32>;     // (len)
@group(0) @binding(3) var<storage, read_write> mask_b: array<u32>;     // (len)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        mask_a[i] = select(0u, 1u, u[i] < p.keep);
        mask_b[i] = select(0u, 1u, u[i] > p.drop);
    }
}
