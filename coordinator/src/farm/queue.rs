//! What waits, in the order in which it will go.

use std::sync::Arc;

use drover_wire::client::BuildSummary;
use drover_wire::{BuildId, BuildState};
use rusqlite::Connection;
use rusqlite::types::Value;
use serde::Deserialize;

use super::error::Error;
use super::list::{self, Phases};
use super::{Farm, paths, unsql};

/// How many builds a page of the queue has.
const PAGE: usize = 100;
/// Builds with a tag that are looked at one by one; of a tag that more have, the queue is looked through.
const FEW: i64 = 2000;
/// Before the first.
const START: (i64, i64) = (i64::MAX, 0);

/// Which builds of the queue are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct QueueQuestion {
    /// In this state, which is none of an end; those that are ready by default.
    pub state: Option<BuildState>,
    /// That can go to this system, or builtin builder.
    pub system: Option<String>,
    /// With this tag: `KEY=VALUE`, or `KEY` with any value.
    pub tag: Option<String>,
    /// Those that come after this one: how the next page is asked for.
    pub after: Option<BuildId>,
}

/// A page of the queue.
#[derive(Debug)]
pub struct Queue {
    /// How many builds there are, by state and system.
    pub counts: Vec<Count>,
    /// The builds: those that are ready in the order in which they will go, others the oldest first.
    pub builds: Vec<BuildSummary>,
    /// Whether there are more.
    pub more: bool,
}

/// How many builds in one state can go to one system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The state.
    pub state: BuildState,
    /// The system, or the builtin builder, as `builtin:download`.
    pub system: String,
    /// How many.
    pub count: u64,
}

impl Farm {
    /// A page of the queue.
    ///
    /// # Errors
    /// When the page is to start after a build that there is not.
    pub async fn queue(&self, question: QueueQuestion) -> Result<Queue, Error> {
        let live = Arc::clone(&self.live);
        self.database
            .read(move |sql| {
                let phases = Phases::of(&live);
                let mut ids = page(sql, &question, PAGE + 1)?;
                let more = ids.len() > PAGE;
                ids.truncate(PAGE);
                let builds = ids.into_iter().map(|id| list::summary(sql, &phases, id));
                Ok(Queue { counts: counts(sql)?, builds: builds.collect::<Result<_, Error>>()?, more })
            })
            .await
    }
}

/// How many builds there are, by state and system.
pub(super) fn counts(sql: &Connection) -> Result<Vec<Count>, Error> {
    let mut statement = sql.prepare_cached(
        "SELECT c.state, p.name, c.count FROM platform_counts c JOIN platforms p ON p.id = c.platform \
         WHERE c.count > 0 ORDER BY p.name",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Count { state: paths::state(row, 0)?, system: row.get(1)?, count: unsql(row.get(2)?) })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The numbers of the first builds that are ready for one of these platforms, in the order in which they will go.
pub(super) fn next(sql: &Connection, platforms: &[i64], most: usize) -> Result<Vec<i64>, Error> {
    ready(sql, platforms, None, START, most)
}

fn page(sql: &Connection, question: &QueueQuestion, most: usize) -> Result<Vec<i64>, Error> {
    let tag = question.tag.as_deref().map(|tag| match tag.split_once('=') {
        Some((key, value)) => Tag { key: key.to_owned(), value: Some(value.to_owned()) },
        None => Tag { key: tag.to_owned(), value: None },
    });
    let after = match question.after {
        Some(build) => {
            let id = list::find(sql, build)?;
            let priority = sql
                .prepare_cached("SELECT priority FROM builds WHERE id = ?1")?
                .query_row([id], |row| row.get(0))?;
            (priority, id)
        }
        None => START,
    };
    let mut platforms = sql.prepare_cached("SELECT id FROM platforms WHERE ?1 IS NULL OR name = ?1")?;
    let platforms = platforms.query_map([&question.system], |row| row.get(0))?;
    let platforms: Vec<i64> = platforms.collect::<rusqlite::Result<_>>()?;
    match question.state.unwrap_or(BuildState::Ready) {
        BuildState::Ready => ready(sql, &platforms, tag.as_ref(), after, most),
        state => {
            others(sql, state, question.system.is_some().then_some(&platforms), tag.as_ref(), after.1, most)
        }
    }
}

/// A tag that builds are to have.
struct Tag {
    key: String,
    value: Option<String>,
}

impl Tag {
    /// The condition, for the build `b`.
    fn condition(&self) -> &'static str {
        match self.value {
            Some(_) => {
                " AND EXISTS (SELECT 1 FROM build_tags t WHERE t.build = b.id AND t.key = ? AND t.value = ?)"
            }
            None => " AND EXISTS (SELECT 1 FROM build_tags t WHERE t.build = b.id AND t.key = ?)",
        }
    }

    /// The condition for a row of `build_tags`.
    fn own_condition(&self) -> &'static str {
        if self.value.is_some() { "t.key = ? AND t.value = ?" } else { "t.key = ?" }
    }

    fn values(&self) -> impl Iterator<Item = Value> + '_ {
        std::iter::once(&self.key).chain(&self.value).map(|text| text.clone().into())
    }

    /// Whether few builds have it.
    fn is_rare(&self, sql: &Connection) -> Result<bool, Error> {
        let own = self.own_condition();
        let query = format!("SELECT count(*) FROM (SELECT 1 FROM build_tags t WHERE {own} LIMIT {FEW})");
        let mut statement = sql.prepare_cached(&query)?;
        let count: i64 = statement.query_row(rusqlite::params_from_iter(self.values()), |row| row.get(0))?;
        Ok(count < FEW)
    }
}

/// Those that are ready, from behind a priority and number on.
fn ready(
    sql: &Connection,
    platforms: &[i64],
    tag: Option<&Tag>,
    after: (i64, i64),
    most: usize,
) -> Result<Vec<i64>, Error> {
    let mut found: Vec<(i64, i64)> = Vec::new();
    if let Some(tag) = tag {
        if tag.is_rare(sql)? {
            let query = format!(
                "SELECT b.priority, b.id, b.platform FROM build_tags t JOIN builds b ON b.id = t.build \
                 WHERE {} AND b.state = 'ready'",
                tag.own_condition()
            );
            let mut statement = sql.prepare_cached(&query)?;
            let mut rows = statement.query(rusqlite::params_from_iter(tag.values()))?;
            while let Some(row) = rows.next()? {
                let place: (i64, i64) = (row.get(0)?, row.get(1)?);
                let comes = place.0 < after.0 || place.0 == after.0 && place.1 > after.1;
                if comes && platforms.contains(&row.get(2)?) {
                    found.push(place);
                }
            }
            return Ok(in_order(found, most));
        }
    }
    let condition = tag.map_or("", Tag::condition);
    // The rest of the same priority, and then all that are lower: both are parts of the index, which starts where they do.
    let same = "b.priority = ? AND b.id > ?";
    let lower = "b.priority < ? AND b.id > ?";
    for platform in platforms {
        let mut left = most;
        for (part, after) in [(same, after), (lower, (after.0, 0))] {
            let query = format!(
                "SELECT b.priority, b.id FROM builds b INDEXED BY builds_ready \
                 WHERE b.state = 'ready' AND b.platform = ? AND {part}{condition} \
                 ORDER BY b.priority DESC, b.id LIMIT ?"
            );
            let mut values: Vec<Value> = vec![(*platform).into(), after.0.into(), after.1.into()];
            values.extend(tag.iter().flat_map(|tag| tag.values()));
            values.push(i64::try_from(left).unwrap_or(i64::MAX).into());
            let mut statement = sql.prepare_cached(&query)?;
            let rows = statement
                .query_map(rusqlite::params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?)))?;
            let before = found.len();
            for row in rows {
                found.push(row?);
            }
            left -= found.len() - before;
        }
    }
    Ok(in_order(found, most))
}

fn in_order(mut found: Vec<(i64, i64)>, most: usize) -> Vec<i64> {
    found.sort_unstable_by_key(|(priority, id)| (std::cmp::Reverse(*priority), *id));
    found.truncate(most);
    found.into_iter().map(|(_, id)| id).collect()
}

/// Those in another state, the oldest first.
fn others(
    sql: &Connection,
    state: BuildState,
    platforms: Option<&Vec<i64>>,
    tag: Option<&Tag>,
    after: i64,
    most: usize,
) -> Result<Vec<i64>, Error> {
    let platform = match platforms.map(Vec::as_slice) {
        None => None,
        Some([platform, ..]) => Some(*platform),
        Some([]) => return Ok(Vec::new()),
    };
    let query = format!(
        "SELECT b.id FROM builds b WHERE b.state = ? AND b.id > ?{}{} ORDER BY b.id LIMIT ?",
        if platform.is_some() { " AND b.platform = ?" } else { "" },
        tag.map_or("", Tag::condition)
    );
    let mut values: Vec<Value> = vec![state.as_str().to_owned().into(), after.into()];
    values.extend(platform.map(Value::from));
    values.extend(tag.iter().flat_map(|tag| tag.values()));
    values.push(i64::try_from(most).unwrap_or(i64::MAX).into());
    let mut statement = sql.prepare_cached(&query)?;
    let rows = statement.query_map(rusqlite::params_from_iter(values), |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn those_that_are_ready_come_by_priority_and_age_page_by_page() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.sqlite");
        let _ = crate::database::Database::<()>::open(&path, |_| {}).unwrap();
        let sql = Connection::open(&path).unwrap();
        // Builds alone, without derivations.
        sql.pragma_update(None, "foreign_keys", false).unwrap();
        sql.execute_batch("INSERT INTO platforms VALUES (1, 'a-linux'), (2, 'b-linux')").unwrap();
        for n in 1..=40_i64 {
            let state = if n % 10 == 0 { "waiting" } else { "ready" };
            sql.execute(
                "INSERT INTO builds (id, uuid, derivation, target, platform, state, priority, missing, submitted_at) \
                 VALUES (?1, ?2, ?1, ?1, ?3, ?4, ?5, 0, 0)",
                (n, uuid(n), 1 + n % 2, state, n % 3),
            )
            .unwrap();
            sql.execute("INSERT INTO build_tags VALUES (?1, 'third', ?2)", (n, (n % 3).to_string())).unwrap();
        }
        let mut expected: Vec<i64> = (1..=40).filter(|n| n % 10 != 0).collect();
        expected.sort_by_key(|n| (-(n % 3), *n));
        let all = |question: QueueQuestion, most: usize| {
            let mut question = question;
            let mut all = Vec::new();
            loop {
                let some = page(&sql, &question, most).unwrap();
                let Some(last) = some.last() else { return all };
                question.after = Some(BuildId(uuid::Uuid::from_slice(&uuid(*last)).unwrap()));
                all.extend(some);
            }
        };
        for most in [1, 4, 7, 100] {
            assert_eq!(all(QueueQuestion::default(), most), expected, "{most}");
            let odd = QueueQuestion { system: Some("b-linux".into()), ..QueueQuestion::default() };
            let odds: Vec<i64> = expected.iter().copied().filter(|n| n % 2 == 1).collect();
            assert_eq!(all(odd, most), odds);
            let tagged = QueueQuestion { tag: Some("third=1".into()), ..QueueQuestion::default() };
            let thirds: Vec<i64> = expected.iter().copied().filter(|n| n % 3 == 1).collect();
            assert_eq!(all(tagged, most), thirds);
            let waiting = QueueQuestion {
                state: Some(BuildState::Waiting),
                tag: Some("third".into()),
                system: Some("a-linux".into()),
                after: None,
            };
            assert_eq!(all(waiting, most), [10, 20, 30, 40]);
            let nowhere = QueueQuestion { system: Some("c".into()), ..QueueQuestion::default() };
            assert_eq!(all(nowhere, most), Vec::<i64>::new());
        }
        let frequent = Tag { key: "third".into(), value: None };
        assert!(frequent.is_rare(&sql).unwrap());
        let counted: u64 = counts(&sql).unwrap().iter().map(|count| count.count).sum();
        assert_eq!(counted, 40);
    }

    fn uuid(n: i64) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&n.to_be_bytes());
        bytes
    }
}
