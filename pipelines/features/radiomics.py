"""The only door to pyradiomics.

pyradiomics is the definition of every feature here; its known deviations from IBSI are listed in docs/ibsi.md. What it does
silently (skip an image type, return NaN) becomes an error: a vector is complete and finite or there is none.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import highdicom as hd
import numpy as np
import scipy.ndimage
import scipy.special
import SimpleITK as sitk
from radiomics import featureextractor
from threadpoolctl import threadpool_limits

from pipelines.errors import BadGeometry, InferenceError, MissingRoi, NotFinite
from pipelines.features.cnn import largest_slice
from pipelines.imaging.geometry import to_sitk
from pipelines.spec import Radiomics

logging.getLogger("radiomics").setLevel(logging.CRITICAL)

_LABEL = 1
_OLD_MODULE = "scipy.ndimage.interpolation"


def extract(image: hd.Volume, mask: hd.Volume, block: Radiomics) -> dict[str, float]:
    """Return ``block.count`` features by pyradiomics' names, in its order.

    ``image`` (float32) and ``mask`` (0/1) share one grid.

    Raises
    ------
    BadGeometry
        Image and mask are on different grids.
    MissingRoi
        The mask is too small for a feature to exist.
    InferenceError
        pyradiomics returned another number of features than the profile declares.
    NotFinite
        A feature is NaN or infinite; the message names it.
    """
    if not mask.geometry_equal(image):
        raise BadGeometry("image and roi are on different grids")
    extractor = featureextractor.RadiomicsFeatureExtractor(label=_LABEL, **block.settings)
    extractor.disableAllImageTypes()
    extractor.disableAllFeatures()
    for name, arguments in block.image_types.items():
        extractor.enableImageTypeByName(name, customArgs=dict(arguments))
    if "LBP3D" in block.image_types:
        _restore_scipy_names()
    for feature_class, names in block.classes.items():
        if names:
            extractor.enableFeaturesByName(**{feature_class: list(names)})
        else:
            extractor.enableFeatureClassByName(feature_class)
    pair = to_sitk(image.astype(np.float32)), sitk.Cast(to_sitk(mask), sitk.sitkUInt8)
    if block.plane == "largest":
        pair = _take_slice(pair, largest_slice(mask))
    try:
        # The matrices of GLCM's MCC are small: with one BLAS thread a large roi takes 5 s instead of 60.
        with threadpool_limits(limits=1, user_api="blas"):
            result = extractor.execute(*pair)
    except ValueError as error:
        raise MissingRoi(f"the roi cannot be measured: {error}") from error
    features = {name: float(value) for name, value in result.items() if not name.startswith("diagnostics_")}
    if len(features) != block.count:
        raise InferenceError(f"pyradiomics returned {len(features)} features, the profile declares {block.count}")
    if bad := [name for name, value in features.items() if not math.isfinite(value)]:
        raise NotFinite(f"{len(bad)} radiomic features are not finite, first {bad[0]}")
    return features


def _take_slice(images: Iterable[sitk.Image], k: int) -> tuple[sitk.Image, ...]:
    """Return slice ``k`` of each as an image of two dimensions: only such images have the one-letter wavelet bands of [CRFE]."""
    keep_axes = sitk.ExtractImageFilter.DIRECTIONCOLLAPSETOIDENTITY
    return tuple(sitk.Extract(i, [*i.GetSize()[:2], 0], [0, 0, k], keep_axes) for i in images)


def _restore_scipy_names() -> None:
    """Give pyradiomics the two functions by which it makes LBP3D images, which newer scipy has elsewhere and with other arguments.

    Without them pyradiomics leaves these image types out and only logs it.
    """
    module = ModuleType(_OLD_MODULE)  # the one that scipy still has warns at each use
    module.map_coordinates = scipy.ndimage.map_coordinates  # type: ignore[attr-defined]
    sys.modules[_OLD_MODULE] = module
    if not hasattr(scipy.special, "sph_harm"):

        def sph_harm(m: Any, n: Any, theta: Any, phi: Any) -> Any:
            return scipy.special.sph_harm_y(n, m, phi, theta)

        scipy.special.sph_harm = sph_harm
