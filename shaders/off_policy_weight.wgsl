// weight = advantage * clip(exp(-loss) / beta)^kappa, one element per thread.
//include grid
struct Params { len: u32, kappa: f32, low: f32, high: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> advantage: array<f32>;      // (len)
@group(0) @binding(2) var<storage, read> loss: array<f32>;           // (len)
@group(0) @binding(3) var<storage, read> beta: array<f32>;           // (len)
@group(0) @binding(4) var<storage, read_write> weight: array<f32>;   // (len)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let ratio = clamp(exp(-loss[i]) / beta[i], p.low, p.high);
        weight[i] = advantage[i] * select(pow(ratio, p.kappa), 1.0, p.kappa == 0.0);
    }
}
