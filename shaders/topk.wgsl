// Merges a chunk of scores into each row's list: k rounds, each of which finds the best candidate after the one before
// in the order (score descending, item ascending), among the chunk and the list so far. A workgroup owns a row.
//include grid
struct Params { rows: u32, len: u32, first: u32, k: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> z: array<f32>;                // (rows, len)
@group(0) @binding(2) var<storage, read_write> values: array<f32>;     // (rows, k)
@group(0) @binding(3) var<storage, read_write> indices: array<u32>;    // (rows, k)

var<workgroup> list_values: array<f32, 256>;
var<workgroup> list_items: array<u32, 256>;
var<workgroup> best_values: array<f32, 64>;
var<workgroup> best_items: array<u32, 64>;

// Whether (a, i) ranks before (b, j).
fn before(a: f32, i: u32, b: f32, j: u32) -> bool {
    return a > b || (a == b && i < j);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let inside = flat_group(group) < p.rows;
    let row = select(0u, flat_group(group), inside);
    for (var i = lane; i < p.k; i += 64u) {
        list_values[i] = select(values[row * p.k + i], -1e30, p.first == 0u);
        list_items[i] = select(indices[row * p.k + i], 0xffffffffu, p.first == 0u);
    }
    workgroupBarrier();
    var last_value = 0.0;
    var last_item = 0u;
    for (var round = 0u; round < p.k; round += 1u) {
        var value = -1e30;
        var item = 0xffffffffu;
        for (var i = lane; i < p.k; i += 64u) {
            let after = round == 0u || before(last_value, last_item, list_values[i], list_items[i]);
            if (after && before(list_values[i], list_items[i], value, item)) {
                value = list_values[i];
                item = list_items[i];
            }
        }
        for (var i = lane; i < p.len; i += 64u) {
            let score = z[row * p.len + i];
            let after = round == 0u || before(last_value, last_item, score, p.first + i);
            if (after && score > -1e30 && before(score, p.first + i, value, item)) {
                value = score;
                item = p.first + i;
            }
        }
        best_values[lane] = value;
        best_items[lane] = item;
        workgroupBarrier();
        for (var half = 32u; half > 0u; half /= 2u) {
            if (lane < half) {
                if (before(best_values[lane + half], best_items[lane + half], best_values[lane], best_items[lane])) {
                    best_values[lane] = best_values[lane + half];
                    best_items[lane] = best_items[lane + half];
                }
            }
            workgroupBarrier();
        }
        last_value = best_values[0];
        last_item = best_items[0];
        if (lane == 0u && inside) {
            values[row * p.k + round] = last_value;
            indices[row * p.k + round] = last_item;
        }
        workgroupBarrier();
    }
}
