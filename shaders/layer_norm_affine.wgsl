// Partial sums of dy * xhat and dy over one block of rows; a thread owns a column of the block.
//include grid
struct Params { rows: u32, width: u32, block: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;               // (rows, width)
@group(0) @binding(2) var<storage, read> sums: array<f32>;             // (rows, width)
@group(0) @binding(3) var<storage, read> stats: array<f32>;            // (rows, 2): mean, rstd
@group(0) @binding(4) var<storage, read_write> dweight: array<f32>;    // (blocks, width)
@group(0) @binding(5) var<storage, read_write> dbias: array<f32>;      // (blocks, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let stripes = (p.width + 63u) / 64u;
    let block = flat_group(group) / stripes;
    let column = (flat_group(group) % stripes) * 64u + lane;
    let first = block * p.block;
    if (column < p.width && first < p.rows) {
        var sum_w = 0.0;
        var sum_b = 0.0;
        for (var row = first; row < min(first + p.block, p.rows); row += 1u) {
            let i = row * p.width + column;
            sum_w += dy[i] * (sums[i] - stats[2u * row]) * stats[2u * row + 1u];
            sum_b += dy[i];
        }
        dweight[block * p.width + column] = sum_w;
        dbias[block * p.width + column] = sum_b;
    }
}
