//! Words in messages: lists of them, and the one that was probably meant.

use super::MAX_SHOWN;

/// `a`, `b`, `c`
pub(super) fn listed<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.map(|word| format!("`{word}`")).collect();
    words.join(", ")
}

/// The nearest of `words`, and whether it is near enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<(&'a str, bool)> {
    let normal = |word: &str| word.chars().take(MAX_SHOWN).collect::<String>().to_lowercase().replace(['-', ' '], "_");
    let word = normal(word);
    let (known, distance) = words.map(|known| (known, distance(&word, &normal(known)))).min_by_key(|(_, d)| *d)?;
    Some((known, distance <= 1.max(known.chars().count().min(word.chars().count()) / 3)))
}

/// How many characters must be added, removed, replaced or swapped with their neighbour to make one of the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    let mut previous = None;
    for (row, character) in from.chars().enumerate() {
        let mut current = vec![row + 1];
        for (column, other) in to.iter().enumerate() {
            let at = |row: &[usize], column: usize| row.get(column).copied().unwrap_or(usize::MAX - 1);
            let mut cost = (at(&last, column) + usize::from(character != *other))
                .min(at(&last, column + 1) + 1)
                .min(at(&current, column) + 1);
            if let Some(left) = column.checked_sub(1)
                && previous == Some(*other)
                && to.get(left) == Some(&character)
            {
                cost = cost.min(at(&before_last, left) + 1);
            }
            current.push(cost);
        }
        before_last = std::mem::replace(&mut last, current);
        previous = Some(character);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn distances() {
        for (from, to, expected) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("known_host", "known_hosts", 1),
            ("adress", "address", 1),
            ("paasive", "passive", 1),
            ("lmiits", "limits", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }

    #[test]
    fn the_nearest_word_and_whether_it_is_near() {
        let words = ["known_hosts", "host_keys", "address"];
        let nearest = |word| nearest(word, words.into_iter());
        assert_eq!(nearest("known-hosts"), Some(("known_hosts", true)));
        assert_eq!(nearest("KnownHosts"), Some(("known_hosts", true)));
        assert_eq!(nearest("adress"), Some(("address", true)));
        assert_eq!(nearest("zzzzz").map(|(_, near)| near), Some(false));
        assert_eq!(super::nearest("a", std::iter::empty()), None);
    }

    proptest! {
        #[test]
        fn distance_is_symmetric_and_zero_only_for_equals(from in "[abc]{0,6}", to in "[abc]{0,6}") {
            prop_assert_eq!(distance(&from, &to), distance(&to, &from));
            prop_assert_eq!(distance(&from, &to) == 0, from == to);
        }
    }
}
