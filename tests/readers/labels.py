"""Brings labels to a running server as those who have them do, and reads them back as those who join them do.

  labels.py post http://HOST:PORT MODEL   one label in each form, under the keys json, lines, csv, parquet and arrow; each twice
  labels.py read LOG MODEL                the log's rows joined with their labels, by DuckDB, pandas and polars
"""
import io
import json
import sys
import urllib.request

import duckdb
import pandas
import polars
import pyarrow

FORMS = ["json", "lines", "csv", "parquet", "arrow"]


def frame(form):
    # A correction in the same body, a column that nobody asked for, and pandas's own times, in nanoseconds.
    known = pandas.Timestamp("2026-02-01T12:00:00.123456", tz="UTC")
    return pandas.DataFrame({
        "label_key": [form, f"nobody-{form}", form],
        "label": [1, 0, 2],
        "revision": [0, 0, 1],
        "ts_label": [known, known, known],
        "note": ["x", None, "y"],
    })


def bodies(form):
    rows = frame(form)
    if form == "json":
        return "application/json", rows.to_json(orient="records", date_format="iso", date_unit="us").encode()
    if form == "lines":
        return "application/x-ndjson", rows.to_json(orient="records", lines=True, date_format="iso", date_unit="us").encode()
    if form == "csv":
        return "text/csv; charset=utf-8", rows.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ").encode()
    if form == "parquet":
        return "application/vnd.apache.parquet", rows.to_parquet(index=False)
    sink = io.BytesIO()
    table = pyarrow.Table.from_pandas(rows, preserve_index=False)
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return "application/vnd.apache.arrow.stream", sink.getvalue()


def post(server, model):
    for form in FORMS:
        kind, body = bodies(form)
        for new in (3, 0):
            request = urllib.request.Request(
                f"{server}/admin/v1/models/{model}/labels?source=crm", body, {"content-type": kind}
            )
            with urllib.request.urlopen(request) as answer:
                said = json.load(answer)
            assert said == {
                "model": model, "rows": 3, "new": new, "same": 3 - new, "ignored_fields": ["note"],
            }, (form, said)
        print(f"{form}: {len(body)} bytes")


def read(log, model):
    labels, rows = f"{log}/labels/v1/model={model}/**/*.parquet", f"{log}/log/v1/model={model}/**/*.parquet"
    joined = duckdb.sql(f"""
        select request_id, label, label_value, source, ts_label::varchar from read_parquet('{rows}', union_by_name = true)
        left join (from read_parquet('{labels}', hive_partitioning = true)
                   qualify row_number() over (partition by label_key order by revision desc, ts_label desc) = 1)
        using (label_key) order by request_id""").fetchall()
    want = [(f, "2", 2.0, "crm", "2026-02-01 12:00:00.123456+00") for f in sorted(FORMS)]
    assert joined == want, joined
    with_pandas = pandas.read_parquet(f"{log}/labels/v1/model={model}")
    with_polars = polars.read_parquet(labels, hive_partitioning=False)
    assert len(with_pandas) == len(with_polars) == 3 * len(FORMS)
    assert set(with_pandas["label_key"]) == set(with_polars["label_key"])
    print(f"{len(with_pandas)} labels, {len(joined)} rows joined")


if __name__ == "__main__":
    duckdb.sql("set timezone = 'UTC'")
    {"post": post, "read": read}[sys.argv[1]](*sys.argv[2:])
