// dk and dv of attention: dk_j = scale sum_i ds_ij q_i, dv_j = sum_i p_ij keep_ij dy_i, with
// ds_ij = p_ij (keep_ij <dy_i, v_j> - delta_i) and p recomputed from lse. A thread owns ROWS key rows of one head and walks
// through the queries that see them: no atomics.
//include grid
//include philox
//include attention
//include attention_staged if STAGED=1
//include attention_spread if STAGED=0
//include attention_alone if TOGETHER=0
//include attention_together if TOGETHER=1
@group(0) @binding(5) var<storage, read> stats: array<vec2<f32>>;       // (rows, heads): lse, delta
@group(0) @binding(6) var<storage, read> dy: array<vec4<f32>>;          // (rows, heads, QUADS)
@group(0) @binding(7) var<storage, read_write> dk: array<vec4<f32>>;    // (rows, heads, QUADS)
@group(0) @binding(8) var<storage, read_write> dv: array<vec4<f32>>;    // (rows, heads, QUADS)

// What queries keep of four neighbouring keys is drawn once for the threads that own those keys.
const KEY_QUADS = LANES * ROWS / 4u;
var<workgroup> query_tile: array<vec4<f32>, TILE * QUADS>;
var<workgroup> cotangent_tile: array<vec4<f32>, TILE * QUADS>;
var<workgroup> stat_tile: array<vec2<f32>, TILE>;
var<workgroup> kept_tile: array<u32, max(1u, TILE * KEY_QUADS * DROPOUT)>;    // (TILE, KEY_QUADS)

fn stage_queries(tile: u32, place: Place, lane: u32) {
    for (var i = lane; i < TILE * QUADS; i += LANES) {
        let at = own_quad(min(tile + i / QUADS, p.rows - 1u), place.head) + i % QUADS;
        query_tile[i] = q[at];
        cotangent_tile[i] = dy[at];
    }
    for (var i = lane; i < TILE; i += LANES) {
        let row = min(tile + i, p.rows - 1u);
        stat_tile[i] = stats[row * p.heads + place.head];
        word_tile[i] = info[1u + row].w;
    }
    for (var i = lane; i < TILE * KEY_QUADS * DROPOUT; i += LANES) {
        let query = info[1u + min(tile + i / KEY_QUADS, p.rows - 1u)];
        kept_tile[i] = kept(query, place.head, key_words(place.first + 4u * (i % KEY_QUADS), place.last));
    }
}

fn stat_at(row: u32, tile: u32, head: u32) -> vec2<f32> {
    if (STAGED == 1u) {
        return stat_tile[row - tile];
    }
    return stats[row * p.heads + head];
}

// The words of four neighbouring keys.
fn key_words(row: u32, last: u32) -> vec4<u32> {
    let rows = min(vec4<u32>(row) + FOUR, vec4<u32>(last));
    return vec4<u32>(info[1u + rows.x].w, info[1u + rows.y].w, info[1u + rows.z].w, info[1u + rows.w].w);
}

// Bit r: whether a query keeps the thread's key r of up to four. Without dropout keep_scale is 1.
fn kept_own(row: u32, tile: u32, head: u32, lane: u32, own_words: vec4<u32>) -> u32 {
    if (DROPOUT == 0u) {
        return 0xffffffffu;
    }
    if (STAGED == 1u) {
        return kept_tile[(row - tile) * KEY_QUADS + lane / 4u] >> (lane % 4u);
    }
    return kept(info[1u + row], head, own_words);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = place_of(flat_group(group), lane);
    let head = own_head(place, lane);
    let row0 = own_first(place, lane);
    var key: array<vec4<f32>, ROWS * QUADS>;
    var value: array<vec4<f32>, ROWS * QUADS>;
    var key_sum: array<vec4<f32>, ROWS * QUADS>;
    var value_sum: array<vec4<f32>, ROWS * QUADS>;
    var own: array<vec4<u32>, ROWS>;
    //unroll r in ROWS
    {
        let row = min(row0 + $r, place.last);
        own[$r] = info[1u + row];
        //unroll d in QUADS
        key[$r * QUADS + $d] = p.scale * k[own_quad(row, head) + $d];
        value[$r * QUADS + $d] = v[own_quad(row, head) + $d];
        key_sum[$r * QUADS + $d] = vec4<f32>(0.0);
        value_sum[$r * QUADS + $d] = vec4<f32>(0.0);
        //end
    }
    //end
    let own_words = key_words(row0, place.last);

    // Queries before a key see it only when nothing is causal, or when some see everything.
    let earlier = p.causal == 0u || p.flags == 1u;
    let first = max(own[0].x, select(min(row0, own[0].y), 0u, earlier));
    let group_own = info[1u + place.first];
    let low = max(group_own.x, select(min(place.first, group_own.y), 0u, earlier));
    let high = select(low, info[1u + place.last].y, place.live);
    let start = select(low, first, STAGED == 1u);
    let end = select(high, own[ROWS - 1u].y, STAGED == 1u);
    let step = select(max(high, low + 1u) - low, TILE, STAGED == 1u);
    for (var tile = low; tile < high; tile += step) {
        if (STAGED == 1u) {
            tileBarrier();
            stage_queries(tile, place, lane);
            tileBarrier();
        }
        let stop = min(end, tile + step);
        for (var i = max(start, tile); i < stop; i += PASSING) {
            //unroll c in PASSING
            {
                let row = min(i + $c, stop - 1u);
                let at = passing_quad(row, tile, head);
                var query_part: array<vec4<f32>, PART>;
                var cotangent_part: array<vec4<f32>, PART>;
                if (STAGED == 0u) {
                    //unroll d in PART
                    query_part[$d] = q[at + own_part(lane) + $d];
                    cotangent_part[$d] = dy[at + own_part(lane) + $d];
                    //end
                }
                var scores: array<vec4<f32>, ROWS>;
                var dps: array<vec4<f32>, ROWS>;
                //unroll r in ROWS
                scores[$r] = vec4<f32>(0.0);
                dps[$r] = vec4<f32>(0.0);
                //end
                //unroll d in QUADS
                {
                    var query = handed(query_part[$d % PART], lane, $d / PART);
                    var cotangent = handed(cotangent_part[$d % PART], lane, $d / PART);
                    if (STAGED == 1u) {
                        query = query_tile[at + $d];
                        cotangent = cotangent_tile[at + $d];
                    }
                    //unroll r in ROWS
                    scores[$r] += key[$r * QUADS + $d] * query;
                    dps[$r] += value[$r * QUADS + $d] * cotangent;
                    //end
                }
                //end
                let stat = stat_at(row, tile, head);
                let sees_all = (passing_word(row, tile) & 2u) != 0u;
                let bits = kept_own(row, tile, head, lane, own_words);
                var weight: array<f32, ROWS>;
                var ds: array<f32, ROWS>;
                //unroll r in ROWS
                {
                    // Counted from the start of the key's sequence; a query before it wraps around to a large number.
                    let nth = i + $c - own[$r].x;
                    let inside = nth < max(min(own[$r].y, stop), own[$r].x) - own[$r].x;
                    let after = p.causal == 0u || nth >= row0 + $r - own[$r].x;
                    let seen = inside && (sees_all || (after && (own[$r].w & 1u) == 1u));
                    // The score of a query that does not see the key may lie far above lse: no overflow.
                    let exponent = min(dot(scores[$r], vec4<f32>(1.0)) - stat.x, 0.5);
                    let probability = select(0.0, exp(exponent), seen);
                    weight[$r] = select(0.0, p.keep_scale * probability, (bits & (1u << $r)) != 0u);
                    ds[$r] = p.scale * (weight[$r] * dot(dps[$r], vec4<f32>(1.0)) - probability * stat.y);
                }
                //end
                //unroll d in QUADS
                {
                    var query = handed(query_part[$d % PART], lane, $d / PART);
                    var cotangent = handed(cotangent_part[$d % PART], lane, $d / PART);
                    if (STAGED == 1u) {
                        query = query_tile[at + $d];
                        cotangent = cotangent_tile[at + $d];
                    }
                    //unroll r in ROWS
                    key_sum[$r * QUADS + $d] += ds[$r] * query;
                    value_sum[$r * QUADS + $d] += weight[$r] * cotangent;
                    //end
                }
                //end
            }
            //end
        }
    }

    //unroll r in ROWS
    if (place.live && row0 + $r < p.rows) {
        //unroll d in QUADS
        dk[own_quad(row0 + $r, head) + $d] = key_sum[$r * QUADS + $d];
        dv[own_quad(row0 + $r, head) + $d] = value_sum[$r * QUADS + $d];
        //end
    }
    //end
}
