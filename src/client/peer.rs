//! The name of an operating system's user by its number.

/// The user's name, as `/etc/passwd` has it: users of a directory service are not known.
pub fn name_of(number: u32) -> Option<String> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    find(&text, number)
}

fn find(text: &str, number: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(number)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_number() {
        let text = "root:x:0:0:root:/root:/bin/bash\n\nbroken\nada:x:1000:100::/home/ada:/bin/sh\n";
        assert_eq!(find(text, 0).as_deref(), Some("root"));
        assert_eq!(find(text, 1000).as_deref(), Some("ada"));
        assert_eq!(find(text, 100), None);
    }
}
