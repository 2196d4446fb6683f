// What the weights of a sequence are multiplied by: 1, or one over their sum. A thread owns a sequence.
//include grid
struct Params { sequences: u32, mean: u32, nothing: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> weight: array<f32>;          // (rows)
@group(0) @binding(2) var<storage, read> cu_seqlens: array<u32>;      // (sequences + 1)
@group(0) @binding(3) var<storage, read_write> share: array<f32>;     // (sequences)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let s = flat_group(group) * 64u + lane;
    if (s < p.sequences) {
        var total = 0.0;
        for (var n = cu_seqlens[s]; n < cu_seqlens[s + 1u]; n += 1u) {
            total += weight[n];
        }
        share[s] = select(1.0, select(0.0, 1.0 / total, total > p.nothing), p.mean == 1u);
    }
}
