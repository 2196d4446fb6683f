// The total of losses under learned weights (place 0), or weight `place - 1` (the equations are in learned_weights.rs). K is
// the number of teachers: one thread does it.
//include math
//include learned_weight
struct Params { len: u32, place: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> rho: array<f32>;          // (len)
@group(0) @binding(2) var<storage, read> losses: array<f32>;       // (len)
@group(0) @binding(3) var<storage, read_write> out: array<f32>;    // (1)

@compute @workgroup_size(1)
fn main() {
    var weighted = 0.0;
    var inverse = 0.0;
    for (var k = 0u; k < p.len; k += 1u) {
        let lambda = learned_weight(rho[k]);
        weighted += lambda * losses[k];
        inverse += 1.0 / lambda;
    }
    if (p.place == 0u) {
        out[0] = weighted + inverse + inverse * inverse;
    } else {
        out[0] = learned_weight(rho[p.place - 1u]);
    }
}
