// Folds a chunk of logits into each row's running maximum and sum of exponentials; the last chunk gives loss and lse.
// A workgroup owns a row: 64 threads stride over the chunk, then a tree.
//include grid
//include reduce
struct Params { rows: u32, len: u32, stride: u32, first: u32, is_first: u32, is_last: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> z: array<f32>;              // (rows, stride), of which len take part
@group(0) @binding(2) var<storage, read> targets: array<u32>;        // (rows); 0xffffffff is none
@group(0) @binding(3) var<storage, read_write> stats: array<f32>;    // (rows, 3): maximum, sum, the target's logit
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;     // (rows)
@group(0) @binding(5) var<storage, read_write> lse: array<f32>;      // (rows)

const REDUCE_LANES = 64u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = flat_group(group);
    let inside = row < p.rows;
    let base = select(0u, row * p.stride, inside);
    var largest = -1e30;
    for (var i = lane; i < p.len; i += 64u) {
        largest = max(largest, z[base + i]);
    }
    let largest_here = workgroup_max(lane, largest);
    let before = select(stats[select(0u, 3u * row, inside)], -1e30, p.is_first == 1u);
    let largest_all = max(before, largest_here);
    var sum = 0.0;
    for (var i = lane; i < p.len; i += 64u) {
        sum += exp(z[base + i] - largest_all);
    }
    let whole = workgroup_sum(lane, sum);
    if (lane == 0u && inside) {
        var total = whole;
        var logit = 0.0;
        if (p.is_first == 0u) {
            total += stats[3u * row + 1u] * exp(before - largest_all);
            logit = stats[3u * row + 2u];
        }
        let t = targets[row];
        if (t >= p.first && t - p.first < p.len) {
            logit = z[base + t - p.first];
        }
        stats[3u * row] = largest_all;
        stats[3u * row + 1u] = total;
        stats[3u * row + 2u] = logit;
        if (p.is_last == 1u) {
            let none = t == 0xffffffffu;
            loss[row] = select(largest_all - logit + log(total), 0.0, none);
            lse[row] = select(largest_all + log(total), 0.0, none);
        }
    }
}
