// loss = softplus(negative - positive), one element per thread.
//include grid
//include math
struct Params { len: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> positive: array<f32>;        // (len)
@group(0) @binding(2) var<storage, read> negative: array<f32>;        // (len)
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;      // (len)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        loss[i] = softplus(negative[i] - positive[i]);
    }
}
