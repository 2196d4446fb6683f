// dq of attention: dq_i = scale sum_j ds_ij k_j with ds_ij = p_ij (keep_ij <dy_i, v_j> - delta_i), p recomputed from lse.
// A thread owns ROWS query rows of one head and walks through the keys that they see, as the forward kernel does.
//include grid
//include philox
//include attention
//include attention_staged if STAGED=1
//include attention_spread if STAGED=0
//include attention_alone if TOGETHER=0
//include attention_together if TOGETHER=1
//include attention_keys
@group(0) @binding(5) var<storage, read> stats: array<vec2<f32>>;       // (rows, heads): lse, delta
@group(0) @binding(6) var<storage, read> dy: array<vec4<f32>>;          // (rows, heads, QUADS)
@group(0) @binding(7) var<storage, read_write> dq: array<vec4<f32>>;    // (rows, heads, QUADS)

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = place_of(flat_group(group), lane);
    let head = own_head(place, lane);
    let row0 = own_first(place, lane);
    var query: array<vec4<f32>, ROWS * QUADS>;
    var cotangent: array<vec4<f32>, ROWS * QUADS>;
    var sum: array<vec4<f32>, ROWS * QUADS>;
    var own: array<vec4<u32>, ROWS>;
    var stat: array<vec2<f32>, ROWS>;
    var end: array<u32, ROWS>;
    var stop = 0u;
    //unroll r in ROWS
    {
        let row = min(row0 + $r, place.last);
        own[$r] = info[1u + row];
        stat[$r] = stats[row * p.heads + head];
        end[$r] = keys_end(own[$r], row);
        stop = max(stop, end[$r]);
        //unroll d in QUADS
        query[$r * QUADS + $d] = p.scale * q[own_quad(row, head) + $d];
        cotangent[$r * QUADS + $d] = dy[own_quad(row, head) + $d];
        sum[$r * QUADS + $d] = vec4<f32>(0.0);
        //end
    }
    //end

    let range = keys_of_group(place);
    let start = select(range.x, own[0].x, STAGED == 1u);
    stop = select(range.y, stop, STAGED == 1u);
    let step = select(max(range.y - range.x, 1u), TILE, STAGED == 1u);
    for (var tile = range.x; tile < range.y; tile += step) {
        if (STAGED == 1u) {
            tileBarrier();
            stage_keys(tile, head, lane);
            tileBarrier();
        }
        let tile_stop = min(stop, tile + step);
        var j = max(start, tile);
        while (j < tile_stop) {
            let rows = min(vec4<u32>(j) + FOUR, vec4<u32>(tile_stop - 1u));
            let words = words_of(rows, tile);
            let run = run_of_keys(words, tile_stop - j);
            var seen: array<vec4<bool>, ROWS>;
            var keep: array<vec4<f32>, ROWS>;
            //unroll r in ROWS
            seen[$r] = seen_keys(own[$r], j, min(end[$r], j + run), words);
            keep[$r] = keep_factors(own[$r], head, words);
            //end
            //unroll c in 4 if WRITTEN_OUT
            {
                let at = passing_quad(rows[$c], tile, head);
                var key_part: array<vec4<f32>, PART>;
                var value_part: array<vec4<f32>, PART>;
                if (STAGED == 0u) {
                    //unroll d in PART
                    key_part[$d] = k[at + own_part(lane) + $d];
                    value_part[$d] = v[at + own_part(lane) + $d];
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
                    var key = handed(key_part[$d % PART], lane, $d / PART);
                    var value = handed(value_part[$d % PART], lane, $d / PART);
                    if (STAGED == 1u) {
                        key = key_tile[at + $d];
                        value = value_tile[at + $d];
                    }
                    //unroll r in ROWS
                    scores[$r] += query[$r * QUADS + $d] * key;
                    dps[$r] += cotangent[$r * QUADS + $d] * value;
                    //end
                }
                //end
                var ds: array<f32, ROWS>;
                //unroll r in ROWS
                {
                    let dp = keep[$r][$c] * dot(dps[$r], vec4<f32>(1.0));
                    // The score of a key that is not seen may lie far above lse: its exponential must not overflow.
                    let probability = exp(min(dot(scores[$r], vec4<f32>(1.0)) - stat[$r].x, 0.5));
                    ds[$r] = select(0.0, p.scale * probability * (dp - stat[$r].y), seen[$r][$c]);
                }
                //end
                //unroll d in QUADS
                {
                    var key = handed(key_part[$d % PART], lane, $d / PART);
                    if (STAGED == 1u) {
                        key = key_tile[at + $d];
                    }
                    //unroll r in ROWS
                    sum[$r * QUADS + $d] += ds[$r] * key;
                    //end
                }
                //end
            }
            //end
            j += run;
        }
    }

    //unroll r in ROWS
    if (place.live && row0 + $r < p.rows) {
        //unroll d in QUADS
        dq[own_quad(row0 + $r, head) + $d] = sum[$r * QUADS + $d];
        //end
    }
    //end
}
