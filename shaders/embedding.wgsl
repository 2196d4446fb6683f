// y = table[ids]; one element per thread. The table may come in chunks of rows: a chunk writes the rows of its own ids,
// the first one also the zeros of missing ids.
//include grid
struct Params { len: u32, width: u32, first: u32, rows: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> table: array<f32>;      // (rows, width), rows first.. of the whole table
@group(0) @binding(2) var<storage, read> ids: array<u32>;        // (N)
@group(0) @binding(3) var<storage, read_write> y: array<f32>;    // (N, width) = (len)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let id = ids[i / p.width];
        if (id >= p.first && id - p.first < p.rows) {
            y[i] = table[(id - p.first) * p.width + i % p.width];
        } else if (id == 0xffffffffu && p.first == 0u) {
            y[i] = 0.0;
        }
    }
}
