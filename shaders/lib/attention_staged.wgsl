// For GPUs: the threads of a workgroup own neighbouring rows of one head and walk together. All members of a Place are the
// same in all of them: compilers judge a struct as a whole, and barriers stand in loops over these rows.
const GROUP = LANES * ROWS;

fn place_of(group: u32, lane: u32) -> Place {
    let stripes = (p.rows + GROUP - 1u) / GROUP;
    let first = (group % stripes) * GROUP;
    let head = min(group / stripes, p.heads - 1u);
    return Place(head, first, min(first + GROUP, p.rows) - 1u, group < stripes * p.heads);
}

fn own_head(place: Place, lane: u32) -> u32 {
    return place.head;
}

fn own_first(place: Place, lane: u32) -> u32 {
    return place.first + lane * ROWS;
}

// Between the use of a tile and the next tile.
fn tileBarrier() {
    workgroupBarrier();
}
