"""Agreement: of readers on features (intraclass correlation), and of repeated selections on which features to keep."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import f as f_distribution

from pipelines.errors import CohortError
from pipelines.training.intervals import LEVEL, Estimate, Interval, Z
from pipelines.types import FloatArray

_TAIL = (1 - LEVEL) / 2


@dataclass(frozen=True, eq=False)
class Icc:
    """One form of the intraclass correlation per feature, with its F test and 95 % interval; all arrays have shape (features,).

    A feature that does not vary at all has no correlation: its values are NaN, and comparing them with a limit is false.
    """

    form: str
    value: FloatArray
    low: FloatArray
    high: FloatArray
    f: FloatArray
    df1: int
    df2: int
    p: FloatArray


def icc(ratings: ArrayLike) -> dict[str, Icc]:
    """Return all six forms of the intraclass correlation by their names: ``ICC(1,1)`` to ``ICC(3,k)``.

    Forms after Shrout and Fleiss, Psychol Bull 1979;86:420-428; intervals after McGraw and Wong, Psychol Methods 1996;1:30-46. Absolute
    agreement of any reader is ICC(2,1), consistency of these readers ICC(3,1).

    Parameters
    ----------
    ratings : shape (subjects, readers) or (subjects, readers, features), at least two of the former two.

    Raises
    ------
    CohortError
        Fewer than two subjects or readers, or a rating that is not finite.
    """
    table = np.asarray(ratings, dtype=np.float64)
    table = table[:, :, None] if table.ndim == 2 else table
    if table.ndim != 3 or min(table.shape[:2]) < 2:
        raise CohortError(f"agreement needs at least two subjects and two readers, not ratings of shape {table.shape}")
    if len(bad := np.argwhere(~np.isfinite(table))):
        raise CohortError(f"a rating is not finite: (subject, reader, feature) {tuple(bad[0].tolist())}, {len(bad)} in all")
    n, k, _ = table.shape
    grand, rows, columns = table.mean(axis=(0, 1)), table.mean(axis=1), table.mean(axis=0)
    between = k * ((rows - grand) ** 2).sum(axis=0) / (n - 1)
    readers = n * ((columns - grand) ** 2).sum(axis=0) / (k - 1)
    within = ((table - rows[:, None]) ** 2).sum(axis=(0, 1)) / (n * (k - 1))
    error = ((table - rows[:, None] - columns[None] + grand) ** 2).sum(axis=(0, 1)) / ((n - 1) * (k - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        one, three = _one_way(between, within, n, k), _consistency(between, error, n, k)
        two = _absolute(between, readers, error, n, k)
    single = (one, two, three)
    return {x.form: x for x in (*single, *(_average(x, k) for x in single))}


def _ratio_form(form: str, between: FloatArray, rest: FloatArray, *, df: tuple[int, int], k: int) -> Icc:
    """Return a form that is a function of F = between / rest alone: (F - 1) / (F + k - 1)."""
    f, (df1, df2) = between / rest, df
    low, high = f / f_distribution.ppf(1 - _TAIL, df1, df2), f * f_distribution.ppf(1 - _TAIL, df2, df1)
    value, low, high = ((x - 1) / (x + k - 1) for x in (f, low, high))
    perfect = (rest == 0) & (between > 0)  # F is infinite
    value, low, high = (np.where(perfect, 1.0, x) for x in (value, low, high))
    return Icc(form, value, low, high, f, df1, df2, f_distribution.sf(f, df1, df2))


def _one_way(between: FloatArray, within: FloatArray, n: int, k: int) -> Icc:
    return _ratio_form("ICC(1,1)", between, within, df=(n - 1, n * (k - 1)), k=k)


def _consistency(between: FloatArray, error: FloatArray, n: int, k: int) -> Icc:
    return _ratio_form("ICC(3,1)", between, error, df=(n - 1, (n - 1) * (k - 1)), k=k)


def _absolute(between: FloatArray, readers: FloatArray, error: FloatArray, n: int, k: int) -> Icc:
    """Return ICC(2,1); the degrees of freedom of its interval are Satterthwaite's."""
    value = (between - error) / (between + (k - 1) * error + k * (readers - error) / n)
    f, fj, df1, df2 = between / error, readers / error, n - 1, (n - 1) * (k - 1)
    weight = n * (1 + (k - 1) * value) - k * value
    df = df2 * (k * value * fj + weight) ** 2 / ((n - 1) * k**2 * value**2 * fj**2 + weight**2)
    upper, lower = f_distribution.ppf(1 - _TAIL, df1, df), f_distribution.ppf(1 - _TAIL, df, df1)
    spread = k * readers + (n * k - k - n) * error
    low = n * (between - upper * error) / (upper * spread + n * between)
    high = n * (lower * between - error) / (spread + n * lower * between)
    perfect = (error == 0) & (readers == 0) & (between > 0)
    value, low, high = (np.where(perfect, 1.0, x) for x in (value, low, high))
    return Icc("ICC(2,1)", value, low, high, f, df1, df2, f_distribution.sf(f, df1, df2))


def _average(single: Icc, k: int) -> Icc:
    """Return the form for the mean of ``k`` readers, by Spearman and Brown's formula."""
    value, low, high = (k * x / (1 + (k - 1) * x) for x in (single.value, single.low, single.high))
    return Icc(single.form.replace(",1)", ",k)"), value, low, high, single.f, single.df1, single.df2, single.p)


def selection_stability(selected: ArrayLike) -> Estimate:
    """Return how far repeated selections agree: 1 for always the same features, about 0 for features drawn at random.

    Nogueira, Sechidis and Brown, J Mach Learn Res 2018;18(174):1-54. The interval is asymptotic: below some 100 repeats it is a little
    too narrow.

    Parameters
    ----------
    selected : shape (repeats, features), True or 1 where a repeat selected a feature.

    Raises
    ------
    CohortError
        Fewer than two repeats, or every repeat selected nothing, or every one everything.
    """
    z = np.asarray(selected, dtype=np.float64)
    if z.ndim != 2 or len(z) < 2 or not np.isin(z, (0.0, 1.0)).all():
        raise CohortError(f"stability needs 0 or 1 per repeat and feature for at least two repeats, not shape {z.shape}")
    repeats, features = z.shape
    frequency, sizes = z.mean(axis=0), z.sum(axis=1)
    share = frequency.mean()
    chance = share * (1 - share)
    if chance == 0:
        raise CohortError("stability is not defined: the repeats selected nothing, or everything")
    value = 1 - float((frequency * (1 - frequency)).mean()) * repeats / (repeats - 1) / chance
    size = sizes / features
    parts = ((z * frequency).mean(axis=1) - size * share + value / 2 * (2 * size * share - size - share + 1)) / chance
    half = Z * np.sqrt(4 / repeats**2 * ((parts - parts.mean()) ** 2).sum())
    return Estimate(value, Interval(float(value - half), float(min(1.0, value + half)), "Nogueira"))
