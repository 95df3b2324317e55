//! The client token: where it is looked for, and that an unusable one is never taken for none.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::ClientError;

/// The most bytes that a token file may have.
const FILE_LIMIT: u64 = 4096;

/// A client token. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// The places where a token may be, in the order of precedence.
#[derive(Debug, Clone, Default)]
pub struct TokenPlaces {
    /// A file that was named on the command line.
    pub option: Option<PathBuf>,
    /// The token itself, from `DROVER_TOKEN`.
    pub variable: Option<String>,
    /// A file, from `DROVER_TOKEN_FILE`.
    pub file_variable: Option<PathBuf>,
    /// The file that a coordinator on this machine wrote at its first start; the only one that may be absent.
    pub default: PathBuf,
}

impl TokenPlaces {
    /// The token of the first place that is given.
    ///
    /// # Errors
    /// A place that is given and has no usable token, or no place with a token at all.
    pub fn find(&self) -> Result<Token, ClientError> {
        if let Some(file) = &self.option {
            return from_file(file);
        }
        if let Some(text) = &self.variable {
            return Token::parse(text, "DROVER_TOKEN");
        }
        if let Some(file) = &self.file_variable {
            return from_file(file);
        }
        match read(&self.default) {
            Ok(text) => Token::parse(&text, &self.default.display().to_string()),
            Err(error) => {
                let looked = format!("{}: {error}", self.default.display());
                Err(ClientError::NoToken { looked })
            }
        }
    }
}

impl Token {
    /// A token from text, white space around it aside.
    ///
    /// # Errors
    /// Empty text, or text that cannot go into a header.
    pub fn parse(text: &str, place: &str) -> Result<Self, ClientError> {
        let text = text.trim();
        let bad = |why: &str| ClientError::BadToken { place: place.to_owned(), why: why.to_owned() };
        if text.is_empty() {
            return Err(bad("it is empty"));
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(bad("it has characters that no token has"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The value of the `Authorization` header.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

fn from_file(file: &Path) -> Result<Token, ClientError> {
    let place = file.display().to_string();
    let text = read(file).map_err(|e| ClientError::BadToken { place: place.clone(), why: e.to_string() })?;
    Token::parse(&text, &place)
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    let size = File::open(file)?.take(FILE_LIMIT + 1).read_to_string(&mut text)?;
    if size as u64 > FILE_LIMIT {
        return Err(io::Error::other("it is too large for a token"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(contents: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), contents).unwrap();
        file
    }

    #[test]
    fn the_option_goes_before_the_variables_and_these_before_the_default() {
        let (option, named, default) = (file("option\n"), file("named"), file("default"));
        let mut places = TokenPlaces {
            option: Some(option.path().into()),
            variable: Some("variable".into()),
            file_variable: Some(named.path().into()),
            default: default.path().into(),
        };
        assert_eq!(places.find().unwrap().0, "option");
        places.option = None;
        assert_eq!(places.find().unwrap().0, "variable");
        places.variable = None;
        assert_eq!(places.find().unwrap().0, "named");
        places.file_variable = None;
        assert_eq!(places.find().unwrap().0, "default");
    }

    #[test]
    fn a_named_file_that_is_unreadable_or_empty_is_an_error_though_others_have_a_token() {
        let default = file("default");
        for option in [PathBuf::from("/nonexistent/token"), file(" \n").path().to_owned()] {
            let places =
                TokenPlaces { option: Some(option), default: default.path().into(), ..Default::default() };
            assert!(matches!(places.find(), Err(ClientError::BadToken { .. })));
        }
        let empty = TokenPlaces {
            variable: Some(String::new()),
            default: default.path().into(),
            ..Default::default()
        };
        assert!(matches!(empty.find(), Err(ClientError::BadToken { .. })));
    }

    #[test]
    fn an_empty_default_file_is_an_error_and_an_absent_one_is_no_token() {
        let empty = file("");
        let places = |default: &Path| TokenPlaces { default: default.to_owned(), ..Default::default() };
        assert!(matches!(places(empty.path()).find(), Err(ClientError::BadToken { .. })));
        assert!(matches!(places(Path::new("/nonexistent/t")).find(), Err(ClientError::NoToken { .. })));
    }

    #[test]
    fn a_token_is_not_shown_by_debug_and_cannot_end_a_header() {
        let token = Token::parse("secret", "x").unwrap();
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert!(Token::parse("a\r\nb", "x").is_err());
    }
}
