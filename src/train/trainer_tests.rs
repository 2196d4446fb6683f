use super::*;
use crate::data::ReadOptions;
use crate::engine::exec::DeviceChoice;
use crate::methods::{Sizes, config, find};
use crate::train::identity::{DataIdentity, FORMAT, Identity};

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

/// Wants to stop after so many runs of an evaluation.
struct Evaluated {
    runs: usize,
}

impl Observer for Evaluated {
    fn evaluation_begins(&mut self, _runs: usize) -> Box<dyn FnMut() -> bool> {
        let mut left = self.runs;
        Box::new(move || {
            left = left.saturating_sub(1);
            left == 0
        })
    }
}

fn walks() -> Arc<Interactions> {
    let walks: Vec<Vec<u32>> = (0..6).map(|first| (first..first + 6).collect()).collect();
    Arc::new(Interactions::from_sequences("walks", &walks))
}

/// How training of a small model ends: epochs of one batch.
fn train(settings: &[&str], observer: &mut dyn Observer) -> Result<Progress> {
    train_in(None, settings, observer)
}

/// The same, in a folder where it is resumed.
fn train_in(folder: Option<&Path>, settings: &[&str], observer: &mut dyn Observer) -> Result<Progress> {
    let data = walks();
    let settings: Vec<String> = ["dim=4", "max_len=4"].iter().chain(settings).map(|s| s.to_string()).collect();
    let info = find("sasrec")?;
    let config = config::resolve(info, None, None, &settings)?;
    let method = (info.build)(&config, Sizes::of(&data))?;
    let identity = Identity {
        format: FORMAT,
        version: "test".into(),
        method: "sasrec".into(),
        config,
        seed: 1,
        data: DataIdentity::new("walks", &ReadOptions::default(), &data),
        models: Vec::new(),
    };
    let header = Header { identity, items: data.items.clone() };
    let checkpoints = folder.map(|folder| Checkpoints { folder: folder.into(), header });
    let mut executor = DeviceChoice::Cpu.open(1)?;
    let mut trainer = Trainer::new(method.as_ref(), data, 1, executor.as_mut(), checkpoints)?;
    trainer.resume(executor.as_mut())?;
    trainer.fit(executor.as_mut(), observer)?;
    Ok(trainer.progress)
}

#[test]
fn training_stops_when_asked_also_where_an_epoch_is_one_batch() {
    let stopped = train(&["epochs=9"], &mut Impatient).map(drop);
    assert!(matches!(stopped, Err(Error::Interrupted { epoch: 1, step: 1 })), "{stopped:?}");
}

#[test]
fn validation_that_was_stopped_is_made_again_from_the_checkpoint() {
    let settings = ["epochs=2", "learning_rate=0.05"];
    let (stopped, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let end = train_in(Some(stopped.path()), &settings, &mut Evaluated { runs: 1 }).map(drop);
    assert!(matches!(end, Err(Error::Interrupted { epoch: 1, step: 1 })), "{end:?}");
    let latest = Checkpoint::read(&checkpoint::latest(stopped.path())).unwrap().progress;
    assert_eq!((latest.epoch, latest.partial.batches, latest.best_epoch), (0, 1, 0), "trained, not validated");

    let (mut after, mut notes) = (Notes::default(), Notes::default());
    train_in(Some(stopped.path()), &settings, &mut after).unwrap();
    train_in(Some(whole.path()), &settings, &mut notes).unwrap();
    let reports = |notes: &Notes| -> Vec<_> {
        notes.0.iter().map(|report| (report.epoch, report.losses.clone(), report.valid.clone())).collect()
    };
    assert_eq!(reports(&after), reports(&notes));
    let best = |folder: &Path| std::fs::read(checkpoint::best(folder)).unwrap();
    assert!(best(stopped.path()) == best(whole.path()), "the same bytes");
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

#[test]
fn an_executor_trains_alike_whatever_it_trained_before_and_holds_moments_only_then() {
    let data = walks();
    let info = find("sasrec").unwrap();
    let config = config::resolve(info, None, None, &["dim=4", "max_len=4"].map(String::from)).unwrap();
    let method = (info.build)(&config, Sizes::of(&data)).unwrap();
    let mut executor = DeviceChoice::Cpu.open(1).unwrap();
    let mut a_step = || {
        let mut trainer = Trainer::new(method.as_ref(), data.clone(), 1, executor.as_mut(), None).unwrap();
        let (bytes, before) = (executor.allocated_bytes(), executor.state().unwrap());
        let batch = trainer.batch(1, 0).unwrap();
        trainer.step(executor.as_mut(), batch).unwrap();
        (bytes, before, executor.state().unwrap())
    };
    let (bytes, before, after) = a_step();
    assert_eq!(bytes, 4 * after.sets[0].params.len() as u64, "the parameters alone");
    assert!(after.sets[0].m.iter().any(|m| *m != 0.0) && before.sets[0].m.iter().all(|m| *m == 0.0));
    let (_, before_again, after_again) = a_step();
    assert_eq!((before_again, after_again), (before, after));
}
