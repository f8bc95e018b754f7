"""Pathological type in eight classes of three binary axes: [CRFE] Methods.

868 features: 14 of shape (three dimensions), 9 image types with 93 each of the slice with the largest roi, taken as a two-dimensional
image (only such images have the one-letter wavelet bands that the paper names), 9 of the histogram, and 8 clinical ones. Of the latter two
say which treatment followed, which nobody knows at diagnosis, and two are found by the pathologist; they are recorded and never used.
"""

from pipelines.recipe import Rank, Recipe
from pipelines.spec import DRAWN_ON, ClassLabel, Histogram, Inclusion, PipelineSpec, Preprocess, Radiomics, RoiRule
from pipelines.types import Code, SeriesRole

_IMAGE = (SeriesRole.T2W,)
_SCHEME = "99CERVINODE"

SPEC = PipelineSpec(
    name="histotype_mri",
    title="Pathological type (MRI)",
    finding=Code("P.HIST", _SCHEME, "Probability of the most probable pathological type"),
    site=Code("71252005", "SCT", "Cervix uteri"),
    required=(SeriesRole.T2W, SeriesRole.DWI, SeriesRole.ADC),
    b_value=800.0,
    preprocess=Preprocess(normalise=_IMAGE),
    roi=RoiRule(DRAWN_ON),
    blocks=(
        Radiomics(
            _IMAGE,
            image_types={"Original": {}},
            classes={"shape": ()},
            settings={"normalize": False, "correctMask": True},
            count=14,
            name="shape",
        ),
        Radiomics(
            _IMAGE,
            image_types={
                "Original": {},
                "LoG": {"sigma": [1.0, 2.0]},
                "Wavelet": {},
                "Square": {},
                "SquareRoot": {},
                "Logarithm": {},
                "Exponential": {},
            },
            classes={"firstorder": (), "glcm": (), "glrlm": (), "glszm": (), "gldm": (), "ngtdm": ()},
            settings={"normalize": False, "binWidth": 25, "force2D": True, "correctMask": True},
            count=837,
            plane="largest",
        ),
        Histogram(_IMAGE),
    ),
    recipe=Recipe(steps=(Rank(30),), classifiers=("RF", "XGBoost", "SVM", "LR"), smote=True),
    axes=(
        Code("P.HIST.LARGE", _SCHEME, "Probability of large cells"),
        Code("P.HIST.NONKER", _SCHEME, "Probability of a non-keratinizing type"),
        Code("P.HIST.ADENO", _SCHEME, "Probability of adenocarcinoma"),
    ),
    classes=tuple(
        ClassLabel(
            number,
            Code(
                f"P.HIST.{number}",
                _SCHEME,
                f"{'Large' if number & 4 else 'Small'}-cell {'non-keratinizing' if number & 2 else 'keratinizing'} "
                f"{'adenocarcinoma' if number & 1 else 'squamous cell carcinoma'}",
            ),
            axes=(number >> 2 & 1, number >> 1 & 1, number & 1),
        )
        for number in range(8)
    ),
    inclusion=(
        Inclusion("neoadjuvant_therapy", "no treatment before the images", high=1.0),
        Inclusion("histology_biopsy", "squamous cell carcinoma or adenocarcinoma", high=2.0),
        Inclusion("figo_stage", "FIGO stage IA to IIIC", high=11.0),
        Inclusion("age_y", "an age of 28 to 80 years", low=28.0, high=81.0),
        Inclusion("karnofsky", "a Karnofsky performance status of 70 or more", low=70.0),
    ),
    unverified=("no surgery before", "no spread beyond the pelvis", "no other malignancy or severe disease"),
    source="[CRFE] Wang M et al., Lanzhou",
)
