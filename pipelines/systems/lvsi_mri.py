"""Lymphovascular space invasion from T2WI, ADC and contrast-enhanced T1WI: [LVSI] Methods.

1409 features per sequence: 14 of shape and 15 image types with 93 each (Original, eight wavelet bands, LoG 1 and 2 mm, and the four
nonlinear ones). The ADC map keeps its unit, so that its grey levels mean the same in every patient.
"""

from pipelines.recipe import Lasso, MannWhitney, Recipe, Repeatable
from pipelines.spec import DRAWN_ON, Cnn, Inclusion, PipelineSpec, Preprocess, Radiomics, RoiRule, SliceCrop
from pipelines.types import Code, SeriesRole

_WEIGHTED = (SeriesRole.T2W, SeriesRole.CE_T1W)
_MAP = (SeriesRole.ADC,)
_IMAGE_TYPES: dict[str, dict[str, list[float]]] = {
    "Original": {},
    "Wavelet": {},
    "LoG": {"sigma": [1.0, 2.0]},
    "Square": {},
    "SquareRoot": {},
    "Logarithm": {},
    "Exponential": {},
}
_CLASSES: dict[str, tuple[str, ...]] = {
    "shape": (),
    "firstorder": (),
    "glcm": (),
    "glrlm": (),
    "glszm": (),
    "gldm": (),
    "ngtdm": (),
}
_SETTINGS = {"normalize": False, "interpolator": "sitkBSpline", "resampledPixelSpacing": [1.0, 1.0, 0], "padDistance": 10, "preCrop": True}

SPEC = PipelineSpec(
    name="lvsi_mri",
    title="Lymphovascular space invasion (MRI)",
    finding=Code("P.LVSI", "99CERVINODE", "Probability of lymphovascular space invasion"),
    site=Code("71252005", "SCT", "Cervix uteri"),
    required=(SeriesRole.T2W, SeriesRole.ADC, SeriesRole.CE_T1W),
    b_value=800.0,
    preprocess=Preprocess(n4=_WEIGHTED, normalise=_WEIGHTED),
    roi=RoiRule(DRAWN_ON),
    contrast_delay_s=180.0,  # the late phase
    blocks=(
        Radiomics(_WEIGHTED, image_types=_IMAGE_TYPES, classes=_CLASSES, settings=_SETTINGS | {"binWidth": 25}, count=1409),
        Radiomics(_MAP, image_types=_IMAGE_TYPES, classes=_CLASSES, settings=_SETTINGS | {"binWidth": 25}, count=1409),  # 25e-6 mm2/s
        Cnn(roles=(SeriesRole.T2W, SeriesRole.ADC, SeriesRole.CE_T1W), view=SliceCrop(margin=0.1, size=224), network="resnet50_2d"),
    ),
    recipe=Recipe(steps=(Repeatable(0.75), MannWhitney(0.05), Lasso(folds=10, rule="1se")), classifiers=("SVM",), folds=5),
    reduced=((SeriesRole.T2W, SeriesRole.ADC),),  # no contrast agent was given; the paper compares models of single sequences
    inclusion=(Inclusion("neoadjuvant_therapy", "no treatment before the images", high=1.0),),
    unverified=("histologically confirmed cervical cancer", "MRI within a week before surgery", "a visible tumour", "no other tumour"),
    positive="lymphovascular space invasion suspected",
    negative="lymphovascular space invasion not suspected",
    source="[LVSI] Yang et al., Front Oncol 2025;15:1578119",
)
