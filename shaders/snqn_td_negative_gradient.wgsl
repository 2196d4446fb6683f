// dq_neg = negative_weight dloss (q_neg - (reward_negative + gamma q_now)), one element per thread.
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
@group(0) @binding(1) var<storage, read> q_neg: array<f32>;          // (rows, negatives)
@group(0) @binding(2) var<storage, read> q_now: array<f32>;          // (rows)
@group(0) @binding(3) var<storage, read> dloss: array<f32>;          // (rows)
@group(0) @binding(4) var<storage, read_write> dq: array<f32>;       // (rows, negatives)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.rows * p.negatives) {
        let b = i / p.negatives;
        dq[i] = p.negative_weight * dloss[b] * (q_neg[i] - (p.reward_negative + p.gamma * q_now[b]));
    }
}
