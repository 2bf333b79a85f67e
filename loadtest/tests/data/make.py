"""Writes the Parquet files beside it, as pandas and pyarrow do: python make.py, with pandas and pyarrow 26."""

import datetime
import decimal
import pathlib

import numpy
import pandas
import pyarrow
import pyarrow.parquet

here = pathlib.Path(__file__).parent

# What pandas writes by itself: snappy, dictionaries, doubles and longs.
frame = pandas.DataFrame(
    {
        "x": [0.5, -1.25, 3.0, 1e300],
        "n": [1, -2, 300, 4],
        "flag": [True, False, True, True],
        "word": ["a", "", "grüß", "a"],
        "kind": pandas.Categorical(["red", "blue", "red", "red"]),
    }
)
frame.to_parquet(here / "frame.parquet")

# Lists, in several row groups, with the second version of the pages.
count = 5
lists = pyarrow.table(
    {
        "pixels": pyarrow.array([[row + k / 8 for k in range(6)] for row in range(count)], pyarrow.list_(pyarrow.float32())),
        "matrix": pyarrow.array(
            [[[row, 1, 2], [3, 4, 5]] for row in range(count)], pyarrow.list_(pyarrow.list_(pyarrow.int32()))
        ),
        "words": pyarrow.array([[f"w{row}", "é"] for row in range(count)], pyarrow.large_list(pyarrow.string())),
        "halves": pyarrow.array(
            [numpy.array([row, 0.5], numpy.float16) for row in range(count)], pyarrow.list_(pyarrow.float16(), 2)
        ),
        "tokens": pyarrow.array([list(range(row)) for row in range(count)], pyarrow.list_(pyarrow.int64())),
        "big": pyarrow.array([2**64 - 1 - row for row in range(count)], pyarrow.uint64()),
        "small": pyarrow.array([250 + row for row in range(count)], pyarrow.uint8()),
        "raw": pyarrow.array([bytes([row, 255]) for row in range(count)], pyarrow.binary(2)),
    }
)
pyarrow.parquet.write_table(lists, here / "lists.parquet", compression="zstd", row_group_size=2, data_page_version="2.0")

# Two wines, for the example model; a label that it is not asked for.
rest = [3.3, 2.28, 18.5, 98, 1.8, 0.83, 0.61, 1.87, 10.52, 0.56, 1.51, 675]
wines = pandas.DataFrame({"features": [[13.23, *rest], [12.1, *rest]], "label": ["Barbera", "Barbera"]})
wines.to_parquet(here / "wines.parquet")

# What makes no tensor.
day = datetime.datetime(2026, 1, 1)
odd = pyarrow.table(
    {
        "hole": pyarrow.array([1.0, None, 2.0]),
        "list_hole": pyarrow.array([[1.0], [2.0], None]),
        "inner_hole": pyarrow.array([[1.0, 2.0], [3.0, None], [4.0, 5.0]]),
        "ragged": pyarrow.array([[[1, 2], [3, 4]], [[1, 2], [3]], [[1, 2], [3, 4]]]),
        "empty": pyarrow.array([[[], []], [[], []], [[], []]], pyarrow.list_(pyarrow.list_(pyarrow.int64()))),
        "moment": pyarrow.array([day] * 3, pyarrow.timestamp("ns")),
        "price": pyarrow.array([decimal.Decimal("1.50")] * 3),
        "pair": pyarrow.array([{"a": 1, "b": 2}] * 3),
        "table": pyarrow.array([[("a", 1)]] * 3, pyarrow.map_(pyarrow.string(), pyarrow.int64())),
    }
)
pyarrow.parquet.write_table(odd, here / "odd.parquet", compression="gzip")
