// y_(n width + c, r) = x_(n rows + r, c): each block of rows turned on its side. One element per thread.
//include grid
struct Params { len: u32, rows: u32, width: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;          // (blocks rows, width)
@group(0) @binding(2) var<storage, read_write> y: array<f32>;    // (blocks width, rows)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let block = i / (p.rows * p.width);
        let c = (i / p.rows) % p.width;
        let r = i % p.rows;
        y[i] = x[(block * p.rows + r) * p.width + c];
    }
}
