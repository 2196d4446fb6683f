// Places grouped by id, see src/ops/segments: lists in one array.
struct Params { places: u32, places_per_row: u32, width: u32, first: u32, rows: u32 }

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> segments: array<u32>;    // count, places (places), starts (places + 1), ids (places)
@group(0) @binding(2) var<storage, read> x: array<f32>;           // (places / places_per_row, width)
@group(0) @binding(3) var<storage, read> weights: array<f32>;     // (places) when WEIGHTED

fn segment_start(segment: u32) -> u32 {
    return segments[1u + p.places + segment];
}

fn segment_id(segment: u32) -> u32 {
    return segments[2u + 2u * p.places + segment];
}

// The last segment of an id adds up; the others are summed before.
fn more_follow(segment: u32) -> bool {
    return segment + 1u < segments[0] && segment_id(segment + 1u) == segment_id(segment);
}

// Whether an id lies in the piece of the table at hand.
fn in_table(id: u32) -> bool {
    return id >= p.first && id - p.first < p.rows;
}

fn segment_sum(segment: u32, column: u32) -> f32 {
    var sum = 0.0;
    let end = segment_start(segment + 1u);
    for (var i = segment_start(segment); i < end; i += 1u) {
        let place = segments[1u + i];
        let value = x[(place / p.places_per_row) * p.width + column];
        if (WEIGHTED == 1u) {
            sum += weights[place] * value;
        } else {
            sum += value;
        }
    }
    return sum;
}
