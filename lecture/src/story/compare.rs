//! What is shown, as lines: text, and two files side by side.

/// So many lines before the first difference are shown, and so many from it on.
const BEFORE: usize = 2;
const FROM: usize = 5;
/// The widest left column.
const WIDEST: usize = 80;

/// The widest line of text.
const TEXT_WIDTH: usize = 96;

/// A text, in lines that aren't too long.
pub(super) fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut().filter(|line| line.len() + 1 + word.len() <= TEXT_WIDTH) {
            Some(line) => line.extend([" ", word]),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The number of the first line, from 1, that isn't the same in both.
pub(super) fn first_difference(left: &[String], right: &[String]) -> Option<usize> {
    (0..left.len().max(right.len())).find(|at| left.get(*at) != right.get(*at)).map(|at| at + 1)
}

/// The lines around the first difference, or the last ones, with a mark where they differ.
pub(super) fn side_by_side(left: &[String], right: &[String]) -> Vec<String> {
    let length = left.len().max(right.len());
    let first = first_difference(left, right).map_or(length.saturating_sub(FROM), |number| number - 1);
    let (start, end) = (first.saturating_sub(BEFORE), length.min(first + FROM));
    let line = |lines: &[String], at: usize| lines.get(at).cloned().unwrap_or_default();
    let width = (start..end).map(|at| line(left, at).chars().count()).max().unwrap_or(0).min(WIDEST);
    let mut shown = Vec::new();
    if start > 0 {
        shown.push(format!("({start} lines, the same in both)"));
    }
    for at in start..end {
        let mark = if left.get(at) == right.get(at) { ' ' } else { '|' };
        shown.push(format!("{:width$} {mark} {}", line(left, at), line(right, at)));
    }
    if end < length {
        let rest = (end..length).filter(|at| left.get(*at) != right.get(*at)).count();
        shown.push(format!("(and {} lines, of which {rest} differ)", length - end));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.split(' ').filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn text_is_wrapped() {
        let text = "word ".repeat(100);
        let lines = wrapped(&text);
        assert!(lines.iter().all(|line| line.len() <= TEXT_WIDTH && line.starts_with("word")));
        assert_eq!(lines.join(" "), text.trim_end());
    }

    #[test]
    fn the_first_difference_is_found() {
        assert_eq!(first_difference(&lines("a b c"), &lines("a b c")), None);
        assert_eq!(first_difference(&lines("a b c"), &lines("a x c")), Some(2));
        assert_eq!(first_difference(&lines("a b"), &lines("a b c")), Some(3));
        assert_eq!(first_difference(&lines(""), &lines("")), None);
    }

    #[test]
    fn what_differs_is_marked() {
        assert_eq!(side_by_side(&lines("a b c"), &lines("a x c")), ["a   a", "b | x", "c   c"]);
        assert_eq!(side_by_side(&lines("a"), &lines("a bb")), ["a   a", "  | bb"]);
        let long = lines("1 2 3 4 5 6 7 8 9 10 11 12");
        let mut other = long.clone();
        other[3] = "x".to_owned();
        other[10] = "y".to_owned();
        let shown = side_by_side(&long, &other);
        assert_eq!(shown[0], "(1 lines, the same in both)");
        assert_eq!(shown[3], "4 | x");
        assert_eq!(shown.last().map(String::as_str), Some("(and 4 lines, of which 1 differ)"));
    }
}
