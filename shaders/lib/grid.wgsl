// The host folds grids of more than 32768 workgroups into rows (Dispatch::grid); this unfolds them.
fn flat_group(group: vec3<u32>) -> u32 {
    return group.y * 32768u + group.x;
}
