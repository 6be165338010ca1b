//! Which items of a changed list are those of the old one.

use serde_json::Value;

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Item `old` is item `new` now, changed perhaps.
    Kept { old: usize, new: usize },
    /// Item `old` is gone.
    Removed { old: usize },
    /// Item `new` is new.
    Added { new: usize },
}

/// The fates of all items, in order.
pub(super) fn align(old: &[Value], new: &[Value]) -> Vec<Fate> {
    let (mut i, mut j) = (0, 0);
    let mut fates = Vec::new();
    while i < old.len() || j < new.len() {
        let fate = match (old.get(i), new.get(j)) {
            (Some(before), Some(after)) => {
                let comes_later = || new[j..].contains(before);
                let was_later = || old[i..].contains(after);
                if before == after || old.len() == new.len() || !(comes_later() || was_later()) {
                    Fate::Kept { old: i, new: j }
                } else if comes_later() {
                    Fate::Added { new: j }
                } else {
                    Fate::Removed { old: i }
                }
            }
            (Some(_), None) => Fate::Removed { old: i },
            (None, _) => Fate::Added { new: j },
        };
        match fate {
            Fate::Kept { .. } => (i, j) = (i + 1, j + 1),
            Fate::Removed { .. } => i += 1,
            Fate::Added { .. } => j += 1,
        }
        fates.push(fate);
    }
    fates
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fates(old: Value, new: Value) -> Vec<Fate> {
        align(old.as_array().unwrap(), new.as_array().unwrap())
    }

    #[test]
    fn items_are_kept_removed_and_added() {
        use Fate::{Added, Kept, Removed};
        assert_eq!(fates(json!(["a", "b"]), json!(["a", "c"])), [Kept { old: 0, new: 0 }, Kept { old: 1, new: 1 }]);
        assert_eq!(
            fates(json!(["a", "b", "c"]), json!(["a", "c"])),
            [Kept { old: 0, new: 0 }, Removed { old: 1 }, Kept { old: 2, new: 1 }]
        );
        assert_eq!(fates(json!(["b"]), json!(["a", "b"])), [Added { new: 0 }, Kept { old: 0, new: 1 }]);
        assert_eq!(fates(json!(["a", "b"]), json!([])), [Removed { old: 0 }, Removed { old: 1 }]);
        assert_eq!(fates(json!(["a"]), json!(["b", "c"])), [Kept { old: 0, new: 0 }, Added { new: 1 }]);
    }
}
