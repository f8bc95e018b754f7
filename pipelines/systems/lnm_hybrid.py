"""Lymph-node metastasis from contrast-enhanced T1WI and the node status on MRI: [HSCORE], as far as its published parts tell.

The trunk, the cut-off and how samples of one patient are joined are not public; docs/systems.md lists what is reconstructed.
"""

from pipelines.recipe import Recipe
from pipelines.spec import DRAWN_ON, Alternative, ClinicalInput, Cnn, PipelineSpec, Preprocess, RoiRule, Triplets
from pipelines.types import Code, SeriesRole

_IMAGE = (SeriesRole.CE_T1W,)

SPEC = PipelineSpec(
    name="lnm_hybrid",
    title="Lymph node metastasis, hybrid of network and node status (MRI)",
    finding=Code("P.LNM", "99CERVINODE", "Probability of lymph node metastasis"),
    site=Code("54268001", "SCT", "Pelvic lymph node"),
    required=_IMAGE,
    preprocess=Preprocess(),  # each crop is z-scored on its own
    roi=RoiRule(DRAWN_ON),
    contrast_delay_s=180.0,
    blocks=(Cnn(roles=_IMAGE, view=Triplets(margin_px=5, size=64), status="node_positive", network="resnet18_2d"),),
    recipe=Recipe(classifiers=("LR",), nomogram=("node_positive",)),
    clinical=(ClinicalInput("node_short_axis_mm"),),
    alternative=Alternative(
        "node_positive",
        (
            Code("P.LNM.NODE0", "99CERVINODE", "Probability if the nodes are negative on MRI"),
            Code("P.LNM.NODE1", "99CERVINODE", "Probability if a node is positive on MRI"),
        ),
        without=Code("P.LNM.DL", "99CERVINODE", "DL score: probability by the images alone"),
    ),
    unverified=("the paper's criteria, which are not public",),
    positive="lymph node metastasis suspected",
    negative="lymph node metastasis not suspected",
    source="[HSCORE] Wu Q et al., JAMA Netw Open 2020;3(7):e2011625",
)
