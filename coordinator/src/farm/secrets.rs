//! Who may speak: tokens and passwords. Only their hashes are kept.
//!
//! A secret is 32 random bytes, so a plain hash of it cannot be searched for. What agents say is accepted from memory once it
//! was accepted; only passwords that a machine enrolled with are taken back, by its next enrolment. Clients ask more rarely:
//! their tokens are looked up each time, and one that is no longer there has no effect any more.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use drover_os::file::{self, Access};
use drover_store::Sha256Hash;
use drover_wire::AgentId;
use rusqlite::{Connection, OptionalExtension};
use subtle::ConstantTimeEq;

use super::browsers::Standing;
use super::change::AgentRow;
use super::enrol::Enroller;
use super::error::Error;
use super::{Farm, agents, now, sql};

/// The file in the state folder with the first client's token.
pub const CLIENT_TOKEN_FILE: &str = "client-token";

/// The longest secret that is looked at. Ours have 64 characters.
pub(super) const SECRET_MAX: usize = 1024;

/// What an agent says to be let in.
#[derive(Clone)]
pub enum Credentials {
    /// Its own password.
    Password {
        /// Who it is.
        uuid: AgentId,
        /// The password.
        password: String,
    },
    /// A dynamic token, with which agents enrol themselves.
    Token {
        /// The token.
        token: String,
        /// The name that the agent goes by, which it must say.
        name: Option<String>,
    },
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { uuid, .. } => write!(f, "Password({uuid}, …)"),
            Self::Token { name, .. } => write!(f, "Token({name:?}, …)"),
        }
    }
}

/// The hash of a secret, which is what is kept.
pub fn hash(secret: &str) -> [u8; 32] {
    *Sha256Hash::of(secret.as_bytes()).as_bytes()
}

/// A new secret: 32 random bytes as 64 hexadecimal digits.
///
/// # Errors
/// When the system gives no random bytes.
pub fn new_secret() -> Result<String, Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Error::io("make a secret", std::io::Error::other(error)))?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

/// The secrets that were accepted before.
#[derive(Default)]
pub struct Secrets(Mutex<Accepted>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

/// Every list has at most as many entries as there are secrets and agents.
#[derive(Default)]
struct Accepted {
    tokens: Vec<(i64, [u8; 32])>,
    passwords: HashMap<AgentId, (AgentRow, Vec<[u8; 32]>)>,
    enrolled: HashMap<(i64, String), AgentRow>,
    /// How often passwords were taken back: who read of one before that does not put it here after it.
    taken_back: u64,
}

impl Secrets {
    fn accepted(&self) -> MutexGuard<'_, Accepted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets an agent's passwords, some of which the database has no longer.
    pub(super) fn forget(&self, agent: AgentId) {
        let mut accepted = self.accepted();
        accepted.passwords.remove(&agent);
        accepted.taken_back += 1;
    }
}

/// The value whose hash this is. How long it takes does not tell how much of a hash is right.
pub(super) fn matching<'a, T>(
    known: impl IntoIterator<Item = (T, &'a [u8; 32])>,
    hash: &[u8; 32],
) -> Option<T> {
    let mut found = None;
    for (value, one) in known {
        if bool::from(one.ct_eq(hash)) {
            found = Some(value);
        }
    }
    found
}

impl Farm {
    /// Whether this is a client's token.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn check_client(&self, token: &str) -> Result<Option<Standing>, Error> {
        if token.len() > SECRET_MAX {
            return Ok(None);
        }
        let standing = Standing::Token(hash(token));
        Ok(self.stands(standing).await?.then_some(standing))
    }

    /// The agent that says this, if it is to be believed. A dynamic token makes the agent when it first speaks.
    ///
    /// # Errors
    /// When an agent with a dynamic token says no name, or one that cannot be or that is not its own.
    pub async fn check_agent(&self, who: Credentials) -> Result<Option<AgentRow>, Error> {
        match who {
            Credentials::Password { uuid, password } => self.check_password(uuid, &password).await,
            Credentials::Token { token, name } => self.check_dynamic(&token, name).await,
        }
    }

    async fn check_password(&self, uuid: AgentId, password: &str) -> Result<Option<AgentRow>, Error> {
        if password.len() > SECRET_MAX {
            return Ok(None);
        }
        let hash = hash(password);
        let before = {
            let accepted = self.secrets.accepted();
            if let Some((row, hashes)) = accepted.passwords.get(&uuid) {
                if matching(hashes.iter().map(|one| ((), one)), &hash).is_some() {
                    return Ok(Some(row.clone()));
                }
            }
            accepted.taken_back
        };
        let (row, hashes) = self.database.read(move |sql| passwords(sql, uuid)).await?;
        let found = matching(hashes.iter().map(|one| ((), one)), &hash).is_some();
        let Some(row) = row.filter(|_| found) else { return Ok(None) };
        let mut accepted = self.secrets.accepted();
        if accepted.taken_back != before {
            return Ok(Some(row));
        }
        let (_, known) = accepted.passwords.entry(uuid).or_insert_with(|| (row.clone(), Vec::new()));
        if !known.contains(&hash) {
            known.push(hash);
        }
        Ok(Some(row))
    }

    async fn check_dynamic(&self, token: &str, name: Option<String>) -> Result<Option<AgentRow>, Error> {
        let Some(Enroller { token: id, name }) = self.check_enroller(token, name).await? else {
            return Ok(None);
        };
        let key = (id, name);
        if let Some(row) = self.secrets.accepted().enrolled.get(&key) {
            return Ok(Some(row.clone()));
        }
        let name = key.1.clone();
        let row = self.database.write(move |tx| agents::by_name(tx, id, &name)).await?;
        self.secrets.accepted().enrolled.insert(key, row.clone());
        Ok(Some(row))
    }

    /// The machine that says this, if the token is one, for [`Farm::enrol`].
    ///
    /// # Errors
    /// When it says no name.
    pub async fn check_enroller(&self, token: &str, name: Option<String>) -> Result<Option<Enroller>, Error> {
        if token.len() > SECRET_MAX {
            return Ok(None);
        }
        let hash = hash(token);
        let known = |accepted: &Accepted| matching(accepted.tokens.iter().map(|(id, one)| (*id, one)), &hash);
        let known_id = known(&self.secrets.accepted());
        let id = match known_id {
            Some(id) => id,
            None => {
                let tokens = self.database.read(move |sql| tokens(sql, "agent")).await?;
                let found = matching(tokens.iter().map(|(id, one)| (*id, one)), &hash);
                let Some(id) = found else { return Ok(None) };
                let mut accepted = self.secrets.accepted();
                if known(&accepted).is_none() {
                    accepted.tokens.push((id, hash));
                }
                id
            }
        };
        let Some(name) = name else {
            return Err(Error::BadRequest(format!(
                "an agent with a dynamic token must say its name in the header {}",
                drover_wire::AGENT_NAME_HEADER
            )));
        };
        Ok(Some(Enroller { token: id, name }))
    }

    /// When there is no client token at all, makes one, and gives the file that it is in. Blocks.
    ///
    /// # Errors
    /// When the file or the database cannot be written.
    pub fn first_client_token(&self) -> Result<Option<PathBuf>, Error> {
        let none = self.database.read_blocking(|sql| tokens(sql, "client"))?.is_empty();
        if !none {
            return Ok(None);
        }
        // The file goes first: should the database not follow, the next start makes another token.
        let path = self.storage.root().join(CLIENT_TOKEN_FILE);
        let secret = new_secret()?;
        file::replace(&path, format!("{secret}\n").as_bytes(), Access::Private)
            .map_err(|error| Error::io("keep the first client token", error))?;
        self.database.write_blocking(move |tx| keep_token(tx, &secret, "client", "the first one"))?;
        Ok(Some(path))
    }
}

/// Keeps the hash of a new token.
pub(super) fn keep_token(db: &Connection, secret: &str, kind: &str, note: &str) -> Result<(), Error> {
    db.prepare_cached("INSERT INTO tokens (hash, kind, note, created_at) VALUES (?1, ?2, ?3, ?4)")?
        .execute((hash(secret), kind, note, sql(now())))?;
    Ok(())
}

/// The hashes of all tokens of a kind, with their numbers.
pub(super) fn tokens(sql: &Connection, kind: &str) -> Result<Vec<(i64, [u8; 32])>, Error> {
    let mut statement = sql.prepare_cached("SELECT id, hash FROM tokens WHERE kind = ?1")?;
    let rows = statement.query_map([kind], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Whether it is the hash of a client's token.
pub(super) fn is_client(sql: &Connection, hash: &[u8; 32]) -> Result<bool, Error> {
    Ok(matching(tokens(sql, "client")?.iter().map(|(_, one)| ((), one)), hash).is_some())
}

fn passwords(sql: &Connection, uuid: AgentId) -> Result<(Option<AgentRow>, Vec<[u8; 32]>), Error> {
    let row = sql
        .prepare_cached("SELECT id, uuid, name FROM agents WHERE uuid = ?1")?
        .query_row([uuid.0.as_bytes()], agents::row)
        .optional()?;
    let mut statement = sql.prepare_cached("SELECT hash FROM agent_passwords WHERE agent = ?1")?;
    let id = row.as_ref().map_or(-1, |row| row.id);
    let rows = statement.query_map([id], |row| row.get(0))?;
    let hashes = rows.collect::<rusqlite::Result<_>>()?;
    Ok((row, hashes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_long_and_never_the_same() {
        let (one, other) = (new_secret().unwrap(), new_secret().unwrap());
        assert_eq!(one.len(), 64);
        assert_ne!(one, other);
    }

    #[test]
    fn only_the_same_secret_has_the_hash() {
        let known = [(1, hash("one")), (2, hash("two"))];
        let find = |secret: &str| matching(known.iter().map(|(id, one)| (*id, one)), &hash(secret));
        assert_eq!((find("one"), find("two"), find("three")), (Some(1), Some(2), None));
    }

    #[test]
    fn credentials_are_not_printed() {
        let who = Credentials::Token { token: "secret".to_owned(), name: Some("sparky".to_owned()) };
        assert!(!format!("{who:?}").contains("secret"));
    }
}
