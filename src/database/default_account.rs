//! The account of Bots's bundled database, whose password is public.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::pbkdf2::{PBKDF2_HMAC_SHA256, verify};

use super::query::{Connection, Row, text};

const USER: &str = "bots";
const PASSWORD: &str = "botsbots";

/// Whether that account can log in with that password.
///
/// # Errors
/// If the query fails.
pub(super) async fn is_open(connection: &mut Connection) -> Result<bool, sqlx::Error> {
    let user = connection.quote_literal(USER);
    let query = format!("SELECT password, is_active FROM auth_user WHERE username = {user}");
    let rows = connection.fetch_text(query).await?;
    let is_active = |row: &Row| text(row, 1).is_some_and(|active| ["1", "t", "true"].contains(&active.as_str()));
    Ok(rows.iter().any(|row| is_active(row) && text(row, 0).is_some_and(|hash| matches(&hash, PASSWORD))))
}

/// Django's format: `pbkdf2_sha256$ITERATIONS$SALT$HASH`. The bundled databases have no other.
fn matches(hash: &str, password: &str) -> bool {
    let parts: Vec<&str> = hash.split('$').collect();
    let ["pbkdf2_sha256", iterations, salt, hash] = parts[..] else { return false };
    let (Ok(iterations), Ok(hash)) = (iterations.parse::<NonZeroU32>(), STANDARD.decode(hash)) else { return false };
    verify(PBKDF2_HMAC_SHA256, iterations, salt.as_bytes(), password.as_bytes(), &hash).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_account_is_recognized_by_password_hash() {
        let bundled = "pbkdf2_sha256$12000$59AB2wJ6aY7e$6d1B5K+LEKAFG+t+j7WWxLhaPQ2vp00XzjgbtYf5oO8=";
        assert!(matches(bundled, PASSWORD));
        assert!(!matches(bundled, "another"));
        for other in ["", "!", "md5$a$b", "pbkdf2_sha256$0$a$b", "pbkdf2_sha256$1$a$*"] {
            assert!(!matches(other, PASSWORD), "{other}");
        }
    }
}
