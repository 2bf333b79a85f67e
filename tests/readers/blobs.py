"""Reads large tensors as a reader of docs/logging.md does: rows by pandas and DuckDB, bytes by numpy, from where the rows say.

  blobs.py LOG MODEL COLUMN   one line a row, in their order: the request's id and the elements of COLUMN, as JSON
"""
import hashlib
import json
import sys
from pathlib import Path

import duckdb
import numpy
import pandas

log, model, column = sys.argv[1:]
rows = pandas.read_parquet(f"{log}/log/v1/model={model}").sort_values("ts")
query = f"select request_id, {column}_ref from read_parquet('{log}/log/v1/**/*.parquet') order by ts"
assert duckdb.sql(query).fetchall() == list(zip(rows.request_id, rows[f"{column}_ref"])), "DuckDB reads others"
for row in rows.itertuples():
    reference, digest = getattr(row, f"{column}_ref"), getattr(row, f"{column}_sha256")
    data = Path(log, reference).read_bytes()
    assert hashlib.sha256(data).hexdigest() == digest, reference
    print(json.dumps([row.request_id, numpy.frombuffer(data, "<f4").tolist()]))
