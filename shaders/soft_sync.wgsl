// Moves each number of the target a part of the way to the source's. One element per thread.
//include grid
struct Params { len: u32, rate: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> source: array<f32>;           // (len)
@group(0) @binding(2) var<storage, read_write> aim: array<f32>;        // (len)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        aim[i] += p.rate * (source[i] - aim[i]);
    }
}
