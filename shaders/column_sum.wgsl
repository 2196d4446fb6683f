// Partial column sums: a workgroup owns 64 columns of one block of rows; a thread owns one column.
//include grid
struct Params { rows: u32, width: u32, block: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // (rows, width)
@group(0) @binding(2) var<storage, read_write> partial: array<f32>;    // (blocks, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let stripes = (p.width + 63u) / 64u;
    let block = flat_group(group) / stripes;
    let column = (flat_group(group) % stripes) * 64u + lane;
    let first = block * p.block;
    if (column < p.width && first < p.rows) {
        var sum = 0.0;
        for (var row = first; row < min(first + p.block, p.rows); row += 1u) {
            sum += x[row * p.width + column];
        }
        partial[block * p.width + column] = sum;
    }
}
