"""Occult lymph-node metastasis from T1WI, T2WI-SPAIR and DWI: [OLNM] Materials & methods.

Choices where the paper is silent are listed in docs/systems.md: b = 800 s/mm2, and the 1198-feature profile (14 shape features, and 16
image types with 74 features each of first order, GLCM, GLRLM and GLSZM).
"""

from pipelines.recipe import Decorrelate, Lasso, Mrmr, Recipe, Repeatable
from pipelines.spec import DRAWN_ON, Cnn, Cube, Inclusion, PipelineSpec, Preprocess, Radiomics, RoiRule
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
    roi=RoiRule(DRAWN_ON),
    blocks=(
        Radiomics(
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
        Cnn(roles=_SEQUENCES, view=Cube(side_mm=90.0, size=90), network="resnet200_3d"),
    ),
    recipe=Recipe(
        steps=(Repeatable(0.9), Mrmr(50), Decorrelate(0.9), Lasso(folds=5)),
        classifiers=("LightGBM", "GB", "LR", "MLP", "RF"),
    ),
    inclusion=(
        Inclusion("node_short_axis_mm", "no lymph node of 10 mm or more in short axis", high=10.0, wait_s=86400.0),  # node status first
        Inclusion("node_suspicious", "no necrotic, irregular or blurred lymph node", high=1.0),
        Inclusion("figo_stage", "FIGO stage IB to IIB", low=1.0, high=7.0),
        Inclusion("neoadjuvant_therapy", "no neoadjuvant therapy before the images", high=1.0),
        Inclusion("histology_biopsy", "squamous cell carcinoma or adenocarcinoma", high=2.0),
    ),
    unverified=("MRI within 2 weeks before surgery", "no biopsy of lymph nodes"),
    positive="occult lymph node metastasis suspected",
    negative="occult lymph node metastasis not suspected",
    source="[OLNM] Luo et al., Sci Rep 2025;15:29259",
)
