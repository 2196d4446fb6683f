use super::*;
use crate::data::pack::INERT;
use crate::data::{Event, EventLog};
use crate::engine::Executor;
use crate::engine::exec::DeviceChoice;
use crate::engine::rng::RngState;
use crate::methods::config;
use crate::train::Ranker;
use crate::train::trainer::layout_of;

const BASES: [&str; 5] = ["gru", "caser", "nextitnet", "sasrec", "transformer"];

fn method(settings: &[&str]) -> Snqn {
    let small = ["dim=8", "max_len=4", "batch_size=5", "negatives=3"];
    let settings: Vec<String> = small.iter().chain(settings).map(|s| s.to_string()).collect();
    let config = config::resolve(&INFO, None, None, &settings).unwrap();
    Snqn { config: checked(typed(&config).unwrap()).unwrap(), n_items: 9 }
}

/// Two sessions that train, of six and of one event; every third event is a sale.
fn shop() -> Arc<Interactions> {
    let mut log = EventLog::default();
    for (number, session) in [0, 0, 0, 0, 0, 0, 1].into_iter().enumerate() {
        let (user, item) = (session.to_string(), (1 + number * 4 % 9).to_string());
        let kind = if number % 3 == 2 { "sale" } else { "view" };
        log.push(Event { user: &user, item: &item, time: Some(number as f64), kind: Some(kind) });
    }
    // Names of all items, so that there are nine.
    for item in 1..=9 {
        log.push(Event { user: "2", item: &item.to_string(), time: Some(100.0), kind: Some("view") });
    }
    let rule = "sessions:0.67,0.2,0.13,".to_string();
    let drawn = |drawing: u32| {
        Interactions::from_log("shop", log.clone()).with_split(format!("{rule}{drawing}").parse().unwrap())
    };
    let trains = |data: &Interactions| data.train(0).len() == 6 && data.train(1).len() == 1;
    Arc::new((0..50).map(|drawing| drawn(drawing).unwrap()).find(trains).unwrap())
}

#[test]
fn rewards_are_read_by_kind_and_unknown_kinds_are_refused() {
    assert_eq!(rewards("view=0.2, sale=1").unwrap(), BTreeMap::from([("view".into(), 0.2), ("sale".into(), 1.0)]));
    assert!(rewards("view").is_err() && rewards("view=much").is_err() && rewards("").unwrap().is_empty());
    let refused = method(&["rewards=basket=1"]).sampler(shop());
    assert!(refused.err().unwrap().to_string().contains("basket"));
}

#[test]
fn sessions_are_laid_out_as_each_encoder_wants_them() {
    let rows = |base: &str, history: &[u32]| {
        let mut packed = Packed::new();
        lay_out(&method(&[&format!("base={base}")]).config.encoder, 9, &mut packed, 3, history);
        (packed.items, packed.positions)
    };
    assert_eq!(rows("gru", &[]), (vec![9], vec![0]));
    assert_eq!(rows("sasrec", &[]), (vec![], vec![]));
    assert_eq!(rows("sasrec", &[5, 6, 7, 8, 4]), (vec![6, 7, 8, 4], vec![0, 1, 2, 3]));
    assert_eq!(rows("caser", &[2]), (vec![2, INERT, INERT, INERT], vec![0, 1, 2, 3]));
}

#[test]
fn a_batch_holds_the_session_before_and_after_each_event_with_its_reward() {
    let data = shop();
    let method = method(&["base=sasrec", "rewards=view=0.25,sale=1", "batch_size=7"]);
    let batch = method.sampler(data.clone()).unwrap().batch(&[0; 7], RngState { seed: 1, step: 1 }).unwrap();
    let ids = |name: &str| batch.feed.get(name).unwrap().as_u32().to_vec();
    let numbers = |name: &str| batch.feed.get(name).unwrap().words.clone();
    // All seven training events, in their order: fewer than would be drawn.
    assert_eq!(ids("state.cu_seqlens"), [0, 0, 1, 3, 6, 10, 14, 14]);
    assert_eq!(ids("next.cu_seqlens"), [0, 1, 3, 6, 10, 14, 18, 19]);
    assert_eq!(ids("action"), [data.train(0), data.train(1)].concat());
    assert_eq!(numbers("reward"), [0.25, 0.25, 1.0, 0.25, 0.25, 1.0, 0.25]);
    assert_eq!(numbers("done"), [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
    let action = ids("action");
    assert!(ids("negatives").chunks(3).zip(&action).all(|(some, own)| some.iter().all(|n| n != own && *n < 9)));
}

fn loss(method: &Snqn, executor: &mut dyn Executor, batch: &Batch, main: usize) -> f32 {
    let shape = Shape { graph: Turn { main, after: false }.graph(), ..batch.shape };
    let mut graph = method.train_graph(shape, layout_of(method).unwrap()).unwrap();
    let total = graph.metrics[0].1;
    graph.output("total", total);
    let mut feed = batch.feed.clone();
    for name in crate::nn::optimizers(&graph) {
        crate::nn::optimizer_inputs(&mut feed, name, &method.optimizer(name), 1);
    }
    let plan = executor.compile(graph).unwrap();
    executor.run(plan, &feed).unwrap();
    executor.fetch(plan, "total").unwrap().words[0]
}

#[test]
fn the_networks_are_alike_but_for_their_parameters() {
    let data = shop();
    for base in ["gru", "sasrec"] {
        let method = method(&[&format!("base={base}"), "learning=sa2c"]);
        let batch = method.sampler(data.clone()).unwrap().batch(&[0; 5], RngState { seed: 1, step: 1 }).unwrap();
        let layout = layout_of(&method).unwrap();
        let state = layout.initial_state(4);
        let mut swapped = state.clone();
        let place = |name: &str| layout.sets.iter().position(|set| set.name == name).unwrap();
        swapped.sets.swap(place("q1"), place("q2"));
        let mut executor = DeviceChoice::Cpu.open(1).unwrap();
        let mut with = |state, main| {
            executor.load(&layout, state).unwrap();
            loss(&method, executor.as_mut(), &batch, main)
        };
        let [own, other] = [with(&state, 0), with(&state, 1)];
        assert_eq!([with(&swapped, 1), with(&swapped, 0)], [own, other], "{base}");
        assert_ne!(own, other);
    }
}

#[test]
fn the_empty_session_has_a_state() {
    for base in BASES {
        let method = method(&[&format!("base={base}")]);
        let layout = layout_of(&method).unwrap();
        let mut executor = DeviceChoice::Cpu.open(1).unwrap();
        executor.load(&layout, &layout.initial_state(3)).unwrap();
        let requests = [Request::new(&[]), Request::new(&[1, 2]), Request::new(&[])];
        let queries = Ranker::new(&method, layout).queries(executor.as_mut(), &requests).unwrap();
        let width = queries.ty.width();
        assert!(queries.words.iter().all(|x| x.is_finite()), "{base}");
        assert_eq!(queries.words[..width], queries.words[2 * width..], "{base}");
    }
}
