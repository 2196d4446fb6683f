use super::*;
use crate::data::resolve;
use std::collections::HashSet;

#[test]
fn every_manifest_is_named_after_its_file_and_no_two_are_alike() {
    let mut names = HashSet::new();
    for ((file, _), manifest) in MANIFESTS.iter().zip(manifests()) {
        assert_eq!(*file, manifest.name);
        assert!(names.insert(&manifest.name), "{} twice", manifest.name);
        assert!(!manifest.terms.contains('\n') && manifest.terms.len() > 10, "{}: terms are one line", manifest.name);
        assert_eq!(
            manifest.papers.is_empty(),
            manifest.paper_name.is_none(),
            "{}: papers and their name",
            manifest.name
        );
    }
}

#[test]
fn what_a_manifest_says_of_its_source_suffices_to_get_it() {
    for Manifest { name, source, read, .. } in manifests() {
        match source.access {
            Access::Download => {
                assert!(source.url.as_ref().is_some_and(|url| url.starts_with("https://")), "{name}: url");
                assert!(source.file.is_some(), "{name}: file");
            }
            Access::Manual => assert!(source.instructions.is_some() && !source.members.is_empty(), "{name}"),
            Access::Private => assert!(source.instructions.is_some() && read.is_none(), "{name}"),
            Access::Bundled => assert!(source.file.is_some(), "{name}: file"),
        }
        for (sum, digits) in [(&source.sha256, 64), (&source.md5, 32)] {
            let valid =
                |sum: &String| sum.len() == digits && sum.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            assert!(sum.as_ref().is_none_or(valid), "{name}: {sum:?}");
        }
        let flat: HashSet<_> = source.members.iter().map(|member| file_name(member)).collect();
        assert_eq!(flat.len(), source.members.len(), "{name}: two members of one name");
    }
}

#[test]
fn raw_data_has_columns_for_user_item_and_time_and_every_key_is_understood() {
    for (Manifest { name, source, read, .. }, (_, text)) in manifests().iter().zip(MANIFESTS) {
        let Some(read) = read else { continue };
        let table: toml::Table = text.parse().unwrap();
        let understood = toml::Table::try_from(read).unwrap();
        assert_eq!(table["read"], toml::Value::Table(understood), "{name}: a key that means nothing");
        let columns = &read.options.columns;
        let named = [&columns.user, &columns.item, &columns.time].into_iter().all(Option::is_some);
        assert_eq!(named, read.options.format.is_none_or(|format| format.name() != "sequences"), "{name}");
        assert!(read.event_of_file.keys().all(|file| source.members.contains(file)), "{name}: event_of_file");
    }
}

#[test]
fn no_user_and_no_item_is_without_interactions() {
    for manifest in manifests() {
        let Some(expected) = manifest.expected else { continue };
        assert!(expected.interactions >= expected.users.max(expected.items), "{}", manifest.name);
        for step in &manifest.prepare {
            let (users, items) = match step {
                Step::KCore { k } => (*k, *k),
                Step::MinPerUser { count, of: None } if manifest.prepare.last() == Some(step) => (*count, 1),
                _ => continue,
            };
            assert!(expected.interactions >= (users * expected.users).max(items * expected.items), "{}", manifest.name);
        }
    }
}

#[test]
fn the_bundled_set_is_what_its_manifest_says() {
    let manifest = manifest("kuairec").unwrap();
    let (data, expected) =
        (resolve("kuairec", &crate::data::ReadOptions::default()).unwrap(), manifest.expected.unwrap());
    assert_eq!(data.n_users(), expected.users);
    assert_eq!(data.n_items(), expected.items);
    assert_eq!(data.n_events(), expected.interactions);
    assert_eq!(Some(super::super::catalog::BUNDLED_BYTES.len() as u64), manifest.source.bytes);
}

#[test]
fn public_sets_that_are_here_have_the_expected_counts() {
    for manifest in manifests().iter().filter(|m| m.is_sequences() && m.source.access == Access::Download) {
        let Some(data) = crate::data::public_dataset(&manifest.name) else { continue };
        let counts = (data.n_users(), data.n_items(), data.n_events());
        let expected = manifest.expected.unwrap();
        assert_eq!(counts, (expected.users, expected.items, expected.interactions), "{}", manifest.name);
    }
}

#[test]
fn a_set_is_fetched_when_all_its_files_are_there_and_ready_when_it_is_prepared() {
    let dir = tempfile::tempdir().unwrap();
    let rc15 = manifest("rc15").unwrap();
    std::fs::create_dir(dir.path().join("rc15")).unwrap();
    std::fs::write(dir.path().join("rc15/yoochoose-clicks.dat"), "").unwrap();
    assert_eq!(rc15.presence(Some(dir.path())), Presence::Absent);
    std::fs::write(dir.path().join("rc15/yoochoose-buys.dat"), "").unwrap();
    assert_eq!(rc15.presence(Some(dir.path())), Presence::Fetched(dir.path().join("rc15")));
    std::fs::write(dir.path().join("rc15.txt.gz"), "").unwrap();
    assert_eq!(rc15.presence(Some(dir.path())), Presence::Ready);
    assert_eq!(rc15.presence(None), Presence::Absent);
}
