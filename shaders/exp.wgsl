// y = exp(min(y, most)), one element per thread.
//include grid
struct Params { len: u32, most: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;    // (len), holds x on entry

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        y[i] = exp(min(y[i], p.most));
    }
}
