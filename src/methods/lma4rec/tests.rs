use super::*;
use crate::engine::Executor;
use crate::engine::exec::DeviceChoice;
use crate::engine::rng::RngState;
use crate::error::Error;
use crate::methods::{config, find};

fn six_users() -> Arc<Interactions> {
    let sequences: Vec<Vec<u32>> = (0..6u32).map(|u| (0..8).map(|i| (3 * u + 2 * i) % 11 + 1).collect()).collect();
    Arc::new(Interactions::from_sequences("walks", &sequences))
}

fn configured(name: &str, settings: &[&str]) -> Lma4RecConfig {
    let small = ["dim=8", "inner_dim=16", "max_len=6"];
    let settings: Vec<String> = small.iter().chain(settings).map(|s| s.to_string()).collect();
    typed(&config::resolve(find(name).unwrap(), None, None, &settings).unwrap()).unwrap()
}

/// ARM's gradients of the keep logits, where the masks of the second pass are the antithetic ones or those of the first.
fn keep_gradients(antithetic: bool) -> Vec<f32> {
    let data = six_users();
    let method = Lma4Rec { config: configured("lma4rec", &["mode=paper"]), n_items: data.n_items() };
    let rng = RngState { seed: 2, step: 1 };
    let batch = method.sampler(data).unwrap().batch(&[0, 1, 2, 3, 4, 5], rng).unwrap();
    let mut graph = Graph::new(ParamLayout::default());
    let inputs = Inputs::declare(&method, &mut graph, batch.shape);
    let (a, loss) = method.forward(&mut graph, &inputs, None, false).unwrap();
    let (b, _) = method.forward(&mut graph, &inputs, Some(&loss), antithetic).unwrap();
    let gradients = method.arm(&mut graph, &inputs, &a, &b, loss.weight).unwrap();
    let names: Vec<String> = (0..gradients.len()).map(|block| format!("block{block}")).collect();
    names.iter().zip(gradients.values()).for_each(|(name, value)| graph.output(name, *value));
    let mut executor: Box<dyn Executor> = DeviceChoice::Reference.open(1).unwrap();
    let layout = graph.layout.clone();
    executor.load(&layout, &layout.initial_state(1)).unwrap();
    let plan = executor.compile(graph).unwrap();
    executor.run(plan, &batch.feed).unwrap();
    names.iter().map(|name| executor.fetch(plan, name).unwrap().words[0]).collect()
}

/// The reference executor computes both passes, so this proves that they share all noise but their masks.
#[test]
fn with_the_masks_of_the_first_pass_the_second_pass_changes_nothing() {
    assert_eq!(keep_gradients(false), [0.0, 0.0]);
    assert!(keep_gradients(true).iter().all(|gradient| *gradient != 0.0));
}

#[test]
fn methods_that_share_this_code_differ_from_it_by_their_presets() {
    for mode in ["mode=paper", "mode=quality"] {
        let [lma4rec, coserec, cl4srec] = ["lma4rec", "coserec", "cl4srec"].map(|name| configured(name, &[mode]));
        assert!(lma4rec.lma && !coserec.lma && !cl4srec.lma);
        assert_eq!(cl4srec.augment.short_threshold, 0);
        assert_eq!(String::from(cl4srec.augment.long_set), "CMR");
        for config in [&coserec.training, &cl4srec.training] {
            assert_eq!(*config, lma4rec.training);
        }
    }
}

/// The similar item of item 0 in the first epochs, under embeddings that put item 4 beside it.
fn neighbours_of_item_0(settings: &[&str]) -> Vec<u32> {
    let data = six_users();
    let method = Lma4Rec { config: configured("coserec", settings), n_items: data.n_items() };
    let mut table = vec![0.0; (data.n_items() + 1) * 8];
    (table[0], table[4 * 8]) = (1.0, 1.0);
    let offline = Similarity::item_cf(&data);
    let views = Views {
        config: method.config.clone(),
        padding_item: method.padding_item(),
        owned: Arc::new(UserItems::new(&data)),
        similar: Some(Neighbours::new(offline)),
        data,
    };
    let epoch = |epoch| {
        let mut read = |name: &str| (name == "item_table").then(|| table.clone()).ok_or(Error::graph(name, "unknown"));
        let neighbours = views.refreshed(epoch, &mut read).unwrap().or_else(|| views.similar.clone()).unwrap();
        neighbours.current.top1(0).unwrap().0
    };
    (1..=3).map(epoch).collect()
}

#[test]
fn embeddings_speak_after_the_warm_up_and_only_where_the_similarity_is_hybrid() {
    let offline = Similarity::item_cf(&six_users()).top1(0).unwrap().0;
    assert_ne!(offline, 4);
    let hybrid = ["augment.similarity=hybrid", "augment.warm_up=2"];
    assert_eq!(neighbours_of_item_0(&hybrid), [offline, offline, 4]);
    assert_eq!(neighbours_of_item_0(&["augment.similarity=offline", "augment.warm_up=0"]), [offline; 3]);
}
