// scale = min(1, max_norm / sqrt(sum of the blocks' sums)): one workgroup, strided partial sums, then a tree.
//include reduce
struct Params { len: u32, max_norm: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> sums: array<f32>;             // (len)
@group(0) @binding(2) var<storage, read_write> scale: array<f32>;      // (1)

const REDUCE_LANES = 256u;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < p.len; i += 256u) {
        sum += sums[i];
    }
    let whole = workgroup_sum(lane, sum);
    if (lane == 0u) {
        let norm = sqrt(whole);
        scale[0] = select(1.0, p.max_norm / max(norm, 1e-30), norm > p.max_norm);
    }
}
