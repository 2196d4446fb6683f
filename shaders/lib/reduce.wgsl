// One value per thread in, the sum (or maximum) over the workgroup in every thread out, by a tree in fixed order. All
// threads must call it. The including shader defines REDUCE_LANES, its workgroup size, a power of two.
var<workgroup> reduce_lanes: array<f32, REDUCE_LANES>;

fn workgroup_sum(lane: u32, value: f32) -> f32 {
    reduce_lanes[lane] = value;
    workgroupBarrier();
    for (var half = REDUCE_LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            reduce_lanes[lane] += reduce_lanes[lane + half];
        }
        workgroupBarrier();
    }
    let total = reduce_lanes[0];
    workgroupBarrier();
    return total;
}

fn workgroup_max(lane: u32, value: f32) -> f32 {
    reduce_lanes[lane] = value;
    workgroupBarrier();
    for (var half = REDUCE_LANES / 2u; half > 0u; half /= 2u) {
        if (lane < half) {
            reduce_lanes[lane] = max(reduce_lanes[lane], reduce_lanes[lane + half]);
        }
        workgroupBarrier();
    }
    let largest = reduce_lanes[0];
    workgroupBarrier();
    return largest;
}
