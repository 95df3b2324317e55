//! What is looked up when somebody asks: the queue, agents, places, hooks, the database's files, this process.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::time::Duration;

use drover_os::machine;
use drover_wire::PROTOCOL;
use drover_wire::storage::{PlaceKind, PlaceSummary};
use prometheus_client::registry::{Registry, Unit};
use rusqlite::{Connection, OptionalExtension};

use super::table::{Table, real};
use crate::farm::error::Error;
use crate::farm::live::AgentView;
use crate::farm::{Farm, fullness, unsql};

const DAY: f64 = 24.0 * 3600.0;

/// Everything, as of now. Blocks, on disks, too; on those of places not for long.
pub(super) fn look(farm: &Farm, sql: &Connection) -> Result<Registry, Error> {
    let mut table = Table::new();
    queue(&mut table, farm, sql)?;
    table.one("leases_open", None, "Builds that agents hold", Some(real(farm.live.leases().len() as u64)));
    agents(&mut table, farm, sql)?;
    storage(&mut table, farm, &fullness::all(sql, farm)?);
    hooks(&mut table, farm, sql)?;
    database(&mut table, &farm.storage.database(), sql)?;
    process(&mut table, farm);
    Ok(table.0)
}

fn queue(table: &mut Table, farm: &Farm, sql: &Connection) -> Result<(), Error> {
    let mut select = sql.prepare_cached(
        "SELECT c.state, p.name, c.count FROM platform_counts c JOIN platforms p ON p.id = c.platform ORDER BY p.id",
    )?;
    let mut counts: BTreeMap<[String; 2], u64> = BTreeMap::new();
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let system = farm.numbers.systems.label(&row.get::<_, String>(1)?);
        let count = counts.entry([row.get(0)?, system]).or_default();
        *count = count.saturating_add(unsql(row.get(2)?));
    }
    let rows = counts.into_iter().map(|(labels, count)| (labels, real(count)));
    let help = "Builds by state and by where they can go: a system, or a builtin that any may have";
    table.each("builds", None, help, ["state", "system"], rows);
    Ok(())
}

/// An agent of the database, and what is known of it.
struct Known {
    name: String,
    seen: Option<u64>,
    held: u64,
    view: AgentView,
}

fn agents(table: &mut Table, farm: &Farm, sql: &Connection) -> Result<(), Error> {
    let mut held: HashMap<i64, u64> = HashMap::new();
    for lease in farm.live.leases() {
        *held.entry(lease.agent).or_default() += 1;
    }
    let mut select = sql.prepare_cached("SELECT id, name, seen_at FROM agents")?;
    let rows = select.query_map([], |row| {
        let id: i64 = row.get(0)?;
        let view = farm.live.view(id);
        Ok(Known {
            name: row.get(1)?,
            seen: view.seen_at.or(row.get::<_, Option<i64>>(2)?.map(unsql)),
            held: held.get(&id).copied().unwrap_or_default(),
            view,
        })
    })?;
    let all = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut each = |name: &str, unit: Option<Unit>, help: &str, number: &dyn Fn(&Known) -> Option<f64>| {
        let rows = all.iter().filter_map(|known| Some(([known.name.clone()], number(known)?)));
        table.each(name, unit, help, ["agent"], rows);
    };
    let bytes = || Some(Unit::Bytes);
    each("agent_online", None, "Whether an agent was heard of within the time of a lease", &|known| {
        Some(f64::from(u8::from(known.view.online)))
    });
    each(
        "agent_last_seen_timestamp",
        Some(Unit::Seconds),
        "When an agent was last heard of, in seconds since 1970",
        &|known| known.seen.map(|at| Duration::from_millis(at).as_secs_f64()),
    );
    each("agent_accepting", None, "How many builds an agent wants to hold at a time", &|known| {
        Some(f64::from(known.view.accepting))
    });
    each("agent_holding", None, "How many builds an agent holds", &|known| Some(real(known.held)));
    each("agent_load", None, "The load average of an agent's machine over a minute", &|known| {
        known.view.machine.load_1min
    });
    each("agent_processors", None, "The processors of an agent's machine", &|known| {
        known.view.machine.processors.map(f64::from)
    });
    each("agent_store_free", bytes(), "What an agent has free where its store is", &|known| {
        known.view.machine.store_free.map(real)
    });
    each("agent_state_free", bytes(), "What an agent has free where its own folder is", &|known| {
        known.view.machine.state_free.map(real)
    });
    each("agent_memory_available", bytes(), "Memory of an agent's machine that is available", &|known| {
        known.view.machine.memory_available.map(real)
    });
    Ok(())
}

fn storage(table: &mut Table, farm: &Farm, places: &[PlaceSummary]) {
    let mut each =
        |name: &str, unit: Option<Unit>, help: &str, number: &dyn Fn(&PlaceSummary) -> Option<f64>| {
            let rows = places.iter().filter_map(|place| Some(([place.name.clone()], number(place)?)));
            table.each(name, unit, help, ["place"], rows);
        };
    let bytes = || Some(Unit::Bytes);
    each("storage_used", bytes(), "What the files with nars have that lie in a place", &|place| {
        Some(real(place.bytes))
    });
    each("storage_items", None, "Files with nars that lie in a place", &|place| Some(real(place.files)));
    let free = "What can still be put into a place; not there where there is no end to it";
    each("storage_free", bytes(), free, &|place| place.room.map(real));
    let answers =
        "Whether the disk of a place says in time what it has free; not there where there is no disk";
    each("storage_answers", None, answers, &|place| {
        (place.kind != PlaceKind::Bucket).then(|| f64::from(u8::from(place.disk_free.is_some())))
    });
    each("storage_open", None, "Whether new files may go into a place", &|place| {
        Some(f64::from(u8::from(place.open)))
    });
    each(
        "storage_until_full",
        Some(Unit::Seconds),
        "When a place will be full if it goes on as in the last days; not there where it does not grow",
        &|place| place.full_in_days.map(|days| days * DAY),
    );
    let disk = machine::disk(farm.storage.root());
    let free = disk.map(|disk| real(disk.free));
    table.one("state_free", bytes(), "What the disk of the state folder has free", free);
    let reserve = "The free space below which nothing more is taken into the state folder";
    table.one("state_reserve", bytes(), reserve, Some(real(farm.storage.reserve())));
}

fn hooks(table: &mut Table, farm: &Farm, sql: &Connection) -> Result<(), Error> {
    let mut rows = Vec::new();
    for (hook, waiting, running, failed) in farm.hooks.runs(sql)? {
        for (state, count) in [("waiting", waiting), ("running", running), ("failed", failed)] {
            rows.push(([hook.clone(), state.to_owned()], real(count)));
        }
    }
    let help = "What hooks are to do, do and gave up, by hook and state";
    table.each("hook_runs", None, help, ["hook", "state"], rows);
    Ok(())
}

fn database(table: &mut Table, file: &Path, sql: &Connection) -> Result<(), Error> {
    let size = |file: &Path| fs::metadata(file).ok().map(|file| real(file.len()));
    table.one("database_size", Some(Unit::Bytes), "The database's file", size(file));
    let log = file.with_extension("sqlite-wal");
    let help = "The database's write-ahead log; it keeps the size that it once needed, up to a limit";
    table.one("database_log_size", Some(Unit::Bytes), help, size(&log));
    let last: Option<i64> = sql
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'events'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    let last = Some(real(last.map(unsql).unwrap_or_default()));
    table.one("event_last_id", None, "The number of the newest event", last);
    Ok(())
}

fn process(table: &mut Table, farm: &Farm) {
    let version = [([env!("CARGO_PKG_VERSION").to_owned(), PROTOCOL.to_string()], 1.0)];
    table.each("coordinator_info", None, "Which program this is", ["version", "protocol"], version);
    let seconds = || Some(Unit::Seconds);
    let started = Some(farm.numbers.started());
    let help = "When the coordinator started, in seconds since 1970";
    table.one("process_start_time", seconds(), help, started);
    let cpu = machine::own_processor_time().map(|time| time.as_secs_f64());
    table.growing("process_cpu", seconds(), "Processor time of the coordinator", cpu);
    let resident = machine::own_memory().map(real);
    table.one("process_resident_memory", Some(Unit::Bytes), "Memory that the coordinator has", resident);
    let files = machine::own_open_files().map(real);
    table.one("process_open_files", None, "Files and connections that the coordinator has open", files);
    let most = real(machine::allow_open_files(0));
    table.one("process_open_files_limit", None, "How many it may have open", Some(most));
}
