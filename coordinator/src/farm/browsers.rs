//! Browsers that somebody logged in with a client's token.
//!
//! What a browser keeps is not the token but a secret of its own, of which only the hash is kept here. It is looked up for every
//! request: whatever ends a session, or takes its token away, has an effect at once.

use std::collections::HashMap;

use rusqlite::Connection;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::Error;
use super::secrets::{self, SECRET_MAX, is_client, matching, new_secret, tokens};
use super::{Farm, now, sql};

/// How long a browser stays logged in, in seconds.
pub const SESSION_SECONDS: u64 = 30 * 86_400;
/// How many browsers are logged in with one token at once; older ones have to log in again.
const MOST: i64 = 100;

/// With what somebody was let in: a secret's hash. Whoever reads on and on may do so as long as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// A client's token.
    Token([u8; 32]),
    /// A browser's session.
    Session([u8; 32]),
}

/// When it was last looked whether something stands, for those who read on and on: a thousand readers with one token look
/// once.
#[derive(Debug, Default)]
pub struct Looked(Mutex<HashMap<Standing, Instant>>);

impl Farm {
    /// Whether somebody who was let in still would be, as of a time that is given: later than `since`.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn still_stands(&self, standing: Standing, since: Instant) -> Result<Option<Instant>, Error> {
        // Held while it is looked, so that others wait for that.
        let mut looked = self.looked.0.lock().await;
        looked.retain(|_, at| at.elapsed() < self.beat);
        if let Some(at) = looked.get(&standing).filter(|at| **at > since) {
            return Ok(Some(*at));
        }
        let now = Instant::now();
        if !self.stands(standing).await? {
            looked.remove(&standing);
            return Ok(None);
        }
        looked.insert(standing, now);
        Ok(Some(now))
    }

    /// Whether somebody who was let in still would be.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn stands(&self, standing: Standing) -> Result<bool, Error> {
        self.database
            .read(move |sql| match standing {
                Standing::Token(hash) => is_client(sql, &hash),
                Standing::Session(hash) => is_session(sql, hash),
            })
            .await
    }

    /// Begins a session with a client's token: what the browser is to keep. None if that is no client's token.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn log_in(&self, token: &str) -> Result<Option<String>, Error> {
        if token.len() > SECRET_MAX {
            return Ok(None);
        }
        let hash = secrets::hash(token);
        let tokens = self.database.read(move |sql| tokens(sql, "client")).await?;
        let found = matching(tokens.iter().map(|(id, one)| (*id, one)), &hash);
        let Some(token) = found else { return Ok(None) };
        let secret = new_secret()?;
        let kept = secrets::hash(&secret);
        self.database
            .write(move |tx| {
                let at = now();
                tx.prepare_cached("DELETE FROM sessions WHERE ends_at <= ?1")?.execute([sql(at)])?;
                tx.prepare_cached(
                    "DELETE FROM sessions WHERE hash IN (SELECT hash FROM sessions WHERE token = ?1 \
                     ORDER BY created_at DESC LIMIT -1 OFFSET ?2)",
                )?
                .execute((token, MOST - 1))?;
                tx.prepare_cached(
                    "INSERT INTO sessions (hash, token, created_at, ends_at) VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute((kept, token, sql(at), sql(at + SESSION_SECONDS * 1000)))?;
                Ok::<_, Error>(())
            })
            .await?;
        tracing::info!("a browser was logged in");
        Ok(Some(secret))
    }

    /// Whether this is what a browser keeps of a session that goes on.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn check_session(&self, secret: &str) -> Result<Option<Standing>, Error> {
        if secret.len() > SECRET_MAX {
            return Ok(None);
        }
        let standing = Standing::Session(secrets::hash(secret));
        Ok(self.stands(standing).await?.then_some(standing))
    }

    /// Ends a session, if it is one.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn log_out(&self, secret: &str) -> Result<(), Error> {
        let hash = secrets::hash(secret);
        self.database
            .write(move |tx| {
                tx.prepare_cached("DELETE FROM sessions WHERE hash = ?1")?.execute([hash])?;
                Ok(())
            })
            .await
    }
}

fn is_session(db: &Connection, hash: [u8; 32]) -> Result<bool, Error> {
    let goes_on = "SELECT 1 FROM sessions s JOIN tokens t ON t.id = s.token \
                   WHERE s.hash = ?1 AND s.ends_at > ?2 AND t.kind = 'client'";
    Ok(db.prepare_cached(goes_on)?.exists((hash, sql(now())))?)
}
