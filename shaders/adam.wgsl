// One Adam step, one parameter per thread.
//include grid
struct Params { len: u32, scaled: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> grad: array<f32>;             // (len)
@group(0) @binding(2) var<storage, read> hyper: array<f32>;            // (8): see ops/adam.rs
@group(0) @binding(3) var<storage, read> scale: array<f32>;            // (1) when scaled
@group(0) @binding(4) var<storage, read_write> param: array<f32>;      // (len)
@group(0) @binding(5) var<storage, read_write> m: array<f32>;          // (len)
@group(0) @binding(6) var<storage, read_write> v: array<f32>;          // (len)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 256u + lane;
    if (i < p.len) {
        let g = select(1.0, scale[0], p.scaled == 1u) * grad[i] + hyper[7] * param[i];
        let first = hyper[2] * m[i] + hyper[3] * g;
        let second = hyper[4] * v[i] + hyper[5] * g * g;
        m[i] = first;
        v[i] = second;
        param[i] -= hyper[0] * first / (sqrt(second * hyper[1]) + hyper[6]);
    }
}
