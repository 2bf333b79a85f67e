"""Asks `onnxd log sql` and DuckDB the same of the same files, and compares every value.

  sql.py ONNXD LOG
"""
import json
import math
import subprocess
import sys

import duckdb

onnxd, log = sys.argv[1:]

# What a reader of docs/logging.md writes, and what onnxd has by name.
LOG = f"read_parquet('{log}/log/v1/**/*.parquet', hive_partitioning = true, union_by_name = true)"
REVISIONS = f"read_parquet('{log}/labels/v1/**/*.parquet', hive_partitioning = true, union_by_name = true)"
TABLES = {
    "log": LOG,
    "label_revisions": REVISIONS,
    "labels": f"""(select * from {REVISIONS} qualify row_number() over
        (partition by model, label_key order by revision desc, ts_label desc) = 1 and not deleted)""",
}
TABLES["labelled"] = f"""(select l.*, k.label, k.label_value, k.ts_label, k.source as label_source, k.revision as label_revision
    from {LOG} l left join {TABLES['labels']} k on l.model = k.model and l.label_key = k.label_key)"""

# The same words for both, in the order of their first columns.
QUERIES = [
    "select model, status, count(*) as n, min(total_us) >= 0 as timed from {log} group by 1, 2 order by 1, 2",
    "select request_id, in_INPUT0, in_input0_shape, out_OUTPUT0 from {log} where model = 'identity_fp32' order by 1",
    'select request_id, "in_INPUT0"[1] as first from {log} where in_INPUT0 is not null and model = \'identity_fp32\' order by 1',
    "select request_id, in_X, in_name, error_code, pred_score from {log} order by 1, row",
    "select count(in_X) as x, count(in_INPUT0) as i, count(distinct label_key) as keys, count(*) as n from {log}",
    "select hour is not null as dated, version, sum(sample_p) as p from {log} group by 1, 2 order by 1, 2",
    "select label_key, label, label_value, source, revision, strftime(ts_label, '%Y-%m-%d %H:%M:%S.%f') as known from {labels} order by 1",
    "select label_key, revision, deleted, label from {label_revisions} order by 1, 2, ts_label",
    "select request_id, label, label_value, label_source, label_revision from {labelled} order by 1, row",
    "select label, count(*) as n, avg(label_value) as mean, max(upper(label_source)) as source from {labelled} where status = 200 group by 1 order by 1 nulls last",
    "with n as (select label_key, row_number() over (partition by model order by request_id, row) as place from {log}) select max(place) as most from n",
    "select a.request_id from {log} a join {labels} b on a.label_key = b.label_key where b.label = '1' order by 1",
    "select date_trunc('day', ts) = cast(date as timestamp) as same, count(*) as n from {log} group by 1",
]
# What the two write differently.
OURS = [("strftime(ts_label, '%Y-%m-%d %H:%M:%S.%f')", "to_char(ts_label, '%Y-%m-%d %H:%M:%S%.6f')"),
        ("cast(date as timestamp)", "arrow_cast(date, 'Timestamp(Microsecond, Some(\"UTC\"))')")]
THEIRS = [("date_trunc('day', ts) = cast(date as timestamp)", "date_trunc('day', ts)::date = date")]


def plain(value):
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value.isdigit():
        return float(value)  # DuckDB takes version=1 for a number
    return value


def ours(query, *flags):
    for theirs, own in OURS:
        query = query.replace(theirs, own)
    query = query.format(**{name: name for name in TABLES})
    run = subprocess.run([onnxd, "log", "sql", query, "--form", "jsonl", "--dir", log, *flags], capture_output=True, text=True)
    assert run.returncode == 0, (query, run.stderr)
    return [json.loads(line) for line in run.stdout.splitlines()], run.stderr


def theirs(query):
    for own, theirs in THEIRS:
        query = query.replace(own, theirs)
    answer = duckdb.sql(query.format(**TABLES))
    return answer.columns, answer.fetchall()


duckdb.sql("set timezone = 'UTC'")
for query in QUERIES:
    rows, said = ours(query)
    names, expected = theirs(query)
    assert rows, query
    # Names but for their case: DuckDB keeps how a query writes them.
    by_name = [{name.lower(): plain(value) for name, value in row.items()} for row in rows]
    want = [{name.lower(): plain(value) for name, value in zip(names, row)} for row in expected]
    assert by_name == want, f"{query}\n{by_name}\n{want}"
    asked = any(name in query for name in ("{labels}", "{labelled}", "{label_revisions}"))
    assert ("answered rows have a label" in said) == asked, (query, said)
    print(f"{len(rows)} rows: {query}")
