// The sum of squares of each block of 4096 elements; a workgroup owns a block: strided partial sums, then a tree.
//include grid
//include reduce
struct Params { len: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;                // (len)
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;       // (blocks of 4096)

const REDUCE_LANES = 256u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let block = flat_group(group);
    let first = block * 4096u;
    var sum = 0.0;
    for (var k = lane; k < 4096u; k += 256u) {
        let inside = first + k < p.len;
        let value = select(0.0, x[select(0u, first + k, inside)], inside);
        sum += value * value;
    }
    let whole = workgroup_sum(lane, sum);
    if (lane == 0u && first < p.len) {
        sums[block] = whole;
    }
}
