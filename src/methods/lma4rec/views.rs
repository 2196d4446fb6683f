//! Batches of LMA4Rec: sequences and their augmented views.

use super::{COPIES, Lma4RecConfig, Representation};
use crate::data::augment::{AugmentConfig, SimilarityKind, augment};
use crate::data::pack::INERT;
use crate::data::sample::UserItems;
use crate::data::{Interactions, Packed, Similarity, trainable_users};
use crate::engine::rng::{RngState, Site};
use crate::engine::{Feed, Tensor};
use crate::error::Result;
use crate::methods::batch::{feed_ids, token_batch};
use crate::methods::embedding_similarity::by_embeddings;
use crate::methods::next_item::BatchRows;
use crate::methods::{Batch, ReadParameter, Sampler};
use crate::ops::attention::{KEY_VISIBLE, QUERY_UNMASKED};
use std::sync::Arc;

/// Makes batches: all originals, then all first views, then all second views.
#[derive(Clone)]
pub struct Views {
    pub config: Lma4RecConfig,
    pub padding_item: u32,
    pub data: Arc<Interactions>,
    pub owned: Arc<UserItems>,
    pub similar: Option<Neighbours>,
}

/// The similar items that Insert and Substitute put in.
#[derive(Clone)]
pub struct Neighbours {
    /// By users in common.
    pub offline: Arc<Similarity>,
    /// Those of this epoch.
    pub current: Arc<Similarity>,
}

impl Neighbours {
    pub fn new(offline: Similarity) -> Self {
        let offline = Arc::new(offline);
        Neighbours { current: offline.clone(), offline }
    }

    pub fn with_online(&self, online: &Similarity) -> Self {
        Neighbours { current: Arc::new(self.offline.or_closer(online)), offline: self.offline.clone() }
    }
}

/// Draws of the augmentation operators: one stream per user, view and step.
const AUGMENTATION: Site = Site(0xA06);

impl Views {
    /// The neighbours of an epoch that looks at the embeddings.
    pub fn refreshed(&self, epoch: usize, parameter: ReadParameter) -> Result<Option<Neighbours>> {
        let AugmentConfig { similarity, warm_up, .. } = self.config.augment;
        match &self.similar {
            Some(similar) if similarity == SimilarityKind::Hybrid && epoch > warm_up => {
                let online = by_embeddings(&parameter("item_table")?, self.config.encoder.dim, self.data.n_items());
                Ok(Some(similar.with_online(&online)))
            }
            _ => Ok(None),
        }
    }

    /// The augmented items of one view; under `flatten` padded on the left to `max_len`.
    fn view(&self, similar: Option<&Similarity>, history: &[u32], logical: u32, rng: RngState) -> Vec<u32> {
        let mut items = match similar {
            Some(similar) => {
                let mut stream = rng.stream(AUGMENTATION, logical);
                augment(&self.config.augment, similar, &mut stream, history, self.padding_item)
            }
            None => history.to_vec(),
        };
        let max_len = self.config.encoder.max_len;
        if self.config.representation == Representation::Flatten && items.len() < max_len {
            let mut padded = vec![self.padding_item; max_len - items.len()];
            padded.append(&mut items);
            items = padded;
        }
        items
    }

    /// Items may be attended to, padding may not. A row with no item up to it attends to its whole sequence, which is
    /// what CoSeRec's additive mask amounts to.
    fn row_flags(&self, packed: &Packed) -> Vec<u32> {
        let mut flags = vec![0; packed.n_rows()];
        for ends in packed.cu_seqlens.windows(2) {
            let own = ends[0] as usize..ends[1] as usize;
            let mut any_item = false;
            for (flag, item) in flags[own.clone()].iter_mut().zip(&packed.items[own]) {
                let is_item = *item != self.padding_item;
                any_item |= is_item;
                *flag = if is_item { KEY_VISIBLE } else { 0 } | if any_item { 0 } else { QUERY_UNMASKED };
            }
        }
        flags
    }

    fn feed_views(&self, feed: &mut Feed, packed: &Packed, users: usize) {
        feed.set("row_flags", Tensor::u32(&[packed.n_rows()], &self.row_flags(packed)));
        let view_rows: Vec<u32> = match self.config.representation {
            Representation::Flatten => (packed.cu_seqlens[users]..packed.cu_seqlens[COPIES * users]).collect(),
            Representation::Last => packed.last_rows()[users..].to_vec(),
        };
        feed_ids(feed, "view_rows", &view_rows);
        let pair = |offset: usize| {
            let one = (offset..offset + users).map(|i| i as u32);
            std::iter::repeat_n(INERT, users).chain(one.clone()).chain(one).collect::<Vec<u32>>()
        };
        feed.set("pair_first", Tensor::u32(&[COPIES * users], &pair(0)));
        feed.set("pair_second", Tensor::u32(&[COPIES * users], &pair(users)));
    }
}

impl Sampler for Views {
    fn samples(&self) -> Vec<u32> {
        trainable_users(&self.data)
    }

    fn of_epoch(&self, epoch: usize, parameter: ReadParameter) -> Result<Option<Arc<dyn Sampler>>> {
        let refreshed = self.refreshed(epoch, parameter)?;
        Ok(refreshed.map(|similar| Arc::new(Views { similar: Some(similar), ..self.clone() }) as Arc<dyn Sampler>))
    }

    fn batch(&self, users: &[u32], rng: RngState) -> Result<Batch> {
        let similar = self.similar.as_ref().map(|similar| similar.current.as_ref());
        let copies = if self.config.ssl { COPIES as u32 } else { 1 };
        let mut packed = Packed::new();
        for copy in 0..copies {
            for &user in users {
                let (history, logical) = (self.data.train_input(user as usize), user * COPIES as u32 + copy);
                match copy {
                    0 => packed.push(logical, history, self.config.encoder.max_len),
                    _ => {
                        let view = self.view(similar, history, logical, rng);
                        packed.push(logical, &view, self.config.encoder.max_len);
                    }
                }
            }
        }
        let mut batch = token_batch(&mut packed, Some(self.padding_item), Some(rng));
        let rows = BatchRows { packed: &packed, users, data: &self.data, owned: &self.owned };
        self.config.next_item.feed(&mut batch.feed, &rows, rng);
        if self.config.ssl {
            self.feed_views(&mut batch.feed, &packed, users.len());
        }
        let mut row_sequence = vec![INERT; packed.n_rows()];
        for (s, ends) in (0..).zip(packed.cu_seqlens.windows(2)) {
            row_sequence[ends[0] as usize..ends[1] as usize].fill(s);
        }
        batch.feed.set("row_sequence", Tensor::u32(&[row_sequence.len()], &row_sequence));
        Ok(batch)
    }
}
