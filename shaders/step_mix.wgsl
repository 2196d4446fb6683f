// y = sum of c x over one to three tensors, c of the row; one element per thread.
//include grid
struct Params { len: u32, width: u32, columns: u32, first: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x0: array<f32>;              // (rows, width), len elements
@group(0) @binding(2) var<storage, read> x1: array<f32>;              // the same when TERMS > 1
@group(0) @binding(3) var<storage, read> x2: array<f32>;              // the same when TERMS > 2
@group(0) @binding(4) var<storage, read> coefficients: array<f32>;    // (rows, columns)
@group(0) @binding(5) var<storage, read_write> y: array<f32>;         // (rows, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let c = i / p.width * p.columns + p.first;
        var sum = coefficients[c] * x0[i];
        if (TERMS > 1u) {
            sum += coefficients[c + 1u] * x1[i];
        }
        if (TERMS > 2u) {
            sum += coefficients[c + 2u] * x2[i];
        }
        y[i] = sum;
    }
}
