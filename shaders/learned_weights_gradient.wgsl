// Gradients of the total of losses under learned weights (the equations are in learned_weights.rs). One thread.
//include math
//include learned_weight
struct Params { len: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> rho: array<f32>;              // (len)
@group(0) @binding(2) var<storage, read> losses: array<f32>;           // (len)
@group(0) @binding(3) var<storage, read> dtotal: array<f32>;           // (1)
@group(0) @binding(4) var<storage, read_write> drho: array<f32>;       // (len)
@group(0) @binding(5) var<storage, read_write> dlosses: array<f32>;    // (len)

@compute @workgroup_size(1)
fn main() {
    var inverse = 0.0;
    for (var k = 0u; k < p.len; k += 1u) {
        inverse += 1.0 / learned_weight(rho[k]);
    }
    for (var k = 0u; k < p.len; k += 1u) {
        let lambda = learned_weight(rho[k]);
        drho[k] = dtotal[0] * sigmoid(rho[k]) * (losses[k] - (1.0 + 2.0 * inverse) / (lambda * lambda));
        dlosses[k] = dtotal[0] * lambda;
    }
}
