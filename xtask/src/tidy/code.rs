//! Rust source without what is not code.

/// The text with comments and the insides of literals blanked out; line breaks stay.
pub(crate) fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skipped(&chars, at);
        if end > at {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            code.push(chars[at]);
            at += 1;
        }
    }
    code
}

/// End of the comment or literal that begins here; `at` itself if none does.
fn skipped(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let after_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match rest {
        ['/', '/', ..] => at + rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => at + block_comment(rest),
        ['"', ..] => at + string(rest),
        ['r', '"' | '#', ..] if !after_word => at + raw_string(&rest[1..]).map_or(0, |length| length + 1),
        ['b' | 'c', 'r', '"' | '#', ..] if !after_word => at + raw_string(&rest[2..]).map_or(0, |length| length + 2),
        ['\'', '\\', ..] => at + 2 + rest.iter().skip(3).position(|c| *c == '\'').map_or(1, |end| end + 2),
        ['\'', _, '\'', ..] => at + 3,
        _ => at,
    }
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `#"…"#` with any number of hashes; none if it is something else, such as `r#type`.
fn raw_string(rest: &[char]) -> Option<usize> {
    let hashes = rest.iter().take_while(|c| **c == '#').count();
    (rest.get(hashes) == Some(&'"')).then_some(())?;
    let mut at = hashes + 1;
    while at < rest.len() {
        let closing = rest[at] == '"' && rest[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
        at += 1;
        if closing {
            return Some(at + hashes);
        }
    }
    Some(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, code: &str) {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(&code_only(text)), code);
    }

    #[test]
    fn comments_and_literals_go() {
        check("a // unsafe\nb", "a b");
        check("a /* x /* unsafe */ y */ b", "a b");
        check(r#"f("unsafe \" unsafe") g"#, "f( ) g");
        check(r##"f(r#"unsafe " unsafe"#) g"##, "f( ) g");
        check(r#"f(br"unsafe") g"#, "f( ) g");
        check(r#"f('\'', '\\', '\u{1F600}', '"', 'x') unsafe"#, "f( , , , , ) unsafe");
    }

    #[test]
    fn code_stays() {
        check("fn f<'a>(x: &'a str) -> &'a str { unsafe { x } }", "fn f<'a>(x: &'a str) -> &'a str { unsafe { x } }");
        check("r#type other", "r#type other");
        check("car\"x\" b", "car b");
    }

    #[test]
    fn lines_keep_their_numbers() {
        assert_eq!(code_only("/*\n\n*/\"\n\"x").lines().count(), 4);
    }
}
