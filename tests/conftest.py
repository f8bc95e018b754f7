"""Fixtures shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

_SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_pelvis() -> Path:
    """A real pelvic MR study (PROSTATEx-0001): T2 sagittal and oblique axial, DWI with three b-values, ADC."""
    folder = _SHARED_DATA / "mr_pelvis_prostatex0001"
    if not folder.is_dir():
        pytest.skip("the real pelvic study ../shared/data/mr_pelvis_prostatex0001 is not here")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test material."""
    if not _SHARED_DATA.is_dir():
        pytest.skip("the real test material ../shared/data is not here")
    return _SHARED_DATA
