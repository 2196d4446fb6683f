use super::*;
use crate::data::matrix::Matrix;
use crate::methods::config;

fn method(settings: &[&str], data: &Interactions) -> Ssi {
    let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
    let config = config::resolve(&INFO, None, None, &settings).unwrap();
    Ssi::new(typed(&config).unwrap(), Sizes::of(data), Vec::new()).unwrap()
}

fn walks() -> Arc<Interactions> {
    let walk = |user: u32| (0..4 + user % 5).map(|i| 1 + (3 * user + 7 * i) % 20).collect::<Vec<u32>>();
    Arc::new(Interactions::from_sequences("walks", &(0..12).map(walk).collect::<Vec<_>>()))
}

/// A teacher whose query after a history is the number of that prefix.
fn counting_teacher(data: &Arc<Interactions>) -> Teacher {
    let numbers = (0..Prefixes::new(data.clone()).count()).map(|number| number as f32).collect();
    Teacher {
        name: "counting".into(),
        table: Tensor::f32(&[data.n_items(), 1], vec![0.0; data.n_items()]),
        bias: Tensor::f32(&[data.n_items()], vec![0.0; data.n_items()]),
        queries: Arc::new(Matrix::new(1, numbers)),
    }
}

/// The last item of each row's history by the student's batch, and by the prefix whose answer the row is given.
fn last_items(settings: &[&str], last_row_of: impl Fn(&Batch, usize) -> usize) -> Vec<(u32, u32)> {
    let data = walks();
    let method = method(settings, &data).taught(vec![counting_teacher(&data)]).unwrap();
    let sampler = method.sampler(data.clone()).unwrap();
    let batch = sampler.batch(&sampler.samples(), RngState { seed: 1, step: 1 }).unwrap();
    let [queries, weight] =
        ["query_counting", "imitation_weight"].map(|name| batch.feed.get(name).unwrap().words.clone());
    assert!((weight.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    let (items, prefixes) = (batch.feed.get("items").unwrap().as_u32().to_vec(), Prefixes::new(data));
    let taught = (0..weight.len()).filter(|row| weight[*row] > 0.0);
    taught
        .map(|row| {
            let history = prefixes.of(queries[row] as u32).0;
            (items[last_row_of(&batch, row)], *history.last().unwrap())
        })
        .collect()
}

#[test]
fn a_row_is_taught_what_its_teacher_says_after_the_same_history() {
    let sasrec = ["student=sasrec", r#"student_settings=["max_len=3"]"#];
    let rows = last_items(&sasrec, |_, row| row);
    assert!(rows.len() > 20 && rows.iter().all(|(ours, theirs)| ours == theirs), "{rows:?}");
    let hgn = ["student=hgn", r#"student_settings=["window=3"]"#];
    let last_of_window =
        |batch: &Batch, row: usize| batch.feed.get("cu_seqlens").unwrap().as_u32()[row + 1] as usize - 1;
    let rows = last_items(&hgn, last_of_window);
    assert!(rows.len() > 20 && rows.iter().all(|(ours, theirs)| ours == theirs), "{rows:?}");
}

#[test]
fn an_item_that_a_batch_reads_twice_is_imitated_once() {
    let data = walks();
    let method = method(&["student=sasrec"], &data).taught(vec![counting_teacher(&data)]).unwrap();
    let sampler = method.sampler(data).unwrap();
    let batch = sampler.batch(&sampler.samples(), RngState { seed: 1, step: 1 }).unwrap();
    let items = batch.feed.get("imitated_items").unwrap().as_u32().to_vec();
    let weights = batch.feed.get("imitated_items_weight").unwrap().words.clone();
    let mut by_item: HashMap<u32, f32> = HashMap::new();
    items
        .iter()
        .zip(&weights)
        .filter(|(item, _)| **item != INERT)
        .for_each(|(item, w)| *by_item.entry(*item).or_default() += w);
    let share = 1.0 / by_item.len() as f32;
    assert!(by_item.len() > 5 && by_item.values().all(|weight| (weight - share).abs() < 1e-5), "{by_item:?}");
}

#[test]
fn only_methods_that_say_what_their_rows_know_can_be_students() {
    let data = walks();
    let refused = |student: &str| {
        let settings = [format!("student={student}"), "student_settings=[]".into()];
        let config = config::resolve(&INFO, None, None, &settings).unwrap();
        let method = Ssi::new(typed(&config).unwrap(), Sizes::of(&data), Vec::new());
        method.and_then(|method| method.sampler(data.clone()).map(drop)).unwrap_err().help().unwrap_or_default()
    };
    for student in ["pop", "lma4rec", "bert4rec"] {
        assert!(refused(student).contains("sasrec"), "{student}: {}", refused(student));
    }
    let stages = method(&["tasks=[\"persona\"]"], &data).stages();
    let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!((names, stages[1].starts_from.as_deref()), (vec!["cloze", "persona"], Some("cloze")));
    assert_eq!(method(&["warm_start=false"], &data).stages().len(), 3);
}
