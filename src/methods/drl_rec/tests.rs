use super::*;
use crate::data::lists::example;
use crate::engine::exec::DeviceChoice;
use crate::engine::rng::RngState;
use crate::methods::config;
use crate::train::Trainer;
use crate::train::trainer::layout_of;

fn method(settings: &[&str], sizes: Sizes) -> DrlRec {
    let small = ["teacher_dim=4", "dim=2", "candidates=5", "batch_size=8", "epochs=1"];
    let settings: Vec<String> = small.iter().chain(settings).map(|s| s.to_string()).collect();
    DrlRec::new(typed(&config::resolve(&INFO, None, None, &settings).unwrap()).unwrap(), sizes).unwrap()
}

fn data() -> Arc<Interactions> {
    Arc::new(Interactions::from_lists(example(60, 4)).unwrap())
}

/// The parameters of each set after an epoch.
fn trained(settings: &[&str]) -> Vec<(String, Vec<f32>)> {
    let data = data();
    let method = method(settings, Sizes::of(&data));
    let mut executor = DeviceChoice::Cpu.open(1).unwrap();
    let mut trainer = Trainer::new(&method, data, 1, executor.as_mut(), None).unwrap();
    trainer.fit(executor.as_mut(), &mut ()).unwrap();
    let state = executor.state().unwrap();
    layout_of(&method)
        .unwrap()
        .sets
        .iter()
        .zip(state.sets)
        .map(|(set, state)| (set.name.clone(), state.params))
        .collect()
}

#[test]
fn nothing_that_the_student_learns_reaches_the_teacher() {
    let forms = [&["q_form=paper"][..], &["q_form=inline"]];
    for form in forms {
        let full = trained(form);
        let alone = trained(&[form, &["kl_weight=0.0", "hint_weight=0.0"]].concat());
        for ((name, full), (_, alone)) in full.iter().zip(&alone) {
            let is_teachers = name.starts_with(TEACHER);
            assert_eq!(full == alone, is_teachers, "{name} of {form:?}");
        }
    }
}

#[test]
fn targets_begin_as_the_networks_and_follow_them_slowly() {
    let data = data();
    let method = method(&["sync_every=1000000"], Sizes::of(&data));
    let layout = crate::train::trainer::layout_of(&method).unwrap();
    let state = method.initial_state(&layout, 1, &data);
    let of = |name: &str| {
        let place = layout.sets.iter().position(|set| set.name == name).unwrap();
        (&layout.sets[place], &state.sets[place].params)
    };
    for (set, target) in [TEACHER, STUDENT].into_iter().zip(TARGETS) {
        let ((set, params), (target, copy)) = (of(set), of(target));
        // All but the joint table, which is the last.
        assert_eq!(set.parameters[..set.parameters.len() - 1], target.parameters[..]);
        assert_eq!(params[..copy.len()], copy[..]);
    }
    let never = trained(&["sync_every=1000000"]);
    let target = never.iter().find(|(name, _)| name == TARGETS[0]).unwrap();
    assert_eq!(&target.1, of(TARGETS[0]).1);
    let often = trained(&["sync_every=1", "sync_rate=1.0"]);
    let set = |name: &str| often.iter().find(|(known, _)| known == name).unwrap().1.clone();
    for (network, target) in [TEACHER, STUDENT].into_iter().zip(TARGETS) {
        let (network, copy) = (set(network), set(target));
        assert_ne!(copy, *of(target).1, "{target} has moved");
        // A sync of the whole way ends every step, but for the rounding of t + (s - t).
        assert!(copy.iter().zip(&network).all(|(t, s)| (t - s).abs() < 1e-6), "{target} is where its network is");
    }
}

#[test]
fn the_student_has_half_of_the_teachers_table_and_a_quarter_of_the_rest() {
    let data = data();
    let method = method(&["teacher_dim=16", "dim=8"], Sizes::of(&data));
    let layout = crate::train::trainer::layout_of(&method).unwrap();
    let count = |name: &str| {
        let set = layout.sets.iter().find(|set| set.name == name).unwrap();
        let table = set.parameters.iter().find(|p| p.name == "table").unwrap().range.len();
        (table as f64, (set.count() - table) as f64)
    };
    let ((teacher_table, teacher), (table, student)) = (count(TEACHER), count(STUDENT));
    assert_eq!(table, teacher_table / 2.0);
    assert!((0.24..0.28).contains(&(student / teacher)), "{}", student / teacher);
}

#[test]
fn the_best_of_what_could_come_next_is_worth_no_less_than_what_came() {
    let data = data();
    let goals = |settings: &[&str]| {
        let method = method(&[&["dropout=0.0", "init_std=1.0"], settings].concat(), Sizes::of(&data));
        let batch = method.sampler(data.clone()).unwrap().batch(&[3, 1, 7], RngState { seed: 1, step: 1 }).unwrap();
        let layout = layout_of(&method).unwrap();
        let mut graph = Graph::new(layout.clone());
        let inputs = method.inputs(&mut graph, batch.shape, true);
        let (_, goals) =
            method.values_and_goals(&mut graph, &method.student(), (STUDENT, TARGETS[1]), &inputs, 4).unwrap();
        graph.output("goals", goals);
        let mut executor = DeviceChoice::Cpu.open(1).unwrap();
        // Targets begin as their networks, so that both forms value by the same.
        executor.load(&layout, &method.initial_state(&layout, 1, &data)).unwrap();
        let plan = executor.compile(graph).unwrap();
        executor.run(plan, &batch.feed).unwrap();
        executor.fetch(plan, "goals").unwrap().words
    };
    let of_explored = |explore: &str| {
        let explore = format!("explore={explore}");
        (goals(&[&explore]), goals(&["target=ddqn_candidates", &explore]))
    };
    let ((logged, best), (_, of_list)) = (of_explored("true"), of_explored("false"));
    assert!(logged.iter().zip(&of_list).all(|(logged, best)| *best >= logged - 1e-6), "{logged:?}, {of_list:?}");
    assert!(of_list.iter().zip(&best).all(|(fewer, more)| *more >= fewer - 1e-6), "{of_list:?}, {best:?}");
    assert!(logged.iter().zip(&of_list).any(|(logged, best)| *best > logged + 1e-3), "{logged:?}, {of_list:?}");
    // Behind the last of four positions nothing comes, and before it one item alone is left.
    let last_two = |goals: &[f32]| goals.chunks(4).flat_map(|list| [list[2], list[3]]).collect::<Vec<f32>>();
    assert!(last_two(&logged).iter().zip(last_two(&of_list)).all(|(a, b)| (a - b).abs() < 1e-6));
}

/// The positions of a list whose values change where one position's row of a field does.
fn touched(form: &str, field: &str, position: usize) -> Vec<usize> {
    let data = data();
    // Of two columns a normalisation would leave signs alone.
    let (method, lists) = (method(&[form, "dim=8", "init_std=1.0"], Sizes::of(&data)), data.lists().unwrap());
    let mut batch = ListModel::batch(&method, &lists, &[5]);
    let layout = layout_of(&method).unwrap();
    let mut graph = Graph::new(layout.clone());
    let scores = method.scores(&mut graph, batch.shape).unwrap();
    graph.output("scores", scores);
    let mut executor = DeviceChoice::Cpu.open(1).unwrap();
    executor.load(&layout, &method.initial_state(&layout, 1, &data)).unwrap();
    let plan = executor.compile(graph).unwrap();
    let mut values = |feed: &Feed| {
        executor.run(plan, feed).unwrap();
        executor.fetch(plan, "scores").unwrap().words
    };
    let before = values(&batch.feed);
    // Each bag of the example holds one row; that of what is missing takes its place.
    let place = lists.fields.iter().position(|known| known.name == field).unwrap();
    let mut rows = batch.feed.get("bag_rows").unwrap().clone();
    rows.words[position * lists.fields.len() + place] = f32::from_bits(lists.fields[place].first);
    batch.feed.set("bag_rows", rows);
    let after = values(&batch.feed);
    (0..lists.length).filter(|n| before[*n] != after[*n]).collect()
}

#[test]
fn a_value_knows_user_and_context_of_its_position_its_item_and_the_items_above() {
    for form in ["q_form=paper", "q_form=inline"] {
        for field in ["likes", "place", "item"] {
            assert_eq!(touched(form, field, 0), [0, 1, 2, 3], "{field}, {form}");
            assert_eq!(touched(form, field, 2), [2, 3], "{field}, {form}");
        }
    }
}
