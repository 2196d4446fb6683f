// y (+)= sum over slabs, in order: the second half of every reduction that is split over workgroups.
//include grid
struct Params { len: u32, slabs: u32, accumulate: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;          // (slabs, len)
@group(0) @binding(2) var<storage, read_write> y: array<f32>;    // (len)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    if (i < p.len) {
        var sum = select(0.0, y[i], p.accumulate == 1u);
        for (var slab = 0u; slab < p.slabs; slab += 1u) {
            sum += x[slab * p.len + i];
        }
        y[i] = sum;
    }
}
