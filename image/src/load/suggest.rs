//! "Did you mean": the name that a wrong one was probably meant to be.

/// The candidate that is the fewest typing errors away from `word`, if it is near enough to be meant.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = folded(word);
    let far = (wanted.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .map(|candidate| (distance(&wanted, &folded(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= far && *distance < candidate.chars().count())
        .min()
        .map(|(_, candidate)| candidate)
}

/// A hint on a name that is none of those that exist: the one meant, or all of them.
pub fn hint<'a>(word: &str, what: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let candidates: Vec<_> = candidates.into_iter().collect();
    match closest(word, candidates.iter().copied()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None if candidates.is_empty() => format!("there is no {what}"),
        None => format!("there is: {}", list(&candidates)),
    }
}

/// Names in back-ticks.
pub fn list<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// Case, and the choice of `-` or `_`, are no errors of their own.
fn folded(word: &str) -> String {
    word.to_lowercase().replace('_', "-")
}

/// Optimal string alignment: letters added, left out, replaced, or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    // A name in a file can be of any length; none that is looked for is longer than this.
    if a.len().max(b.len()) > 80 {
        return usize::MAX;
    }
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 5] = ["fragments", "source", "requirements", "image-limit", "base"];

    #[test]
    fn a_typing_error_finds_the_name_that_was_meant() {
        for (word, meant) in [
            ("fragmets", "fragments"),
            ("fragment", "fragments"),
            ("image_limit", "image-limit"),
            ("Source", "source"),
            ("suorce", "source"),
            ("bsae", "base"),
        ] {
            assert_eq!(closest(word, KEYS), Some(meant), "{word}");
        }
    }

    #[test]
    fn a_name_that_is_like_none_finds_none() {
        for word in ["", "x", "colour", "é", "a-much-longer-name-than-any"] {
            assert_eq!(closest(word, KEYS), None, "{word}");
        }
        assert_eq!(hint("colour", "key", ["base", "source"]), "there is: `base`, `source`");
    }

    #[test]
    fn a_very_long_name_is_not_compared() {
        assert_eq!(closest(&"x".repeat(1 << 20), KEYS), None);
    }
}
