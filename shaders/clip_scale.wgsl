// scale = min(1, max_norm / sqrt(sum of the blocks' sums)): one workgroup, strided partial sums, then a tree.
struct Params { len: u32, max_norm: f32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> sums: array<f32>;             // (len)
@group(0) @binding(2) var<storage, read_write> scale: array<f32>;      // (1)

var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < p.len; i += 256u) {
        sum += sums[i];
    }
    partial[lane] = sum;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half /= 2u) {
        if (lane < half) {
            partial[lane] += partial[lane + half];
        }
        workgroupBarrier();
    }
    if (lane == 0u) {
        let norm = sqrt(partial[0]);
        scale[0] = select(1.0, p.max_norm / max(norm, 1e-30), norm > p.max_norm);
    }
}
