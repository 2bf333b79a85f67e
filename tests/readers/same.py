"""Reads a prediction log with pandas, polars, DuckDB and PySpark, and compares every value of every row with what was asked and answered.

  same.py LOG EXPECTED.json: a list of {request_id, row, columns: {name: value}}; numbers that JSON lacks are "NaN", "Infinity", "-Infinity"

PySpark runs where JAVA_HOME is set, or java is there; without, it says so and goes on.
"""
import glob
import json
import math
import os
import shutil
import sys

import duckdb
import pandas
import polars

root, expected = sys.argv[1], json.load(open(sys.argv[2]))
files = sorted(glob.glob(f"{root}/log/v1/**/*.parquet", recursive=True))
assert files, f"no files below {root}"


def plain(value):
    """A value as JSON has it, whoever read it."""
    if hasattr(value, "to_list"):
        value = value.to_list()
    elif hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def own(file):
    """The model whose file it is."""
    return file.split("/model=")[1].split("/")[0]


def with_pandas(model):
    # As pyarrow gives it: pandas's own columns hold no null beside a whole number.
    frames = [pandas.read_parquet(f, dtype_backend="pyarrow") for f in files if own(f) == model]
    return [r for f in frames for r in f.to_dict("records")]


def with_polars(model):
    mine = [f for f in files if own(f) == model]
    return [r for f in mine for r in polars.read_parquet(f, hive_partitioning=False).to_dicts()]


def with_duckdb(model):
    relation = duckdb.sql(
        f"from read_parquet('{root}/log/v1/model={model}/**/*.parquet', union_by_name=true, hive_partitioning=true)"
    )
    names = relation.columns
    assert {"model", "version", "date", "hour"} <= set(names), names
    types = dict(zip(names, map(str, relation.types)))
    assert types["ts"] == "TIMESTAMP WITH TIME ZONE" and types["hour"] == "BIGINT", types
    return [dict(zip(names, row)) for row in relation.fetchall()]


def spark():
    """A session of one thread in this process, which speaks to nobody."""
    from pyspark.sql import SparkSession

    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.warehouse.dir": os.path.join(root, "_spark"),
        "spark.log.level": "ERROR",
    }
    builder = SparkSession.builder.master("local[1]")
    for key, value in settings.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def with_pyspark(model):
    reader = spark().read.option("mergeSchema", "true").option("basePath", f"{root}/log/v1")
    frame = reader.parquet(f"{root}/log/v1/model={model}")
    types = dict(frame.dtypes)
    assert types["ts"] == "timestamp" and types["hour"] == "int" and types["date"] == "date", types
    return [row.asDict(recursive=True) for row in frame.collect()]


models = sorted({own(f) for f in files})
readers = [with_pandas, with_polars, with_duckdb]
if os.environ.get("JAVA_HOME") or shutil.which("java"):
    readers.append(with_pyspark)
else:
    print("pyspark: left out, for there is no Java")
for read in readers:
    rows = [r for model in models for r in read(model)]
    assert len(rows) == len(expected), f"{read.__name__}: {len(rows)} rows, expected {len(expected)}"
    found = {(r["request_id"], r["row"]): r for r in rows}
    compared = 0
    for want in expected:
        row = found[want["request_id"], want["row"]]
        for name, value in want["columns"].items():
            got = row[name]
            got = None if got is pandas.NA else plain(got)
            assert got == value and isinstance(got, bool) == isinstance(value, bool), (
                f"{read.__name__}: {want['request_id']}: {name}: {got!r}, expected {value!r}"
            )
            compared += 1
        assert row["ts"] is not None and row["total_us"] >= 0
    print(f"{read.__name__[5:]}: {len(rows)} rows, {compared} values the same")

# What lies beside the rows is taken for none of them, and is readable.
for model in models:
    mine = f"{root}/log/v1/model={model}"
    count = sum(len(pandas.read_parquet(f)) for f in files if own(f) == model)
    assert len(pandas.read_parquet(mine)) == count, mine
    assert polars.scan_parquet(f"{mine}/**/*.parquet", missing_columns="insert").collect().height == count, mine
    profiles = glob.glob(f"{mine}/**/_*.profile", recursive=True)
    assert len(profiles) == sum(own(f) == model for f in files), profiles
    told = duckdb.sql(f"select * from read_parquet({profiles}) where \"column\" = 'status'").df()
    assert told["count"].sum() == count, told
