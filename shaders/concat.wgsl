// Copies rows to a range of the columns of wider rows, one element per thread.
//include grid
struct Params { len: u32, count: u32, width: u32, first: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;          // (rows, count), len elements
@group(0) @binding(2) var<storage, read_write> y: array<f32>;    // (rows, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        y[i / p.count * p.width + p.first + i % p.count] = x[i];
    }
}
