// What the weights of a GRU with the reset behind the product are differentiated by: dx with its last third times r.
//include grid
struct Params { len: u32, hidden: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dx: array<f32>;         // (rows, 3 hidden), len elements
@group(0) @binding(2) var<storage, read> gates: array<f32>;      // (rows, 4 hidden): r first
@group(0) @binding(3) var<storage, read_write> d: array<f32>;    // (rows, 3 hidden)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let row = i / (3u * p.hidden);
        let column = i % (3u * p.hidden);
        let is_last = column >= 2u * p.hidden;
        let r = gates[row * 4u * p.hidden + select(0u, column - 2u * p.hidden, is_last)];
        d[i] = select(dx[i], dx[i] * r, is_last);
    }
}
