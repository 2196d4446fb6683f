//! Loops of shaders that are written out before the shader is compiled.
//!
//! ```text
//! //unroll i in COUNT              for i = 0 .. COUNT: the lines up to //end with $i replaced by 0u, 1u, ..
//! //unroll i in COUNT if CONSTANT  the same when the constant is 1; else a loop with the variable i
//! ```
//!
//! COUNT is a constant of the kernel or a number. Compilers need not unroll loops over private arrays; where they do not,
//! the arrays stay in memory instead of registers, which costs more than everything else in such a kernel.

/// The text without `//unroll`.
pub fn unroll(source: &str, consts: &[(&str, u32)]) -> String {
    let lines: Vec<&str> = source.lines().collect();
    expand(&lines, consts)
}

fn expand(lines: &[&str], consts: &[(&str, u32)]) -> String {
    let number = |word: &str| {
        let known = consts.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
        known.or_else(|| word.parse().ok()).unwrap_or_else(|| panic!("`{word}` is no constant of the kernel"))
    };
    let (mut text, mut rest) = (String::new(), lines);
    while let [line, after @ ..] = rest {
        rest = after;
        let Some(header) = header(line) else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let (body, after) = split_at_end(rest).unwrap_or_else(|| panic!("`{line}` has no //end"));
        rest = after;
        let (index, count, written_out) = match header.split(' ').collect::<Vec<_>>()[..] {
            [index, "in", count] => (index, number(count), true),
            [index, "in", count, "if", constant] => (index, number(count), number(constant) == 1),
            _ => panic!("`{line}`, expected //unroll i in COUNT"),
        };
        let body = expand(body, consts);
        let with = |value: &str| body.replace(&format!("${index}"), value);
        if written_out {
            (0..count).for_each(|i| text.push_str(&with(&format!("{i}u"))));
        } else {
            let body = with(index);
            text.push_str(&format!("for (var {index} = 0u; {index} < {count}u; {index} += 1u) {{\n{body}}}\n"));
        }
    }
    text
}

fn header(line: &str) -> Option<&str> {
    line.trim().strip_prefix("//unroll ")
}

/// What stands before the `//end` that closes the block, and what stands behind it.
fn split_at_end<'a, 'b>(lines: &'b [&'a str]) -> Option<(&'b [&'a str], &'b [&'a str])> {
    let mut open = 1;
    let end = lines.iter().position(|line| {
        open += i32::from(header(line).is_some()) - i32::from(line.trim() == "//end");
        open == 0
    })?;
    Some((&lines[..end], &lines[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::unroll;

    #[test]
    fn nested_blocks_are_written_out_and_optional_ones_become_loops() {
        let source = "a\n//unroll r in ROWS\n  b[$r]\n  //unroll d in 2\n  c[$r][$d]\n  //end\n//end\nd";
        let written = "a\n  b[0u]\n  c[0u][0u]\n  c[0u][1u]\n  b[1u]\n  c[1u][0u]\n  c[1u][1u]\nd\n";
        assert_eq!(unroll(source, &[("ROWS", 2)]), written);
        let source = "//unroll c in 4 if STAGED\nx[$c];\n//end";
        assert_eq!(unroll(source, &[("STAGED", 0)]), "for (var c = 0u; c < 4u; c += 1u) {\nx[c];\n}\n");
        assert_eq!(unroll(source, &[("STAGED", 1)]), "x[0u];\nx[1u];\nx[2u];\nx[3u];\n");
    }
}
