//! The text of group(5) and passwd(5). A static program has no name service; the files are all there is.

/// The id of the group called `name` in the text of a group file.
pub(super) fn group_id(groups: &str, name: &str) -> Option<u32> {
    id(groups, name)
}

/// The id of the user called `name` in the text of a password file.
pub(super) fn user_id(users: &str, name: &str) -> Option<u32> {
    id(users, name)
}

/// Both files hold the name in the first and the id in the third field. As in the C library, the first line whose id
/// is a number wins; the id that the kernel takes for "none" is not one.
fn id(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let found = fields.next() == Some(name) && !name.is_empty();
        let id = fields.nth(1).filter(|_| found)?;
        id.parse().ok().filter(|id| *id != u32::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: &str = "root:x:0:\n# comment\n\nbroken:x\nbad:x:many:\nstaff:x:50:alice,bob\nstaff:x:51:\nnone:x:4294967295:\n+:::\n";

    #[test]
    fn the_first_line_with_the_name_counts() {
        assert_eq!(group_id(GROUPS, "staff"), Some(50));
        assert_eq!(group_id(GROUPS, "root"), Some(0));
        assert_eq!(user_id("envoy:x:101:102:Envoy:/:/bin/sh", "envoy"), Some(101));
    }

    #[test]
    fn what_is_not_there_or_broken_is_not_found() {
        for name in ["alice", "broken", "bad", "none", "", "+", "STAFF", "staff:x"] {
            assert_eq!(group_id(GROUPS, name), None, "{name}");
        }
    }
}
