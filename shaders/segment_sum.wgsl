// table[id] += sum over the places of id of weight * x row. A thread owns one column of the last segment of an id; it adds
// the sums of the segments before.
//include grid
//include segments
@group(0) @binding(4) var<storage, read> parts: array<f32>;        // (places / LONGEST rounded up, width)
@group(0) @binding(5) var<storage, read_write> table: array<f32>;    // (rows, width), rows first.. of the whole table

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let i = flat_group(group) * 64u + lane;
    let segment = i / p.width;
    let column = i % p.width;
    if (segment < min(p.places, segments[0]) && !more_follow(segment)) {
        let id = segment_id(segment);
        if (in_table(id)) {
            var sum = segment_sum(segment, column);
            for (var earlier = segment; earlier > 0u && segment_id(earlier - 1u) == id; earlier -= 1u) {
                sum += parts[(segment_start(earlier - 1u) / LONGEST) * p.width + column];
            }
            table[(id - p.first) * p.width + column] += sum;
        }
    }
}
