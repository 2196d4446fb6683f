// dq_pos = dloss (q_pos - (reward + gamma (1 - done) q_next)); a thread owns a row.
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
@group(0) @binding(1) var<storage, read> q_pos: array<f32>;          // (rows)
@group(0) @binding(2) var<storage, read> reward: array<f32>;         // (rows)
@group(0) @binding(3) var<storage, read> done: array<f32>;           // (rows): 0 or 1
@group(0) @binding(4) var<storage, read> q_next: array<f32>;         // (rows)
@group(0) @binding(5) var<storage, read> dloss: array<f32>;          // (rows)
@group(0) @binding(6) var<storage, read_write> dq: array<f32>;       // (rows)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let b = flat_group(group) * 64u + lane;
    if (b < p.rows) {
        dq[b] = dloss[b] * (q_pos[b] - (reward[b] + p.gamma * (1.0 - done[b]) * q_next[b]));
    }
}
