//! `docs/errors.md` is true: every row of its tables is tried.

use std::fs;
use std::path::Path;

/// The text of a cell of a table between ``` `` ``` and ``` `` ```.
fn code(cell: &str) -> Option<&str> {
    let (_, text) = cell.split_once("`` ")?;
    Some(text.rsplit_once(" ``").expect("marks come in pairs").0)
}

/// The file that the first cell names, between single marks.
fn file_name(cell: &str) -> Option<&str> {
    cell.trim().strip_prefix('`')?.split_once('`').map(|(name, _)| name)
}

/// `\n`, `\t` and `\xff` in the text of a file.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, tail)) = rest.split_first() {
        (out, rest) = match (byte, tail) {
            (b'\\', [b'n', tail @ ..]) => ([&out[..], b"\n"].concat(), tail),
            (b'\\', [b't', tail @ ..]) => ([&out[..], b"\t"].concat(), tail),
            (b'\\', [b'x', high, low, tail @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("two digits");
                ([&out[..], &[u8::from_str_radix(digits, 16).expect("hexadecimal")]].concat(), tail)
            }
            _ => ([&out[..], &[byte]].concat(), tail),
        };
    }
    out
}

fn gpurec(folder: &Path, command: &str) -> std::process::Output {
    let mut program = std::process::Command::new(assert_cmd::cargo::cargo_bin!("gpurec"));
    program.current_dir(folder).env("GPUREC_DATA_DIR", "").env("HOME", folder).env("XDG_DATA_HOME", folder);
    program.args(command.split(' ')).output().expect("the program starts")
}

/// Overwrites the first number of a tensor in a safetensors file.
fn poison(path: &Path, tensor: &str) {
    let mut bytes = fs::read(path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let table: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = 8 + header + table[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

#[test]
fn every_row_of_the_page_is_what_the_program_says() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    fs::write(place.join("ok.txt"), "a 1 2 3 4 5\nb 2 3 4 5 1\nc 3 4 5 1 2\n").unwrap();
    let train =
        "run --method sasrec --dataset ok.txt --device cpu --set dim=8 --set inner_dim=8 --epochs 1 --quiet --out";
    for out in ["good", "nan"] {
        assert!(gpurec(place, &format!("{train} {out}")).status.success());
    }
    poison(&place.join("nan/checkpoint/best.safetensors"), "params/model/item_table");
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/errors.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| file"));
    let (mut tried, mut wrong) = (0, Vec::new());
    for row in rows {
        let row = row.replace("\\|", "\u{2}");
        let cells: Vec<String> = row.split('|').map(|cell| cell.replace('\u{2}', "|")).collect();
        let [_, file, command, message, _] = &cells[..] else { panic!("{row}") };
        if let Some(name) = file_name(file) {
            fs::write(place.join(name), code(file).map(unescaped).unwrap_or_default()).unwrap();
        }
        let (command, message) = (code(command).expect("a command"), code(message).expect("a message"));
        let said = gpurec(place, command);
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        let whole = said.status.code() == Some(2) && text.contains(message) && text.contains("help: ");
        if !whole || text.contains("panicked") {
            wrong.push(format!("gpurec {command}\n  wanted: {message}\n  said ({:?}): {text}", said.status.code()));
        }
        tried += 1;
    }
    assert!(tried >= 40 && wrong.is_empty(), "{} of {tried} rows are wrong\n{}", wrong.len(), wrong.join("\n"));
    assert!(!place.join("q").exists() && !place.join("runs").exists(), "nothing half-written is left");
}
