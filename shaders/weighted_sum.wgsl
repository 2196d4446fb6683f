// y = sum x w: one workgroup, strided partial sums, then a tree.
//include reduce
struct Params { len: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;          // (len)
@group(0) @binding(2) var<storage, read> weight: array<f32>;     // (len)
@group(0) @binding(3) var<storage, read_write> y: array<f32>;    // (1)

const REDUCE_LANES = 256u;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
    var sum = 0.0;
    for (var i = lane; i < p.len; i += 256u) {
        sum += x[i] * weight[i];
    }
    let whole = workgroup_sum(lane, sum);
    if (lane == 0u) {
        y[0] = whole;
    }
}
