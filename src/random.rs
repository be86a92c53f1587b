//! Random text.

/// Letters and digits from the system's random source: nothing that a shell, a URL or an INI file could mangle.
pub fn alphanumeric(length: usize) -> String {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    /// Bytes from here on would make the first letters likelier than the rest.
    const REJECT_FROM: u8 = 248;
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut bytes = [0_u8; 64];
        getrandom::fill(&mut bytes).expect("the system has a random source");
        let fair = bytes.iter().filter(|byte| **byte < REJECT_FROM);
        text.extend(fair.map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])));
    }
    text.truncate(length);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_texts_differ() {
        let (one, two) = (alphanumeric(50), alphanumeric(50));
        assert_ne!(one, two);
        assert!(one.len() == 50 && one.chars().all(|c| c.is_ascii_alphanumeric()));
    }
}
