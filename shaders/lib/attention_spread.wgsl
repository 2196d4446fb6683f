// For software adapters, whose threads are the lanes of a vector and go on in step as long as the longest: HEADS heads, and
// sets of SHARE threads that own neighbouring rows and walk together. The sets are spread over all rows at equal distances,
// so that in a batch of equal sequences they stand at the same place of theirs and a causal mask leaves them the same work.
const GROUP = SHARE * ROWS;
const SETS = LANES / HEADS / SHARE;

fn place_of(group: u32, lane: u32) -> Place {
    let stripes = (p.rows + GROUP * SETS - 1u) / (GROUP * SETS);
    let first = (group % stripes + lane / HEADS / SHARE * stripes) * GROUP;
    let head = min(group / stripes * HEADS, p.heads - HEADS);
    let live = first < p.rows && group < stripes * (p.heads / HEADS);
    return Place(head, min(first, p.rows - 1u), min(first + GROUP, p.rows) - 1u, live);
}

fn own_head(place: Place, lane: u32) -> u32 {
    return place.head + lane % HEADS;
}

fn own_first(place: Place, lane: u32) -> u32 {
    return place.first + lane / HEADS % SHARE * ROWS;
}

// There are no tiles; and compilers refuse a barrier, even one that is never reached, where threads go different ways.
fn tileBarrier() {
}
