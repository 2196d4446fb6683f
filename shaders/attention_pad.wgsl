// Heads of another width: each is filled up with zeros, or cut. The other attention kernels read quads of columns.
//include grid
struct Params { len: u32, from_width: u32, to_width: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;          // (rows * heads, from_width)
@group(0) @binding(2) var<storage, read_write> y: array<f32>;    // (rows * heads, to_width) = (len)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let column = i % p.to_width;
        let inside = column < p.from_width;
        let value = x[(i / p.to_width) * p.from_width + select(0u, column, inside)];
        y[i] = select(0.0, value, inside);
    }
}
