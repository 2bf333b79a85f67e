"""Arithmetic for training that gives the same bits on every processor.

float64 additions, multiplications, divisions and square roots are exact to the last bit by IEEE 754, and numpy's element-wise
and axis operations do them in one order. What is not: a BLAS sums in an order that depends on the processor, and exp on its
vector unit. `dot` and `exp` do.
"""
import numpy as np


def grid(a):
    """`a` as integers of at most 20 bits and the power of two that one of them stands for."""
    top = np.max(np.abs(a))
    if top == 0:
        return a, 1.0
    step = np.ldexp(1.0, int(np.frexp(top)[1]) - 20)
    return np.rint(a / step), step


def dot(a, b):
    """Matrix product that is the same whatever order a BLAS sums in: every partial sum is an integer below 2**53."""
    assert a.shape[1] <= 8192, "20 + 20 + 13 bits is all that a float64 holds"
    (qa, sa), (qb, sb) = grid(a), grid(b)
    return (qa @ qb) * (sa * sb)


def exp(x):
    """e**x from additions and multiplications alone."""
    k = np.rint(x * 1.4426950408889634)
    r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10
    p = np.zeros_like(r)
    for n in range(13, 0, -1):
        p = (p + 1.0) * r / n
    return np.ldexp(p + 1.0, k.astype(np.int32))


def softmax(z):
    e = exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class Adam:
    """The usual optimiser; powers are kept as running products, so that no library's pow takes part."""

    def __init__(self, params, rate):
        self.params, self.rate = params, rate
        self.m = [np.zeros_like(p) for p in params]
        self.v = [np.zeros_like(p) for p in params]
        self.b1 = self.b2 = 1.0

    def step(self, grads, rate=None):
        self.b1, self.b2 = self.b1 * 0.9, self.b2 * 0.999
        for p, g, m, v in zip(self.params, grads, self.m, self.v):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p -= (rate or self.rate) * (m / (1 - self.b1)) / (np.sqrt(v / (1 - self.b2)) + 1e-8)


def uniform(rng, *shape, fan_in):
    return (rng.random(shape) * 2 - 1) * np.sqrt(3.0 / fan_in)


def batches(rng, count, size):
    order = rng.permutation(count)
    return [order[i : i + size] for i in range(0, count - size + 1, size)]


def cross_entropy_gradient(logits, y):
    d = softmax(logits)
    d[np.arange(len(y)), y] -= 1
    return d / len(y)
