// y_s = sum of x w over the rows of sequence s; a thread owns a sequence.
//include grid
struct Params { sequences: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;              // (rows)
@group(0) @binding(2) var<storage, read> weight: array<f32>;         // (rows)
@group(0) @binding(3) var<storage, read> cu_seqlens: array<u32>;     // (sequences + 1)
@group(0) @binding(4) var<storage, read_write> y: array<f32>;        // (sequences)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let s = flat_group(group) * 64u + lane;
    if (s < p.sequences) {
        var sum = 0.0;
        for (var n = cu_seqlens[s]; n < cu_seqlens[s + 1u]; n += 1u) {
            sum += x[n] * weight[n];
        }
        y[s] = sum;
    }
}
