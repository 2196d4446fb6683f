// dk and dv of cross attention: dk_j = scale sum_i ds_ij q_i, dv_j = sum_i keep_ij p_ij dy_i. A thread owns a key row and head and
// walks through the queries that see it: those of its sequence, or the one that it belongs to; inert rows are seen by none.
//include grid
//include philox
//include cross_attention
@group(0) @binding(5) var<storage, read> stats: array<vec2<f32>>;      // (queries, heads): lse, delta
@group(0) @binding(6) var<storage, read> dy: array<f32>;               // (queries, heads, width)
@group(0) @binding(7) var<storage, read_write> dk: array<f32>;         // (rows, heads, width)
@group(0) @binding(8) var<storage, read_write> dv: array<f32>;         // (rows, heads, width)

// The first sequence that ends behind the row.
fn sequence_of(row: u32) -> u32 {
    var low = 0u;
    var high = p.queries / p.per_sequence;
    while (low < high) {
        let middle = (low + high) / 2u;
        if (places[1u + middle * p.per_sequence].y <= row) {
            low = middle + 1u;
        } else {
            high = middle;
        }
    }
    return low;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let j = flat_group(group) * 64u + lane;
    if (j < p.rows * p.heads) {
        let row = j / p.heads;
        let head = j % p.heads;
        let own = p.own_keys == 1u && row >= p.rows - p.queries;
        let from_sequence = min(sequence_of(row) * p.per_sequence, p.queries);
        let first = select(from_sequence, row - (p.rows - p.queries * p.own_keys), own);
        let end = select(min(from_sequence + p.per_sequence, p.queries), first + 1u, own);
        let base = j * p.width;
        for (var d = 0u; d < p.width; d += 1u) {
            dk[base + d] = 0.0;
            dv[base + d] = 0.0;
        }
        for (var query = first; query < end; query += 1u) {
            let place = places[1u + query];
            let at = select(row - place.x, place.y - place.x, own);
            let i = query * p.heads + head;
            var dp = 0.0;
            for (var d = 0u; d < p.width; d += 1u) {
                dp += dy[i * p.width + d] * v[base + d];
            }
            let probability = exp(min(score(query, row, head) - stats[i].x, 0.5));
            let keep = keep_factor(place, head, at);
            let ds = p.scale * probability * (keep * dp - stats[i].y);
            for (var d = 0u; d < p.width; d += 1u) {
                dk[base + d] += ds * q[i * p.width + d];
                dv[base + d] += keep * probability * dy[i * p.width + d];
            }
        }
    }
}
