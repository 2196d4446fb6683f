use super::*;
use crate::engine::exec::DeviceChoice;
use crate::methods::{Sizes, config, find};

struct Impatient;

impl Observer for Impatient {
    fn wants_to_stop(&mut self) -> bool {
        true
    }
}

#[derive(Default)]
struct Notes(Vec<EpochReport>);

impl Observer for Notes {
    fn epoch_finished(&mut self, report: &EpochReport, _best_epoch: usize) -> Result<()> {
        self.0.push(report.clone());
        Ok(())
    }
}

/// How training of a small model ends: epochs of one batch.
fn train(settings: &[&str], observer: &mut dyn Observer) -> Result<Progress> {
    let walks: Vec<Vec<u32>> = (0..6).map(|first| (first..first + 6).collect()).collect();
    let data = Arc::new(Interactions::from_sequences("walks", &walks));
    let settings: Vec<String> = ["dim=4", "max_len=4"].iter().chain(settings).map(|s| s.to_string()).collect();
    let info = find("sasrec")?;
    let method = (info.build)(&config::resolve(info, None, None, &settings)?, Sizes::of(&data))?;
    let mut executor = DeviceChoice::Cpu.open(1)?;
    let mut trainer = Trainer::new(method.as_ref(), data, 1, executor.as_mut(), None)?;
    trainer.fit(executor.as_mut(), observer)?;
    Ok(trainer.progress)
}

#[test]
fn training_stops_when_asked_also_where_an_epoch_is_one_batch() {
    let stopped = train(&["epochs=9"], &mut Impatient).map(drop);
    assert!(matches!(stopped, Err(Error::Interrupted { epoch: 1, step: 1 })), "{stopped:?}");
}

#[test]
fn every_third_epoch_and_the_last_are_validated_and_the_best_is_one_of_them() {
    let mut notes = Notes::default();
    let progress = train(&["epochs=7", "validate_every=3", "learning_rate=0.05"], &mut notes).unwrap();
    let (validated, value): (Vec<usize>, Vec<f64>) =
        notes.0.iter().filter_map(|report| Some((report.epoch, report.valid.get("ndcg@20")?))).unzip();
    assert_eq!((notes.0.len(), &validated[..]), (7, &[3, 6, 7][..]));
    let best = value.iter().copied().fold(f64::MIN, f64::max);
    let first_best = validated[value.iter().position(|value| *value == best).unwrap()];
    assert_eq!((progress.best_epoch, progress.best_value), (first_best, best));
}

#[test]
fn a_metric_that_there_is_none_of_is_refused_before_the_first_epoch() {
    let mut notes = Notes::default();
    let error = train(&["epochs=3", "validate_every=3", "select_by=auc"], &mut notes).unwrap_err();
    assert!(error.to_string().contains("metric in select_by"), "{error}");
    assert!(notes.0.is_empty());
}
