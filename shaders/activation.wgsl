// y = f(x), or y = f'(x) dy when SLOPE; one element per thread.
//include activation
//include grid
//include math
struct Params { len: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;          // (len)
@group(0) @binding(2) var<storage, read> dy: array<f32>;         // (len) when SLOPE
@group(0) @binding(3) var<storage, read_write> y: array<f32>;    // (len)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        if (SLOPE == 1u) {
            y[i] = activation_slope(x[i]) * dy[i];
        } else {
            y[i] = activation_value(x[i]);
        }
    }
}
