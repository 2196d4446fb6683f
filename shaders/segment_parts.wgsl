// Sums of the segments that are followed by another one of their id. Such a segment has LONGEST places, so the quotient of
// its start and LONGEST is a slot that no other one has. A thread owns one column of a slot and looks for its segment.
//include grid
//include segments
@group(0) @binding(4) var<storage, read_write> parts: array<f32>;    // (places / LONGEST rounded up, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    let slot = i / p.width;
    if (slot * LONGEST < p.places) {
        // The number of segments that start before the next slot; the last of them is the only one that can be as long.
        var low = 0u;
        var high = segments[0];
        while (low < high) {
            let middle = (low + high) / 2u;
            if (segment_start(middle) < (slot + 1u) * LONGEST) {
                low = middle + 1u;
            } else {
                high = middle;
            }
        }
        let segment = max(low, 1u) - 1u;
        if (low > 0u && segment_start(segment) >= slot * LONGEST && more_follow(segment) && in_table(segment_id(segment))) {
            parts[i] = segment_sum(segment, i % p.width);
        }
    }
}
