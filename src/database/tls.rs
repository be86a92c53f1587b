//! The encryption of a connection, from the options of Django's clients.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::Error;

/// The encryption of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// `None` selects the client's default: encrypted if the server supports it.
    pub mode: Option<Mode>,
    /// Additional trusted CA certificates.
    pub ca: Option<PathBuf>,
    /// The client's certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// The strictness of the encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Never encrypted.
    Disabled,
    /// Encrypted if the server supports it.
    Preferred,
    /// Always encrypted; the server's certificate is not checked.
    Required,
    /// The server's certificate must be signed by an authority.
    VerifyAuthority,
    /// The certificate must also match the host.
    VerifyHost,
}

/// Reads the options of both kinds of clients.
///
/// # Errors
/// When a mode is not known.
pub fn from_options(options: &Map<String, Value>) -> Result<Tls, Error> {
    let group = options.get("ssl").and_then(Value::as_object);
    let text = |name: &str| options.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let file = |ours: [&str; 2], in_group: &str| {
        let grouped = || group?.get(in_group)?.as_str();
        ours.iter().find_map(|name| text(name)).or_else(grouped).map(PathBuf::from)
    };
    let ca = file(["sslrootcert", "ssl_ca"], "ca");
    // libpq's word for the authorities of the system. With those, any other owner of a certificate could answer, so libpq
    // also checks the host, and permits no weaker mode.
    let is_system = ca.as_ref().is_some_and(|ca| ca.as_os_str() == "system");
    let mut tls = Tls {
        mode: text("sslmode").or_else(|| text("ssl_mode")).map(mode).transpose()?,
        ca: ca.filter(|_| !is_system),
        certificate: file(["sslcert", "ssl_cert"], "cert"),
        key: file(["sslkey", "ssl_key"], "key"),
    };
    let asked_for = group.is_some_and(|group| !group.is_empty()) || options.get("ssl") == Some(&Value::Bool(true));
    // A named authority is checked, as libpq does.
    match tls.mode {
        _ if is_system => tls.mode = Some(Mode::VerifyHost),
        None if tls.ca.is_some() => tls.mode = Some(Mode::VerifyAuthority),
        None if asked_for => tls.mode = Some(Mode::Required),
        Some(Mode::Required) if tls.ca.is_some() => tls.mode = Some(Mode::VerifyAuthority),
        _ => {}
    }
    Ok(tls)
}

fn mode(name: &str) -> Result<Mode, Error> {
    match name.to_ascii_lowercase().replace('_', "-").as_str() {
        "disable" | "disabled" => Ok(Mode::Disabled),
        "allow" | "prefer" | "preferred" => Ok(Mode::Preferred),
        "require" | "required" => Ok(Mode::Required),
        "verify-ca" => Ok(Mode::VerifyAuthority),
        "verify-full" | "verify-identity" => Ok(Mode::VerifyHost),
        _ => Err(Error::Unsupported(format!(
            "settings.py: DATABASES has the TLS mode {name:?} in OPTIONS: use disable, prefer, require, verify-ca or \
             verify-full (PostgreSQL), or DISABLED to VERIFY_IDENTITY (MySQL)"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(options: &str) -> Tls {
        from_options(&serde_json::from_str(options).expect("an object")).expect("valid")
    }

    #[test]
    fn tls_options_of_both_clients_are_parsed() {
        assert_eq!(tls("{}"), Tls::default());
        let files = tls(r#"{"sslmode": "verify-full", "sslrootcert": "/ca", "sslcert": "/c", "sslkey": "/k"}"#);
        assert_eq!(files.mode, Some(Mode::VerifyHost));
        assert_eq!((files.ca, files.key), (Some("/ca".into()), Some("/k".into())));
        let grouped = tls(r#"{"ssl": {"ca": "/ca", "cert": "/c", "key": "/k"}}"#);
        assert_eq!((grouped.mode, grouped.certificate), (Some(Mode::VerifyAuthority), Some("/c".into())));
        assert_eq!(tls(r#"{"ssl_mode": "VERIFY_IDENTITY"}"#).mode, Some(Mode::VerifyHost));
        assert_eq!(tls(r#"{"sslmode": "require", "sslrootcert": "/ca"}"#).mode, Some(Mode::VerifyAuthority));
        for options in [r#"{"sslrootcert": "system"}"#, r#"{"sslmode": "require", "sslrootcert": "system"}"#] {
            let system = tls(options);
            assert_eq!((system.mode, system.ca), (Some(Mode::VerifyHost), None), "{options}");
        }
        assert!(from_options(&serde_json::from_str(r#"{"sslmode": "always"}"#).expect("an object")).is_err());
    }
}
