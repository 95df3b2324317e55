//! `drover retention …`

use drover_wire::retention::{
    Amount, Fate, Ground, RetentionPlan, RetentionQuestion, RetentionRun, RetentionStatus, WantedBy, Why,
};

use super::estimate;
use crate::cli::out::Out;
use crate::cli::progress::Progress;
use crate::cli::table::{Column, Table};
use crate::cli::text::{ago, clean, count, now, size, span, thousands};
use crate::cli::{Exit, RetentionArgs, RetentionCommand};
use crate::client::{ClientError, Watch, retention};

/// The steps of a way that are shown.
const STEPS: usize = 20;
const NO_RULES: &str = "There are no rules for sets ([[retention.sets]] in the coordinator's configuration): nothing is removed.";

pub(in crate::cli) fn run(
    args: &RetentionArgs,
    out: &mut Out,
    watch: &Progress,
) -> Result<Exit, ClientError> {
    let coordinator = args.connection.coordinator()?;
    match args.command {
        None if args.estimate => return estimate::run(&coordinator, out),
        None => {
            let plan = retention::plan(&coordinator, &RetentionQuestion { why: args.why.clone() }, watch)?;
            watch.end();
            out.value(&plan, |out| show(&plan, out))?;
        }
        Some(RetentionCommand::Run) => {
            let status = retention::run(&coordinator, watch)?;
            watch.end();
            out.value(&status, |out| stands(&status, out))?;
            if status.last.is_some_and(|last| last.error.is_some()) {
                return Ok(Exit::Failed);
            }
        }
        Some(RetentionCommand::Status) => {
            let status = retention::status(&coordinator)?;
            out.value(&status, |out| stands(&status, out))?;
        }
    }
    Ok(Exit::Success)
}

fn show(plan: &RetentionPlan, out: &mut Out) -> Result<(), ClientError> {
    let mut table = Table::new(&[
        Column::new("WHAT"),
        Column::new("ITEMS").right(),
        Column::new("SIZE").right(),
        Column::new("WHY"),
    ]);
    let mut row = |what: &str, amount: Amount, why: String| {
        table.row([what.to_owned(), thousands(amount.items), size(amount.bytes), why]);
    };
    for kept in &plan.kept {
        row("stays", kept.amount, words(&kept.ground));
    }
    row("goes", plan.others, "nothing keeps it".to_owned());
    row("goes", plan.fixed_outputs, "fixed outputs that nothing has needed for long".to_owned());
    out.table(&table)?;
    if !plan.removes {
        out.line(NO_RULES)?;
    }
    if plan.unless_elsewhere.items > 0 {
        let amount = amount(plan.unless_elsewhere);
        out.line(format!("Of what stays, {amount} would go if another server had it (unless-elsewhere)."))?;
    }
    elsewhere(plan.leaving, plan.elsewhere, out)?;
    if plan.revisions > 0 {
        out.line(format!("{} would be forgotten.", count(plan.revisions, "revision", "revisions")))?;
    }
    plan.why.iter().try_for_each(|why| explain(why, out))
}

fn amount(amount: Amount) -> String {
    format!("{}, {}", count(amount.items, "item", "items"), size(amount.bytes))
}

/// What other servers have in our stead, if there is anything.
fn elsewhere(leaving: Amount, elsewhere: u64, out: &mut Out) -> Result<(), ClientError> {
    if leaving.items > 0 {
        out.line(format!("leaving, because another server has it: {}", amount(leaving)))?;
    }
    if elsewhere > 0 {
        out.line(format!("elsewhere, and not here: {}", count(elsewhere, "item", "items")))?;
    }
    Ok(())
}

fn words(ground: &Ground) -> String {
    match ground {
        Ground::Sets { names } => format!("sets {}", clean(names)),
        Ground::SetsWithoutRule => "sets that no rule names".to_owned(),
        Ground::OpenBuilds => "builds that have not ended".to_owned(),
        Ground::Asked => "asked for by clients lately".to_owned(),
        Ground::FixedOutputs => "fixed outputs that were needed lately".to_owned(),
        Ground::Young => "came lately".to_owned(),
        Ground::Sources => "sources of derivations".to_owned(),
        Ground::NoRules => "there are no rules".to_owned(),
    }
}

fn explain(why: &Why, out: &mut Out) -> Result<(), ClientError> {
    let going = why.due.map(|due| match due.saturating_sub(now()) {
        0 => ", announced and due".to_owned(),
        left => format!(", announced and due in {}", span(left)),
    });
    let going = going.unwrap_or_default();
    let found = why
        .other_server
        .as_ref()
        .map(|other| format!("{} has it, as was found {}", clean(&other.server), ago(other.found_at, now())));
    match (why.fate, &why.ground) {
        (Fate::NotHeld, _) => return out.line(format!("{}: it is not here", why.path)),
        (Fate::Goes, _) => return out.line(format!("{}: goes, nothing keeps it{going}", why.path)),
        (Fate::Elsewhere, ground) => {
            let words = ground.as_ref().map(words).unwrap_or_default();
            let found = found.as_deref().unwrap_or("another server has it");
            out.line(format!("{}: it is not here: {found}; kept for: {words}{going}", why.path))?;
            if !why.unless_elsewhere {
                out.line("  that keeps it here: it stays when it is built or imported again")?;
            }
        }
        (Fate::Kept, ground) => {
            let words = ground.as_ref().map(words).unwrap_or_default();
            out.line(format!("{}: stays: {words}{going}", why.path))?;
            match (found, why.missed_at) {
                (Some(found), _) => out.line(format!("  {found}: it need not be here"))?,
                (None, Some(at)) => {
                    out.line(format!("  no other server had it {}", ago(at, now())))?;
                }
                (None, None) if why.unless_elsewhere => {
                    out.line("  unless another server has it, which is not known yet")?;
                }
                (None, None) => {}
            }
        }
    }
    for step in why.way.iter().take(STEPS) {
        out.line(format!("  for {step}"))?;
    }
    let more = why.way.len().saturating_sub(STEPS);
    if more > 0 {
        out.line(format!("  and {} more", thousands(more as u64)))?;
    }
    if let Some(row) = &why.row {
        out.line(format!("  wanted by {}", wanted(row)))?;
    }
    if let Some(build) = &why.build {
        out.line(format!("  for the build {build}"))?;
    }
    Ok(())
}

fn wanted(row: &WantedBy) -> String {
    let WantedBy { set, revision, package, version, system, target } = row;
    let (package, version, system) = (clean(package), clean(version), clean(system));
    let cross = target.as_deref().map(|target| format!(" for {}", clean(target))).unwrap_or_default();
    format!("{set}@{revision}: {package} {version}, {system}{cross}")
}

fn stands(status: &RetentionStatus, out: &mut Out) -> Result<(), ClientError> {
    if !status.removes {
        out.line(NO_RULES)?;
    }
    out.line(format!("announced: {}", amount(status.announced)))?;
    out.line(format!("withdrawn: {}", amount(status.withdrawn)))?;
    elsewhere(status.leaving, status.elsewhere, out)?;
    if status.not_found > 0 {
        let items = count(status.not_found, "item", "items");
        out.line(format!(
            "not found there at the last look: {items}; what is not found for long counts as lost"
        ))?;
    }
    if let Some(due) = status.next_due {
        let left = due.saturating_sub(now());
        out.line(if left == 0 { "due: now".to_owned() } else { format!("due: in {}", span(left)) })?;
    }
    match (&status.last, status.running) {
        (_, true) => out.line("it is being looked now"),
        (Some(last), false) => ended(last, out),
        (None, false) => out.line("it was not looked since the coordinator started"),
    }
}

fn ended(last: &RetentionRun, out: &mut Out) -> Result<(), ClientError> {
    let took = span(last.ended_at.saturating_sub(last.started_at));
    out.line(format!(
        "last look, {}, in {took}: {} announced, {} withdrawn, {} ({}) removed, {} kept after all, {} forgotten",
        ago(last.ended_at, now()),
        thousands(last.announced),
        thousands(last.withdrawn),
        thousands(last.removed.items),
        size(last.removed.bytes),
        thousands(last.rescued),
        count(last.revisions, "revision", "revisions"),
    ))?;
    if last.asked > 0 {
        out.line(format!(
            "other servers were asked for {}: {} announced to go, {} ({}) gone, {} lost there",
            count(last.asked, "item", "items"),
            thousands(last.announced_elsewhere),
            thousands(last.redirected.items),
            size(last.redirected.bytes),
            thousands(last.lost),
        ))?;
    }
    match &last.error {
        Some(error) => out.line(format!("it did not get to its end: {}", clean(error))),
        None => Ok(()),
    }
}
