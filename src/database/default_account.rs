//! The account that Bots's bundled database comes with, and its password, which everybody can read in its sources.

use std::num::NonZeroU32;

use ring::pbkdf2::{PBKDF2_HMAC_SHA256, verify};

use super::query::Connection;

const USER: &str = "bots";
const PASSWORD: &str = "botsbots";

/// Whether that account can log in with that password.
///
/// # Errors
/// What the database says.
pub(super) async fn is_open(connection: &mut Connection) -> Result<bool, sqlx::Error> {
    let user = connection.quote_literal(USER);
    let query = format!("SELECT password, is_active FROM auth_user WHERE username = {user}");
    let rows = connection.fetch_text(query).await?;
    Ok(rows.into_iter().any(|row| match <[_; 2]>::try_from(row) {
        Ok([Some(hash), Some(active)]) => ["1", "t", "true"].contains(&active.as_str()) && matches(&hash, PASSWORD),
        _ => false,
    }))
}

/// Django's format: `pbkdf2_sha256$ITERATIONS$SALT$HASH`. The bundled databases have no other.
fn matches(hash: &str, password: &str) -> bool {
    let parts: Vec<&str> = hash.split('$').collect();
    let ["pbkdf2_sha256", iterations, salt, hash] = parts[..] else { return false };
    let (Some(iterations), Some(hash)) = (iterations.parse().ok().and_then(NonZeroU32::new), from_base64(hash)) else {
        return false;
    };
    verify(PBKDF2_HMAC_SHA256, iterations, salt.as_bytes(), password.as_bytes(), &hash).is_ok()
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut buffer, mut bits) = (Vec::new(), 0_u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter)?;
        buffer = (buffer << 6) | u32::try_from(value).ok()?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((buffer >> bits) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_account_is_known_by_its_password() {
        let bundled = "pbkdf2_sha256$12000$59AB2wJ6aY7e$6d1B5K+LEKAFG+t+j7WWxLhaPQ2vp00XzjgbtYf5oO8=";
        assert!(matches(bundled, PASSWORD));
        assert!(!matches(bundled, "another"));
        for other in ["", "!", "md5$a$b", "pbkdf2_sha256$0$a$b", "pbkdf2_sha256$1$a$*"] {
            assert!(!matches(other, PASSWORD), "{other}");
        }
    }
}
