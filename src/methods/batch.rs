//! From packed sequences to the feed of a graph with `nn::Tokens`.

use super::{Batch, Request, Shape};
use crate::data::Packed;
use crate::data::pack::{INERT, row_bucket};
use crate::engine::rng::RngState;
use crate::engine::{Feed, Tensor};
use crate::ops::segments::segments;

/// The batch of these sequences, for training but for what the loss reads. Inert rows are added to `packed`, up to a bucket.
pub fn token_batch(packed: &mut Packed, padding_item: Option<u32>, training: Option<RngState>) -> Batch {
    let tokens = packed.n_rows();
    packed.pad_to(row_bucket(tokens), INERT);
    let mut feed = Feed::default();
    feed_tokens(&mut feed, packed, padding_item, training);
    Batch { shape: Shape::new(packed.n_sequences(), packed.n_rows()), feed, tokens }
}

/// The batch of these histories, the last `max_len` items of each, for a graph with `Tokens::for_scoring`.
pub fn scoring_batch(requests: &[Request], max_len: usize) -> Batch {
    let mut packed = Packed::new();
    (0..).zip(requests).for_each(|(i, request)| packed.push(i, request.history, max_len));
    token_batch(&mut packed, None, None)
}

/// Feeds the token inputs. `padding_item` is the row of the item table that is read but not trained, if there is one.
/// `training` adds what only gradients and random numbers need.
pub fn feed_tokens(feed: &mut Feed, packed: &Packed, padding_item: Option<u32>, training: Option<RngState>) {
    let rows = packed.n_rows();
    let mut set = |name: &str, shape: &[usize], data: &[u32]| feed.set(name, Tensor::u32(shape, data));
    set("cu_seqlens", &[packed.cu_seqlens.len()], &packed.cu_seqlens);
    set("items", &[rows], &packed.items);
    set("positions", &[rows], &packed.positions);
    let Some(rng) = training else {
        let last_rows = packed.last_rows();
        return set("last_rows", &[last_rows.len()], &last_rows);
    };
    let row_keys: Vec<u32> = packed.sequence.iter().zip(&packed.positions).flat_map(|(s, p)| [*s, *p]).collect();
    set("row_keys", &[rows, 2], &row_keys);
    set("rng", &[4], &rng.words());
    // Inert rows read some position but must not be counted in its gradient.
    let live = |(s, p): (&u32, &u32)| if *s == INERT { INERT } else { *p };
    let positions: Vec<u32> = packed.sequence.iter().zip(&packed.positions).map(live).collect();
    feed.set("item_segments", segments(&packed.items, padding_item));
    feed.set("position_segments", segments(&positions, None));
}

/// Feeds `name[N]` and `name_segments` for a gather that is differentiated.
pub fn feed_ids(feed: &mut Feed, name: &str, ids: &[u32]) {
    feed.set(name, Tensor::u32(&[ids.len()], ids));
    feed.set(&format!("{name}_segments"), segments(ids, None));
}
