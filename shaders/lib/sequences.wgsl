// The sequence of a packed row: the first one that ends behind it. `count` of an inert row. The including shader has
// cu_seqlens (count + 1).
fn sequence_of(row: u32, count: u32) -> u32 {
    var low = 0u;
    var high = count;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (cu_seqlens[middle + 1u] <= row) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return low;
}
