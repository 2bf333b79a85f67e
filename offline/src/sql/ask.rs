//! What somebody asks: one statement that only reads, its columns found whatever their case. Pure.

use std::ops::ControlFlow;

use datafusion::sql::{
    parser::{DFParserBuilder, Statement},
    sqlparser::ast::{self, Expr, Ident, visit_expressions_mut},
};

use super::{refused::Refused, tables::Tables};

/// The statement of a text.
pub fn parsed(sql: &str, tables: &Tables) -> Result<Statement, Refused> {
    statement(sql, &tables.capitals())
}

/// `capitals` are the names of columns that are not in small letters: without quotes, SQL takes any name for one in small letters.
fn statement(sql: &str, capitals: &[String]) -> Result<Statement, Refused> {
    let mut parser =
        DFParserBuilder::new(sql).build().map_err(|error| Refused::unparsed(&error))?;
    let mut statements = parser.parse_statements().map_err(|error| Refused::unparsed(&error))?;
    let Some(mut statement) = statements.pop_front() else {
        return Err(Refused::Query("expected a query, got nothing".to_owned()));
    };
    if !statements.is_empty() {
        return Err(Refused::Query(format!("expected one query, got {}", statements.len() + 1)));
    }
    if !reads(&statement) {
        let text = statement.to_string();
        let what = text.split_whitespace().next().unwrap_or("it").to_uppercase();
        return Err(Refused::Query(format!(
            "{what} is refused: what reads is answered (SELECT, WITH, EXPLAIN, DESCRIBE, SHOW), and nothing is written or set"
        )));
    }
    name_columns(&mut statement, capitals);
    Ok(statement)
}

fn reads(statement: &Statement) -> bool {
    match statement {
        Statement::Explain(explained) => reads(&explained.statement),
        Statement::Statement(statement) => reads_as_such(statement),
        _ => false,
    }
}

fn reads_as_such(statement: &ast::Statement) -> bool {
    match statement {
        ast::Statement::Explain { statement, .. } => reads_as_such(statement),
        ast::Statement::Query(_)
        | ast::Statement::ExplainTable { .. }
        | ast::Statement::ShowTables { .. }
        | ast::Statement::ShowColumns { .. }
        | ast::Statement::ShowFunctions { .. }
        | ast::Statement::ShowVariable { .. } => true,
        _ => false,
    }
}

/// Whether its answer is rows of the tables: what explains or describes them has none.
pub fn gives_rows(statement: &Statement) -> bool {
    matches!(statement, Statement::Statement(statement) if matches!(**statement, ast::Statement::Query(_)))
}

fn name_columns(statement: &mut Statement, capitals: &[String]) {
    match statement {
        Statement::Explain(explained) => name_columns(&mut explained.statement, capitals),
        Statement::Statement(statement) => {
            let _ = visit_expressions_mut(statement.as_mut(), |expression| {
                match expression {
                    Expr::Identifier(name) => named(name, capitals),
                    Expr::CompoundIdentifier(names) => {
                        names.iter_mut().for_each(|name| named(name, capitals));
                    }
                    _ => {}
                }
                ControlFlow::<()>::Continue(())
            });
        }
        _ => {}
    }
}

/// The column's own name, where one column alone can be meant.
fn named(ident: &mut Ident, capitals: &[String]) {
    if ident.quote_style.is_some() {
        return;
    }
    let mut meant = capitals.iter().filter(|name| name.eq_ignore_ascii_case(&ident.value));
    let exact = capitals.iter().find(|name| **name == ident.value);
    let only = meant.next().filter(|_| meant.next().is_none());
    if let Some(name) = exact.or(only) {
        ident.value.clone_from(name);
        ident.quote_style = Some('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(sql: &str) -> Result<String, String> {
        let capitals = ["in_Age", "in_X", "in_x2", "in_x"].map(str::to_owned);
        match statement(sql, &capitals) {
            Ok(statement) => Ok(statement.to_string()),
            Err(Refused::Query(why)) => Err(why),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn columns_are_found_whatever_their_case() {
        for (sql, meant) in [
            ("SELECT in_age FROM log", r#"SELECT "in_Age" FROM log"#),
            ("SELECT log.IN_AGE + 1 FROM log", r#"SELECT log."in_Age" + 1 FROM log"#),
            // One of two: the one that is written so.
            ("SELECT in_X, in_x FROM log", r#"SELECT "in_X", "in_x" FROM log"#),
            ("SELECT IN_X FROM log", "SELECT IN_X FROM log"),
            (r#"SELECT "in_age" FROM log"#, r#"SELECT "in_age" FROM log"#),
            ("SELECT 'in_age', other FROM log", "SELECT 'in_age', other FROM log"),
            (
                "SELECT count(*) FROM log GROUP BY in_age HAVING max(In_Age) > 1 ORDER BY in_age",
                r#"SELECT count(*) FROM log GROUP BY "in_Age" HAVING max("in_Age") > 1 ORDER BY "in_Age""#,
            ),
        ] {
            assert_eq!(asked(sql), Ok(meant.to_owned()));
        }
        assert!(asked("EXPLAIN SELECT in_age FROM log").is_ok_and(|sql| sql.contains("in_Age")));
    }

    #[test]
    fn what_writes_is_refused_by_its_name() {
        for (sql, what) in [
            ("COPY (SELECT 1) TO 'x.parquet'", "COPY"),
            ("INSERT INTO log VALUES (1)", "INSERT"),
            ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x.csv'", "CREATE"),
            ("CREATE TABLE t AS SELECT 1", "CREATE"),
            ("CREATE VIEW v AS SELECT 1", "CREATE"),
            ("DROP TABLE log", "DROP"),
            ("UPDATE log SET status = 200", "UPDATE"),
            ("DELETE FROM log", "DELETE"),
            ("SET datafusion.execution.batch_size = 1", "SET"),
            ("RESET datafusion.execution.batch_size", "RESET"),
            ("EXPLAIN COPY (SELECT 1) TO 'x.parquet'", "EXPLAIN"),
            ("EXPLAIN ANALYZE INSERT INTO log VALUES (1)", "EXPLAIN"),
            ("PREPARE p AS SELECT 1", "PREPARE"),
            ("BEGIN", "BEGIN"),
        ] {
            let why = asked(sql).expect_err(sql);
            assert!(
                why.starts_with(&format!("{what} is refused: what reads is answered")),
                "{why}"
            );
        }
        assert_eq!(asked("SELECT 1; SELECT 2"), Err("expected one query, got 2".to_owned()));
        assert_eq!(asked(" ; "), Err("expected a query, got nothing".to_owned()));
        let slip = asked("SELECT (1\n FROM log").expect_err("no SQL");
        assert!(
            slip.starts_with("this is no SQL: ") && slip.contains("Line: 2, Column: "),
            "{slip}"
        );
    }
}
