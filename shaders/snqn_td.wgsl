// Temporal-difference loss and advantage of a row; a thread owns a row.
//include grid
struct Params {
    rows: u32,
    negatives: u32,
    clipped: u32,
    gamma: f32,
    reward_negative: f32,
    negative_weight: f32,
    low: f32,
    high: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> q_pos: array<f32>;                 // (rows)
@group(0) @binding(2) var<storage, read> q_neg: array<f32>;                 // (rows, negatives)
@group(0) @binding(3) var<storage, read> reward: array<f32>;                // (rows)
@group(0) @binding(4) var<storage, read> done: array<f32>;                  // (rows): 0 or 1
@group(0) @binding(5) var<storage, read> q_next: array<f32>;                // (rows)
@group(0) @binding(6) var<storage, read> q_now: array<f32>;                 // (rows)
@group(0) @binding(7) var<storage, read_write> loss: array<f32>;            // (rows)
@group(0) @binding(8) var<storage, read_write> advantage: array<f32>;       // (rows)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let b = flat_group(group) * 64u + lane;
    if (b < p.rows) {
        let positive = q_pos[b];
        let error = reward[b] + p.gamma * (1.0 - done[b]) * q_next[b] - positive;
        let bad = p.reward_negative + p.gamma * q_now[b];
        var sum = error * error;
        var total = positive;
        for (var j = b * p.negatives; j < (b + 1u) * p.negatives; j += 1u) {
            sum += p.negative_weight * (bad - q_neg[j]) * (bad - q_neg[j]);
            total += q_neg[j];
        }
        loss[b] = 0.5 * sum;
        let above = positive - total / f32(p.negatives + 1u);
        advantage[b] = select(above, clamp(above, p.low, p.high), p.clipped == 1u);
    }
}
