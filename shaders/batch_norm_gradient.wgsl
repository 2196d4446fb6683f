// dx = weight rstd (dy - share (dbias + xhat dweight)) by column, one element per thread; share is 1 / rows, or 0 where the
// statistics are given.
//include grid
struct Params { len: u32, width: u32, second: u32, eps: f32, share: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> dy: array<f32>;            // (rows, width)
@group(0) @binding(2) var<storage, read> x: array<f32>;             // (rows, width)
@group(0) @binding(3) var<storage, read> weight: array<f32>;        // (width)
@group(0) @binding(4) var<storage, read> statistics: array<f32>;    // (2, second): means, variances
@group(0) @binding(5) var<storage, read> dweight: array<f32>;       // (width)
@group(0) @binding(6) var<storage, read> dbias: array<f32>;         // (width)
@group(0) @binding(7) var<storage, read_write> dx: array<f32>;      // (rows, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let d = i % p.width;
        let rstd = 1.0 / sqrt(statistics[p.second + d] + p.eps);
        let xhat = (x[i] - statistics[d]) * rstd;
        dx[i] = weight[d] * rstd * (dy[i] - p.share * (dbias[d] + xhat * dweight[d]));
    }
}
