"""Pelvic lymph-node metastasis from one transvaginal ultrasound image: [PLNM] Methods.

The 1561 features are those of an image one slice thick: 14 of shape and 17 image types with 91 each (the 22-feature GLCM of pyradiomics'
example files). Choices where the paper is silent are listed in docs/systems.md.
"""

from pipelines.recipe import Decorrelate, Lasso, MannWhitney, Pca, Recipe, Repeatable, Rfe
from pipelines.spec import ClinicalInput, Cnn, Inclusion, PipelineSpec, Radiomics, RoiRule, SliceCrop
from pipelines.types import Code, SeriesRole

_IMAGE = (SeriesRole.TVUS,)
_GLCM_22 = (
    "Autocorrelation",
    "JointAverage",
    "ClusterProminence",
    "ClusterShade",
    "ClusterTendency",
    "Contrast",
    "Correlation",
    "DifferenceAverage",
    "DifferenceEntropy",
    "DifferenceVariance",
    "JointEnergy",
    "JointEntropy",
    "Imc1",
    "Imc2",
    "Idm",
    "Idmn",
    "Id",
    "Idn",
    "InverseVariance",
    "MaximumProbability",
    "SumEntropy",
    "SumSquares",
)

SPEC = PipelineSpec(
    name="plnm_us",
    title="Pelvic lymph node metastasis (transvaginal ultrasound)",
    finding=Code("P.PLNM", "99CERVINODE", "Probability of pelvic lymph node metastasis"),
    site=Code("54268001", "SCT", "Pelvic lymph node"),
    required=_IMAGE,
    roi=RoiRule((SeriesRole.TVUS,), min_volume_ml=0.02, max_volume_ml=10.0),  # mm2 times 1 mm: 20 mm2 to 100 cm2
    blocks=(
        Radiomics(
            roles=_IMAGE,
            image_types={
                "Original": {},
                "Wavelet": {},
                "Square": {},
                "SquareRoot": {},
                "Logarithm": {},
                "Exponential": {},
                "Gradient": {},
                "LBP3D": {},
            },
            classes={"shape": (), "firstorder": (), "glcm": _GLCM_22, "glrlm": (), "glszm": (), "gldm": (), "ngtdm": ()},
            settings={"normalize": False, "binWidth": 5, "padDistance": 10, "preCrop": True},  # 8-bit grey: 5 levels a bin
            count=1561,
        ),
        Cnn(roles=_IMAGE, view=SliceCrop(margin=0.1, size=128), layer="flat", network="densenet121_2d"),
    ),
    recipe=Recipe(
        steps=(
            Repeatable(0.75),
            MannWhitney(0.05, on="radiomics"),
            Decorrelate(0.9, on="radiomics"),
            Lasso(folds=10, on="radiomics"),
            Pca(64),
            MannWhitney(0.05, on="pca"),
            Rfe(16),
        ),
        classifiers=("MLP", "LR", "SVM", "KNN", "RF", "ExtraTrees", "XGBoost", "LightGBM"),
        nomogram=("max_tumour_diameter_mm", "rbc_1e12_per_l"),
    ),
    clinical=(ClinicalInput("max_tumour_diameter_mm"), ClinicalInput("rbc_1e12_per_l")),
    inclusion=(Inclusion("neoadjuvant_therapy", "no treatment before the images", high=1.0),),
    unverified=(
        "histologically confirmed cervical cancer",
        "ultrasound within 2 weeks before surgery",
        "no other gynaecological malignancy",
    ),
    positive="pelvic lymph node metastasis suspected",
    negative="pelvic lymph node metastasis not suspected",
    source="[PLNM] Wang J et al., Front Oncol 2025;15:1681029",
)
