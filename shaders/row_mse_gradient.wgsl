// da = 2 / width dy_n (a - b), one element per thread.
//include grid
struct Params { len: u32, width: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;           // (rows, width), len elements
@group(0) @binding(2) var<storage, read> b: array<f32>;           // (rows, width)
@group(0) @binding(3) var<storage, read> dy: array<f32>;          // (rows)
@group(0) @binding(4) var<storage, read_write> da: array<f32>;    // (rows, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        da[i] = 2.0 / f32(p.width) * dy[i / p.width] * (a[i] - b[i]);
    }
}
