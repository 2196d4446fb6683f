// Weighted sums over the rows of each sequence, one element per thread.
//include grid
struct Params { len: u32, width: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;             // (rows, width)
@group(0) @binding(2) var<storage, read> weight: array<f32>;        // (rows)
@group(0) @binding(3) var<storage, read> cu_seqlens: array<u32>;    // (sequences + 1)
@group(0) @binding(4) var<storage, read> share: array<f32>;         // (sequences)
@group(0) @binding(5) var<storage, read_write> y: array<f32>;       // (sequences, width), len elements

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        let s = i / p.width;
        var sum = 0.0;
        for (var n = cu_seqlens[s]; n < cu_seqlens[s + 1u]; n += 1u) {
            sum += share[s] * weight[n] * x[n * p.width + i % p.width];
        }
        y[i] = sum;
    }
}
