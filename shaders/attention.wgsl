// y = softmax(scale q k^T) v per sequence, by online softmax over four keys at a time. A thread owns ROWS query rows of one
// head and walks through the keys that they see; threads in one sequence start at the same key, so that they read the same
// words at the same time.
//include grid
//include philox
//include attention
//include attention_staged if STAGED=1
//include attention_spread if STAGED=0
//include attention_alone if TOGETHER=0
//include attention_together if TOGETHER=1
//include attention_keys
@group(0) @binding(5) var<storage, read_write> y: array<vec4<f32>>;    // (rows, heads, QUADS)
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;        // (rows, heads)

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = place_of(flat_group(group), lane);
    let head = own_head(place, lane);
    let row0 = own_first(place, lane);
    var query: array<vec4<f32>, ROWS * QUADS>;
    var mix: array<vec4<f32>, ROWS * QUADS>;
    var own: array<vec4<u32>, ROWS>;
    var end: array<u32, ROWS>;
    var peak: array<f32, ROWS>;
    var total: array<f32, ROWS>;
    var stop = 0u;
    //unroll r in ROWS
    {
        let row = min(row0 + $r, place.last);
        own[$r] = info[1u + row];
        end[$r] = keys_end(own[$r], row);
        stop = max(stop, end[$r]);
        peak[$r] = -1e30;
        total[$r] = 0.0;
        //unroll d in QUADS
        query[$r * QUADS + $d] = p.scale * q[own_quad(row, head) + $d];
        mix[$r * QUADS + $d] = vec4<f32>(0.0);
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
            var score: array<vec4<f32>, ROWS>;
            //unroll c in 4 if WRITTEN_OUT
            {
                let at = passing_quad(rows[$c], tile, head);
                var part: array<vec4<f32>, PART>;
                if (STAGED == 0u) {
                    //unroll d in PART
                    part[$d] = k[at + own_part(lane) + $d];
                    //end
                }
                var products: array<vec4<f32>, ROWS>;
                //unroll r in ROWS
                products[$r] = vec4<f32>(0.0);
                //end
                //unroll d in QUADS
                {
                    var key = handed(part[$d % PART], lane, $d / PART);
                    if (STAGED == 1u) {
                        key = key_tile[at + $d];
                    }
                    //unroll r in ROWS
                    products[$r] += query[$r * QUADS + $d] * key;
                    //end
                }
                //end
                //unroll r in ROWS
                score[$r][$c] = dot(products[$r], vec4<f32>(1.0));
                //end
            }
            //end
            var weight: array<vec4<f32>, ROWS>;
            //unroll r in ROWS
            {
                let seen = seen_keys(own[$r], j, min(end[$r], j + run), words);
                let s = select(vec4<f32>(-1e30), score[$r], seen);
                let new_peak = max(peak[$r], max(max(s.x, s.y), max(s.z, s.w)));
                let shrink = exp(peak[$r] - new_peak);
                let terms = select(vec4<f32>(0.0), exp(s - vec4<f32>(new_peak)), seen);
                peak[$r] = new_peak;
                total[$r] = total[$r] * shrink + dot(terms, vec4<f32>(1.0));
                weight[$r] = terms * keep_factors(own[$r], head, words);
                //unroll d in QUADS
                mix[$r * QUADS + $d] *= shrink;
                //end
            }
            //end
            //unroll c in 4 if WRITTEN_OUT
            {
                let at = passing_quad(rows[$c], tile, head);
                var part: array<vec4<f32>, PART>;
                if (STAGED == 0u) {
                    //unroll d in PART
                    part[$d] = v[at + own_part(lane) + $d];
                    //end
                }
                //unroll d in QUADS
                {
                    var value = handed(part[$d % PART], lane, $d / PART);
                    if (STAGED == 1u) {
                        value = value_tile[at + $d];
                    }
                    //unroll r in ROWS
                    mix[$r * QUADS + $d] += weight[$r][$c] * value;
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
        let seen = total[$r] > 0.0;
        let inverse = select(0.0, 1.0 / total[$r], seen);
        lse[(row0 + $r) * p.heads + head] = select(-1e30, peak[$r] + log(total[$r]), seen);
        //unroll d in QUADS
        y[own_quad(row0 + $r, head) + $d] = mix[$r * QUADS + $d] * inverse;
        //end
    }
    //end
}
