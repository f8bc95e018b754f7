"""Occult lymph-node metastasis from T1WI, T2WI-SPAIR and DWI: [OLNM] Materials & methods.

Choices where the paper is silent are listed in docs/systems.md: b = 800 s/mm2, and the 1198-feature profile (14 shape features, and 16
image types with 74 features each of first order, GLCM, GLRLM and GLSZM).
"""

from pipelines.spec import Cnn, PipelineSpec, Preprocess, Radiomics, RoiRule
from pipelines.types import Code, SeriesRole

_SEQUENCES = (SeriesRole.T1W, SeriesRole.T2W_FS, SeriesRole.DWI)

SPEC = PipelineSpec(
    name="olnm_mri",
    title="Occult lymph node metastasis (MRI)",
    finding=Code("P.OLNM", "99CERVINODE", "Probability of occult lymph node metastasis"),
    site=Code("54268001", "SCT", "Pelvic lymph node"),
    required=_SEQUENCES,
    b_value=800.0,
    preprocess=Preprocess(n4=_SEQUENCES, normalise=_SEQUENCES),
    roi=RoiRule(role=SeriesRole.T2W_FS),
    radiomics=Radiomics(
        roles=_SEQUENCES,
        image_types={
            "Original": {},
            "Wavelet": {},
            "LoG": {"sigma": [1.0, 2.0, 3.0]},
            "Square": {},
            "SquareRoot": {},
            "Logarithm": {},
            "Exponential": {},
        },
        classes={"shape": (), "firstorder": (), "glcm": (), "glrlm": (), "glszm": ()},
        settings={
            "normalize": False,  # z-scored and scaled to 100 per unit by our own preprocessing, within the body
            "binWidth": 25,
            "interpolator": "sitkBSpline",
            "resampledPixelSpacing": [
                1.0,
                1.0,
                0,
            ],  # 0 keeps the native slice spacing: 5-6 mm slices are never upsampled
            "padDistance": 10,
            "preCrop": True,
        },
        count=1198,
    ),
    cnn=Cnn(roles=_SEQUENCES, crop_mm=90.0, size=90, keep=50),
    positive="occult lymph node metastasis suspected",
    negative="occult lymph node metastasis not suspected",
    source="[OLNM] Luo et al., Sci Rep 2025;15:29259",
)
