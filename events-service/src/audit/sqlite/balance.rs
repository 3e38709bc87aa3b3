//! The log's side of the ledger.

use rusqlite::{Connection, Row, named_params};

use super::store::{Store, VERSION, whole};
use crate::audit::{
    AuditError, Balance, BalanceQuery, Finding, Older,
    balance::{Group, Kind, NAMED_MAX},
};

/// The one place that says which records a balance is about.
const WITHIN: &str = "(:since is null or fromReceivedTime >= :since)
    and (:until is null or fromReceivedTime < :until)";

/// What each record counts as: see [`Balance`].
const KIND: &str = "
case
    when status not in ('open', 'answered', 'failed', 'timed_out', 'abandoned')
        or (status = 'open') = (toReceivedTime is not null)
        or (status in ('failed', 'timed_out', 'abandoned')) <> (reason is not null)
        or (coalesce(toResponseBodyId, response) is not null and status <> 'answered') then 'contradictory'
    when status = 'open' and deadline < :settled then 'overdue'
    when status = 'open' then 'in_flight'
    when status = 'answered' and answeredFromId is not null then 'repeated'
    else status
end";

impl Store {
    pub(super) fn balance(&self, query: &BalanceQuery) -> Result<Balance, AuditError> {
        let counting = || {
            // All questions are about the same moment.
            let snapshot = self.connection.unchecked_transaction()?;
            balance(&snapshot, query)
        };
        counting().map_err(|error: rusqlite::Error| self.failure(&error))
    }
}

fn balance(connection: &Connection, query: &BalanceQuery) -> rusqlite::Result<Balance> {
    let mut balance = Balance::default();
    let groups = format!(
        "select {KIND} as kind, case when status = 'failed' then reason end as code, count(*),
            sum(attempts), sum(max(attempts - 1, 0))
         from tasks where {WITHIN} and v = {VERSION} group by kind, code"
    );
    each(connection, query, &groups, |row| {
        balance.add(Group {
            kind: Kind::from_name(row.get_ref(0)?.as_str()?),
            code: row.get(1)?,
            records: number(row, 2)?,
            attempts: number(row, 3)?,
            attempts_repeated: number(row, 4)?,
        });
        Ok(())
    })?;
    let of_kind = |kind: Kind| {
        let kind = kind.as_str();
        format!("select _id from tasks where {WITHIN} and v = {VERSION} and {KIND} = '{kind}'")
    };
    for (kind, finding) in [
        (Kind::Overdue, &mut balance.overdue),
        (Kind::Contradictory, &mut balance.contradictory),
    ] {
        finding.first = first(connection, query, &of_kind(kind), finding.count)?;
    }
    let without_response = format!(
        "select _id from tasks where {WITHIN} and v = {VERSION} and status = 'answered'
            and toReceivedTime < :settled and response is null
            and not exists (select 1 from responses where responses._id = toResponseBodyId)"
    );
    balance.without_response = found(connection, query, &without_response)?;
    let recorded_twice = format!(
        "select fromRequestId from tasks where {WITHIN} and v = {VERSION}
         group by fromRequestId having count(*) > 1"
    );
    balance.recorded_twice = found(connection, query, &recorded_twice)?;
    let older = format!(
        "select count(*), count(toResponseBodyId) from tasks where {WITHIN} and v <> {VERSION}"
    );
    each(connection, query, &older, |row| {
        balance.older = Older {
            records: number(row, 0)?,
            answered: number(row, 1)?,
        };
        Ok(())
    })?;
    Ok(balance)
}

/// How much a selection of ids finds, and the first of it.
fn found(connection: &Connection, query: &BalanceQuery, ids: &str) -> rusqlite::Result<Finding> {
    let mut count = 0;
    let counting = format!("select count(*) from ({ids})");
    each(connection, query, &counting, |row| {
        count = number(row, 0)?;
        Ok(())
    })?;
    let first = first(connection, query, ids, count)?;
    Ok(Finding { count, first })
}

/// The first of what a selection of ids finds, if it finds anything.
fn first(
    connection: &Connection,
    query: &BalanceQuery,
    ids: &str,
    count: u64,
) -> rusqlite::Result<Vec<String>> {
    let mut first = Vec::new();
    if count > 0 {
        let naming = format!("{ids} order by 1 limit {NAMED_MAX}");
        each(connection, query, &naming, |row| {
            first.push(row.get(0)?);
            Ok(())
        })?;
    }
    Ok(first)
}

/// Runs a query with the values of those names that stand in it.
fn each(
    connection: &Connection,
    query: &BalanceQuery,
    sql: &str,
    mut take: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let values = named_params! {
        ":since": query.since_unix_ms.map(whole),
        ":until": query.until_unix_ms.map(whole),
        ":settled": whole(query.settled_before_unix_ms),
    };
    let mut statement = connection.prepare(sql)?;
    for (name, value) in values {
        if let Some(place) = statement.parameter_index(name)? {
            statement.raw_bind_parameter(place, value)?;
        }
    }
    let mut rows = statement.raw_query();
    while let Some(row) = rows.next()? {
        take(row)?;
    }
    Ok(())
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    Ok(u64::try_from(number).unwrap_or_default())
}
