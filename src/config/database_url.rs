//! Parser of `BOTS_CTL_DATABASE_URL`: `ENGINE://USER:PASSWORD@HOST:PORT/NAME?OPTION=VALUE`.
//!
//! Messages never quote an invalid URL, which usually contains a password.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;

use super::parse::ParseResult;

/// The parts of a database URL; missing parts are empty.
#[derive(Debug, Clone)]
pub struct DatabaseUrl {
    /// `sqlite`, `mysql` or `postgresql`.
    pub engine: &'static str,
    pub user: String,
    pub password: Option<SecretString>,
    pub host: String,
    pub port: Option<u16>,
    /// The database; for SQLite an absolute path.
    pub name: String,
    /// The query, as Django's OPTIONS.
    pub options: BTreeMap<String, String>,
}

impl DatabaseUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// The error, without the text of the URL.
    pub fn parse(url: &str) -> ParseResult<Self> {
        let expected = "expected sqlite:///FILE, mysql://USER:PASSWORD@HOST:PORT/NAME or postgresql://…";
        if url.contains(char::is_control) {
            let text = "the URL contains a newline or another control character: remove it; `echo` appends a newline, `echo -n` does not";
            return Err(text.to_owned());
        }
        let (scheme, rest) = url.split_once("://").ok_or(expected)?;
        let engine = match scheme.to_ascii_lowercase().as_str() {
            "sqlite" | "sqlite3" => "sqlite",
            "mysql" | "mariadb" => "mysql",
            "postgres" | "postgresql" => "postgresql",
            _ => return Err(expected.to_owned()),
        };
        let (authority, path, query) = split(rest);
        let (credentials, address) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (credentials, None),
        };
        let (host, port) = host_and_port(address)?;
        let mut parsed = Self {
            engine,
            user: decode(user)?,
            password: password.filter(|p| !p.is_empty()).map(decode).transpose()?.map(SecretString::from),
            host: decode(host)?,
            port,
            name: decode(path)?,
            options: options(query)?,
        };
        parsed.normalise()?;
        Ok(parsed)
    }

    /// Checks engine-specific parts, and normalizes the rest.
    fn normalise(&mut self) -> ParseResult<()> {
        if self.engine == "sqlite" {
            let name = format!("/{}", self.name.trim_start_matches('/'));
            let is_file = self.host.is_empty() && self.user.is_empty() && Path::new(&name).file_name().is_some();
            self.name = name;
            return is_file.then_some(()).ok_or_else(|| {
                "expected sqlite:/// and the absolute path of a file, such as sqlite:///srv/bots/botsdb".to_owned()
            });
        }
        if let Some(host) = self.options.remove("host") {
            self.host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host).to_owned();
        }
        if let Some(port) = self.options.remove("port") {
            self.port = Some(super::parse::port(&port)?);
        }
        if let Some(socket) = self.options.remove("socket") {
            self.options.insert("unix_socket".to_owned(), socket);
        }
        for (key, address) in [("user", &mut self.user), ("dbname", &mut self.name)] {
            if let Some(value) = self.options.remove(key) {
                *address = value;
            }
        }
        if let Some(password) = self.options.remove("password") {
            self.password = Some(SecretString::from(password));
        }
        if self.name.is_empty() || self.name.contains('/') {
            return Err("expected a database name after the host: …@HOST:PORT/NAME".to_owned());
        }
        Ok(())
    }
}

/// User, host and port; path; query. A password may contain unescaped `/`, `?` and `#`: everything up to the last `@`
/// is credentials.
fn split(rest: &str) -> (&str, &str, &str) {
    let address = rest.rfind('@').map_or(0, |at| at + 1);
    let end = address + rest[address..].find(['/', '?']).unwrap_or(rest.len() - address);
    let (authority, tail) = rest.split_at(end);
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    (authority, path.strip_prefix('/').unwrap_or(path), query)
}

fn host_and_port(address: &str) -> ParseResult<(&str, Option<u16>)> {
    let number = |port: &str| match port {
        "" => Ok(None),
        port => super::parse::port(port).map(Some),
    };
    if let Some(bracketed) = address.strip_prefix('[') {
        let (host, rest) = bracketed.split_once(']').ok_or("the bracket of an IPv6 address is not closed")?;
        return Ok((host, number(rest.strip_prefix(':').unwrap_or(rest))?));
    }
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    Ok((host, number(port)?))
}

fn options(query: &str) -> ParseResult<BTreeMap<String, String>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').ok_or("an option after the question mark has no value")?;
            Ok((decode(key)?.replace('-', "_"), decode(value)?))
        })
        .collect()
}

/// Percent-decoding. A `%` without a code stands for itself, since passwords are often not encoded.
fn decode(text: &str) -> ParseResult<String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(Cow::into_owned).map_err(|_| "the URL is not UTF-8 after percent-decoding".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn password(url: &str) -> String {
        DatabaseUrl::parse(url).expect("valid").password.expect("given").expose_secret().to_owned()
    }

    #[test]
    fn parse_returns_all_parts_of_url() {
        let url = "postgresql://me:p%40ss@db.example.com:5433/bots?sslmode=verify-full&sslrootcert=/ca.pem";
        let url = DatabaseUrl::parse(url).expect("valid");
        assert_eq!((url.engine, url.user.as_str(), url.host.as_str()), ("postgresql", "me", "db.example.com"));
        assert_eq!((url.port, url.name.as_str()), (Some(5433), "bots"));
        assert_eq!(url.options["sslmode"], "verify-full");
        assert_eq!(url.options["sslrootcert"], "/ca.pem");
    }

    #[test]
    fn passwords_may_contain_any_character() {
        assert_eq!(password("mysql://me:a%3Ab@h/n"), "a:b");
        assert_eq!(password("mysql://me:a:b/c?d#e@f@h/n"), "a:b/c?d#e@f");
        assert_eq!(password("mysql://me:100%@h/n"), "100%");
        assert_eq!(password("mysql://me:%C3%A9%20@h/n"), "é ");
    }

    #[test]
    fn sockets_and_ipv6_addresses_are_parsed() {
        let url = DatabaseUrl::parse("postgres://me@%2Frun%2Fpostgresql/n").expect("valid");
        assert_eq!(url.host, "/run/postgresql");
        let url = DatabaseUrl::parse("postgres:///n?host=/run/pg&user=me").expect("valid");
        assert_eq!((url.host.as_str(), url.user.as_str()), ("/run/pg", "me"));
        let url = DatabaseUrl::parse("postgres://me@one:1/n?host=[::1]&port=5433").expect("valid");
        assert_eq!((url.host.as_str(), url.port), ("::1", Some(5433)));
        let url = DatabaseUrl::parse("mariadb://me@/n?socket=/run/m.sock").expect("valid");
        assert_eq!(url.options["unix_socket"], "/run/m.sock");
        let url = DatabaseUrl::parse("mysql://me@[::1]:3307/n").expect("valid");
        assert_eq!((url.host.as_str(), url.port), ("::1", Some(3307)));
        assert_eq!(DatabaseUrl::parse("sqlite:///srv/b%20c").expect("valid").name, "/srv/b c");
        assert_eq!(DatabaseUrl::parse("sqlite:////srv/b").expect("valid").name, "/srv/b");
    }

    #[test]
    fn newline_in_url_is_rejected_with_reason() {
        for url in ["mysql://me:p@h/n\n", "mysql://me:p@h:3306\n/n", "\tpostgres://me@h/n"] {
            assert!(DatabaseUrl::parse(url).expect_err("refused").contains("newline"), "{url:?}");
        }
        assert_eq!(password("mysql://me:a%0Ab@h/n"), "a\nb");
    }

    #[test]
    fn errors_do_not_quote_the_url() {
        for wrong in [
            "secret",
            "oracle://u:secret@h/n",
            "mysql://u:secret@h",
            "mysql://u:secret@h:x/n",
            "sqlite://",
            "mysql://u:secret@h/n?port=x",
        ] {
            let fault = DatabaseUrl::parse(wrong).expect_err(wrong);
            assert!(!fault.contains("secret"), "{fault}");
        }
    }
}
