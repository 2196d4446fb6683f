use super::*;
use crate::engine::exec::DeviceChoice;
use crate::methods::config;
use crate::ops::step_mix::Noise;
use crate::train::Ranker;
use crate::train::trainer::layout_of;
use std::cell::Cell;
use std::rc::Rc;

const MASKS: [&str; 2] = ["slot_mask=prefix", "slot_mask=bidirectional"];

fn method(settings: &[&str]) -> DiffRec {
    let small = ["dim=8", "inner_dim=16", "max_len=6", "steps=30", "samples=3"];
    let as_in_the_paper = ["slot_from_last=false", "noised_scale=1", "step_scale=1", "mse_weight=1"];
    let settings: Vec<String> = small.iter().chain(&as_in_the_paper).chain(settings).map(|s| s.to_string()).collect();
    let config = config::resolve(&INFO, None, None, &settings).unwrap();
    DiffRec { config: checked(typed(&config).unwrap()).unwrap(), n_items: 11 }
}

fn walks(users: u32) -> Vec<Vec<u32>> {
    (0..users).map(|u| (0..2 + u % 7).map(|i| (3 * u + 2 * i) % 11).collect()).collect()
}

/// What `ask` reads from a ranker with initial parameters, which are large enough to tell histories apart.
fn with_ranker<T>(method: &DiffRec, ask: impl FnOnce(&mut Ranker, &mut dyn crate::engine::Executor) -> T) -> T {
    let layout = layout_of(method).unwrap();
    let none = Interactions::from_sequences::<Vec<u32>>("nobody", &[]);
    let mut executor = DeviceChoice::Cpu.open(1).unwrap();
    executor.load(&layout, &method.initial_state(&layout, 3, &none)).unwrap();
    ask(&mut Ranker::new(method, layout), executor.as_mut())
}

#[test]
fn lists_do_not_depend_on_how_many_are_asked_for_together() {
    let walks = walks(40);
    let requests: Vec<Request> = walks.iter().map(|history| Request::new(history)).collect();
    for (mask, inference) in MASKS.into_iter().flat_map(|mask| [(mask, "jump"), (mask, "chain")]) {
        let method = method(&[mask, "init_std=0.5", "item_init_std=0.5", &format!("inference={inference}")]);
        with_ranker(&method, |ranker, executor| {
            let together = ranker.top_k(executor, &requests, 4, false).unwrap();
            let by_seven = requests.chunks(7).flat_map(|some| ranker.top_k(executor, some, 4, false).unwrap());
            assert!(by_seven.eq(together.iter().cloned()), "{mask} {inference}");
            assert!(together.iter().flatten().all(|(_, score)| *score > 0.0 && *score < 1.0));
            assert_ne!(together[0], together[1]);
        });
    }
}

#[test]
fn whoever_watches_is_told_of_every_step_of_a_chain() {
    let walks = walks(300);
    let requests: Vec<Request> = walks.iter().map(|history| Request::new(history)).collect();
    for (inference, runs) in [("jump", 2), ("chain", 2 * (1 + 2))] {
        let method = method(&[MASKS[0], &format!("inference={inference}"), "steps=40"]);
        with_ranker(&method, |ranker, executor| {
            let told = Rc::new(Cell::new(0));
            let watch = told.clone();
            ranker.watch(Box::new(move || {
                watch.set(watch.get() + 1);
                Ok(())
            }));
            ranker.top_k(executor, &requests, 4, false).unwrap();
            assert_eq!((told.get(), ranker.runs(requests.len())), (runs, runs), "{inference}");
        });
    }
}

/// The query of each sample of each request.
fn queries(settings: &[&str], requests: &[Request]) -> Vec<f32> {
    let method = method(&[&["init_std=0.5", "item_init_std=0.5"], settings].concat());
    let batch = method.scoring_batch(requests);
    with_ranker(&method, |_, executor| {
        let mut graph = Graph::new(layout_of(&method).unwrap());
        let tokens = Tokens::for_scoring(&mut graph, batch.shape.sequences, batch.shape.rows);
        let scorer = method.scorer(&mut graph, &tokens).unwrap();
        graph.output("query", scorer.query);
        let plan = executor.compile(graph).unwrap();
        executor.run(plan, &batch.feed).unwrap();
        executor.fetch(plan, "query").unwrap().words
    })
}

#[test]
fn a_sample_is_the_same_whatever_the_others() {
    let walks = walks(5);
    let requests: Vec<Request> = walks.iter().map(|history| Request::new(history)).collect();
    for mask in MASKS {
        let (one, four) = (queries(&[mask, "samples=1"], &requests), queries(&[mask, "samples=4"], &requests));
        let firsts: Vec<&[f32]> = four.chunks(4 * 8).map(|of_request| &of_request[..8]).collect();
        assert_eq!(one, firsts.concat(), "{mask}");
        assert_ne!(four[..8], four[8..16]);
    }
}

#[test]
fn what_a_slot_holds_is_scaled_and_joined_by_the_last_item() {
    let walks = walks(1);
    let requests = [Request::new(&walks[0])];
    for mask in MASKS {
        let of = |settings: &[&str]| queries(&[&[mask, "samples=2"], settings].concat(), &requests);
        let silent = of(&["noised_scale=0"]);
        assert_eq!(silent[..8], silent[8..], "no noise is left to tell samples apart");
        assert_ne!(of(&["noised_scale=0.5"]), of(&[]));
        assert_eq!(of(&["step_scale=0"]), of(&["step_embedding=false"]));
        assert_ne!(of(&["slot_from_last=true"]), of(&[]), "{mask}");
    }
}

#[test]
fn the_noisy_slot_has_the_mean_and_the_variance_of_its_step() {
    let [signal, spread] = Schedule::new(Noise::Sqrt, 1000).q_sample(500);
    let mut eps = vec![0.0; 1_000_000];
    RngState { seed: 8, step: 500 }.normals(NOISE, 1, 49, &mut eps);
    let (n, h0) = (eps.len() as f64, 0.7);
    let noised = || eps.iter().map(|eps| signal * h0 + spread * f64::from(*eps));
    let mean = noised().sum::<f64>() / n;
    let variance = noised().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    assert!((signal - 0.543857).abs() < 1e-5 && (spread * spread - 0.704220).abs() < 1e-5);
    assert!((mean - signal * h0).abs() < 4.0 * (0.704220 / n).sqrt());
    assert!((variance - 0.704220).abs() < 4.0 * 0.704220 * (2.0 / n).sqrt());
}

/// Two histories, of one and of five items, with target 9 or 10.
fn batch(settings: &[&str]) -> Batch {
    let data = Interactions::from_sequences("two", &[vec![1, 10, 2, 3], vec![4, 5, 6, 7, 8, 9, 2, 3]]);
    let sampler = method(settings).sampler(Arc::new(data)).unwrap();
    let samples = sampler.samples();
    // The first has one prefix, the last of the second is number 5.
    assert_eq!(samples, [0, 1, 2, 3, 4, 5]);
    sampler.batch(&[0, 5], RngState { seed: 1, step: 1 }).unwrap()
}

#[test]
fn histories_are_followed_by_their_slots_or_stand_beside_them() {
    let rows = |batch: &Batch, name: &str, n: usize| batch.feed.get(name).unwrap().as_u32()[..n].to_vec();
    // Item 10 is called 9, and so on: the names are numbers, and indices begin at 0.
    let beside = batch(&[MASKS[0]]);
    assert_eq!(rows(&beside, "cu_seqlens", 3), [0, 1, 6]);
    assert_eq!(rows(&beside, "items", 7), [0, 3, 4, 5, 6, 7, INERT]);
    assert_eq!(rows(&beside, "positions", 6), [4, 0, 1, 2, 3, 4]);
    assert_eq!((rows(&beside, "target", 2), rows(&beside, "slot_positions", 2)), (vec![9, 8], vec![5, 5]));
    let among = batch(&[MASKS[1]]);
    assert_eq!(rows(&among, "cu_seqlens", 3), [0, 2, 8]);
    assert_eq!(rows(&among, "items", 8), [0, INERT, 3, 4, 5, 6, 7, INERT]);
    assert_eq!(rows(&among, "slot_rows", 2), [1, 7]);
    assert_eq!(rows(&among, "slot_of_row", 9), [INERT, 0, INERT, INERT, INERT, INERT, INERT, 1, INERT]);
    assert_eq!(rows(&among, "sample_of_row", 9), [0, 0, 1, 1, 1, 1, 1, 1, INERT]);
    // With the last item of the history in them.
    let beside = batch(&[MASKS[0], "slot_from_last=true"]);
    assert_eq!((rows(&beside, "slot_items", 2), rows(&beside, "items", 6)), (vec![0, 7], vec![0, 3, 4, 5, 6, 7]));
    let among = batch(&[MASKS[1], "slot_from_last=true"]);
    assert_eq!(rows(&among, "items", 8), [0, 0, 3, 4, 5, 6, 7, 7]);
}

#[test]
fn the_last_items_of_a_history_are_noised_with_the_target() {
    let all = INERT;
    for (count, items) in
        [(3, [[0, 9].to_vec(), vec![all, all, all, 6, 7, 8]].concat()), (0, vec![0, 9, 3, 4, 5, 6, 7, 8])]
    {
        let batch = batch(&[MASKS[1], &format!("noised_items={count}")]);
        let words = |name: &str| batch.feed.get(name).unwrap().clone();
        assert_eq!(words("noised_items").as_u32()[..8], items);
        for (row, noised) in items.iter().enumerate() {
            let clean = words("items").as_u32()[row] != INERT;
            let silent = words("noise").words[8 * row..8 * row + 8].iter().all(|eps| *eps == 0.0);
            assert_eq!((clean, silent), (*noised == INERT, *noised == INERT), "row {row}");
        }
    }
}

#[test]
fn the_squared_error_counts_as_much_as_its_weight_says() {
    let losses = |weight: &str| {
        let settings = [MASKS[0], "hidden_dropout=0", "attention_dropout=0", weight];
        let (method, batch) = (method(&settings), batch(&settings));
        let mut graph = method.train_graph(batch.shape, layout_of(&method).unwrap()).unwrap();
        let metrics = graph.metrics.clone();
        metrics.iter().for_each(|(name, value)| graph.output(name, *value));
        let mut feed = batch.feed;
        for name in crate::nn::optimizers(&graph) {
            crate::nn::optimizer_inputs(&mut feed, name, &method.optimizer(name), 1);
        }
        with_ranker(&method, |_, executor| {
            let plan = executor.compile(graph).unwrap();
            executor.run(plan, &feed).unwrap();
            ["loss_mse", "loss_rec", "loss"].map(|name| executor.fetch(plan, name).unwrap().words[0])
        })
    };
    let ([mse, rec, total], [mse3, rec3, total3]) = (losses("mse_weight=1"), losses("mse_weight=3"));
    assert!(mse > 0.0 && (mse3 - 3.0 * mse).abs() < 1e-6 * mse3, "{mse3} {mse}");
    assert_eq!(rec3, rec);
    assert!((total - (rec + mse)).abs() < 1e-6 * total && (total3 - (rec + mse3)).abs() < 1e-6 * total3);
}
