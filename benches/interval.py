"""What rounds of a measurement say together."""
import math
import statistics


def interval(values):
    """The median and its 95% interval from order statistics: no assumption but that rounds are alike and independent."""
    v, n = sorted(values), len(values)
    k, below = 0, 0.5**n
    while below + math.comb(n, k + 1) * 0.5**n <= 0.025:
        k, below = k + 1, below + math.comb(n, k + 1) * 0.5**n
    return statistics.median(v), v[k], v[n - 1 - k]
