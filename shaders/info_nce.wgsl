// loss = log sum exp(logits) - logit of the partner, and the lse; a workgroup owns a row. With a shift, a row skips itself.
//include grid
//include reduce
struct Params { columns: u32, rows: u32, first: u32, scale: f32, shift: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;           // (rows of this block, columns), not yet scaled
@group(0) @binding(2) var<storage, read_write> losses: array<f32>;     // (columns)
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;        // (columns)

const REDUCE_LANES = 64u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = min(flat_group(group), p.rows - 1u);
    let i = p.first + row;
    let base = row * p.columns;
    let skipped = select(p.columns, i, p.shift > 0u);
    var largest = -1e30;
    for (var j = lane; j < p.columns; j += 64u) {
        largest = max(largest, select(p.scale * logits[base + j], -1e30, j == skipped));
    }
    largest = workgroup_max(lane, largest);
    var sum = 0.0;
    for (var j = lane; j < p.columns; j += 64u) {
        sum += select(exp(min(p.scale * logits[base + j] - largest, 0.0)), 0.0, j == skipped);
    }
    let whole = workgroup_sum(lane, sum);
    if (lane == 0u) {
        let log_sum = log(whole);
        losses[i] = (largest - p.scale * logits[base + (i + p.shift) % p.columns]) + log_sum;
        lse[i] = largest + log_sum;
    }
}
