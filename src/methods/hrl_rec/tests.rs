use super::*;
use crate::data::lists::example;
use crate::engine::exec::DeviceChoice;
use crate::methods::config;
use crate::train::Trainer;
use crate::train::trainer::layout_of;

/// The parameters of each set after an epoch.
fn trained(more: &[&str]) -> Vec<(String, Vec<f32>)> {
    let data = Arc::new(Interactions::from_lists(example(60, 4)).unwrap());
    let small = ["dim=4", "heads=2", "batch_size=8", "epochs=1"];
    let settings: Vec<String> = small.iter().chain(more).map(|s| s.to_string()).collect();
    let config = config::resolve(&INFO, None, None, &settings).unwrap();
    let method = HrlRec::new(typed(&config).unwrap(), Sizes::of(&data)).unwrap();
    let mut executor = DeviceChoice::Cpu.open(1).unwrap();
    let mut trainer = Trainer::new(&method, data, 1, executor.as_mut(), None).unwrap();
    trainer.fit(executor.as_mut(), &mut ()).unwrap();
    let sets = layout_of(&method).unwrap().sets;
    sets.iter().zip(executor.state().unwrap().sets).map(|(set, state)| (set.name.clone(), state.params)).collect()
}

#[test]
fn the_critic_does_not_learn_from_what_the_actor_learns() {
    let (with, without) = (trained(&[]), trained(&["imitation_weight=0.0", "noise_std=0.5"]));
    for ((name, with), (_, without)) in with.iter().zip(&without) {
        assert_eq!(with != without, name == ACTOR, "{name}");
    }
}

#[test]
fn the_target_lies_in_its_set_as_the_critic_in_its_own() {
    let data = Interactions::from_lists(example(60, 4)).unwrap();
    let config = config::resolve(&INFO, None, None, &[]).unwrap();
    let layout = layout_of((INFO.build)(&config, Sizes::of(&data)).unwrap().as_ref()).unwrap();
    let of = |name: &str| &layout.sets.iter().find(|set| set.name == name).unwrap().parameters;
    let (critic, target) = (of(CRITIC), of(TARGET));
    assert_eq!(critic[..critic.len() - 1], target[..]);
    assert_eq!(critic.last().unwrap().name, "table");
}
