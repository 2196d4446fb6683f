// SHARE threads that walk together read PART quads each of a row that passes by, and hand them on: between the lanes of a
// vector that costs a fraction of a read.
fn own_part(lane: u32) -> u32 {
    return lane / HEADS % SHARE * PART;
}

// A quad that the partner with the given part has read.
fn handed(quad: vec4<f32>, lane: u32, part: u32) -> vec4<f32> {
    return subgroupShuffle(quad, lane - lane / HEADS % SHARE * HEADS + part * HEADS);
}
