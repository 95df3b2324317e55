//! Machines that enrol themselves: with a token each is made one agent, and gets a password.
//!
//! What tells a machine is its own word, so that who has a token can say to be any machine that enrolled itself, with that
//! token or another one: a machine that is set up anew may have been given a new one. Whoever does so takes that machine's
//! agent away from it, and does not go unseen: the password that it had is not accepted any more, and the log says so. A token
//! alone never speaks for an agent that was made like this.

use drover_wire::agent::{Enrolled, Enrolment};

use super::error::Error;
use super::secrets::{hash, new_secret};
use super::{Farm, agents, now, sql};

/// The most bytes that a machine may be told by.
const HARDWARE_MAX: usize = 128;

/// A machine that has a dynamic token.
#[derive(Debug, Clone)]
pub struct Enroller {
    pub(super) token: i64,
    /// What its agent is to be called.
    pub(super) name: String,
}

impl Farm {
    /// Gives a machine its agent, the same one each time, with a new password in the place of the last one.
    ///
    /// # Errors
    /// When it cannot be told by what it says, or the name is another agent's.
    pub async fn enrol(&self, enroller: Enroller, enrolment: Enrolment) -> Result<Enrolled, Error> {
        check_hardware(&enrolment.hardware)?;
        let password = new_secret()?;
        let (kept, hardware) = (hash(&password), enrolment.hardware.clone());
        let (row, before) = self
            .database
            .write(move |tx| {
                let row = agents::by_hardware(tx, enroller.token, &enroller.name, &hardware)?;
                let before = tx
                    .prepare_cached("DELETE FROM agent_passwords WHERE agent = ?1 AND enrolled = 1")?
                    .execute([row.id])?;
                tx.prepare_cached(
                    "INSERT INTO agent_passwords (hash, agent, created_at, enrolled) VALUES (?1, ?2, ?3, 1)",
                )?
                .execute((kept, row.id, sql(now())))?;
                Ok::<_, Error>((row, before))
            })
            .await?;
        self.secrets.forget(row.uuid);
        let (agent, uuid, hardware) = (&row.name, row.uuid, &enrolment.hardware);
        if before == 0 {
            tracing::info!(agent, %uuid, hardware, "a machine enrolled itself");
        } else {
            tracing::warn!(
                agent,
                %uuid,
                hardware,
                "a machine enrolled itself anew: what it had as a password is not accepted any more"
            );
        }
        Ok(Enrolled { agent: row.uuid, name: row.name, password })
    }
}

fn check_hardware(hardware: &str) -> Result<(), Error> {
    if !hardware.is_empty()
        && hardware.len() <= HARDWARE_MAX
        && hardware.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Ok(());
    }
    Err(Error::BadRequest(format!(
        "a machine is told by 1 to {HARDWARE_MAX} visible ASCII characters, such as serial: and its serial number"
    )))
}
