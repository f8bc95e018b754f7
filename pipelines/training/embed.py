"""Networks trained on some patients and asked about others, each kept on disk under a hash of all that made it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from pipelines.engine import network_features
from pipelines.errors import CohortError, NotFinite
from pipelines.features import clinical
from pipelines.models.manifest import Parity
from pipelines.models.session import STATUS, open_session
from pipelines.spec import Cnn, Triplets
from pipelines.training.code import NETWORKS, code_digest
from pipelines.training.export import export_network
from pipelines.training.extract import ExtractedFile
from pipelines.training.fit import fit_cnn
from pipelines.training.networks import Architecture, FeatureNet, JointNet, build, choose_architecture
from pipelines.training.plan import Run
from pipelines.training.select import Labels, apply_scaling, fit_scaling
from pipelines.training.table import Rows, Table
from pipelines.training.weights import load_weights
from pipelines.types import FloatArray, SeriesRole

_HEAD_PENALTY = 0.1  # inverse, of the linear unit of a network that is not trained: it has more inputs than a cohort has patients


@dataclass(frozen=True)
class Net:
    """An exported network: its graph, and how far that is from torch."""

    path: Path
    parity: Parity
    architecture: Architecture


@dataclass(frozen=True, eq=False)
class Networks:
    """All networks of one training run.

    ``files`` are the patients', ``status`` their clinical status for joint networks (NaN where not known).
    """

    run: Run
    block: Cnn
    files: Sequence[ExtractedFile]
    status: NDArray[np.float64]

    @property
    def architecture(self) -> Architecture:
        """What is built."""
        plan = self.run.plan
        return plan.architecture or choose_architecture(self.block, published=plan.published, network=plan.network)

    def train(self, role: SeriesRole, rows: Rows, labels: Labels) -> Net:
        """Train a network of one sequence on these patients (labels of all, in the files' order), or find it on disk."""
        path = self.run.cache / "networks" / f"{self._key(role, rows, labels)}.onnx"
        record = path.with_suffix(".json")
        if not record.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            views = [self.files[i].view(role) for i in rows]
            of_views = np.concatenate([np.full(len(v), labels[i]) for v, i in zip(views, rows, strict=True)])
            status = np.concatenate([np.full(len(v), self.status[i]) for v, i in zip(views, rows, strict=True)])
            torch.manual_seed(self.run.seed)
            net = build(self.block, self.architecture)
            if self.run.plan.weights:
                load_weights(net, self.run.plan.weights)
            if self.run.plan.frozen:
                _fit_head(net, np.concatenate(views), of_views)
            else:
                fit_cnn(
                    net,
                    np.concatenate(views),
                    of_views,
                    schedule=self.run.plan.cnn,
                    seed=self.run.seed,
                    progress=lambda line: self.run.progress(f"{role} network on {len(rows)} patients: {line}"),
                    status=status.astype(np.float32) if isinstance(net, JointNet) else None,
                )
            second = {STATUS: np.array([[0.0], [1.0]], dtype=np.float32)} if isinstance(net, JointNet) else {}
            parity = export_network(net, path, np.concatenate(views)[:2], outputs=net.outputs, more_inputs=second)
            write_record(record, parity)
        return Net(path, Parity.model_validate_json(record.read_text()), self.architecture)

    def embed(self, nets: dict[SeriesRole, Net], rows: Rows) -> Table:
        """Return the deep features of patients by these networks.

        Raises
        ------
        CohortError
            A patient's features are not finite; the message names the row.
        """
        sessions = {role: open_session(net.path) for role, net in nets.items()}
        features = []
        for i in rows:
            one: dict[str, float] = {}
            for role, session in sessions.items():
                try:
                    values, _ = network_features(session, self.files[i].view(role), self.block)
                except NotFinite as error:
                    raise CohortError(f"{self.files[i].where}, {role}: {error}") from error
                one |= {f"{role}:{self.block.name}:{name}": value for name, value in values.items()}
            features.append(one | self._joined(one, int(i)))
        return Table.of([self.files[i].where for i in rows], features)

    def _joined(self, features: dict[str, float], i: int) -> dict[str, float]:
        """Add the joint answer for the patient's own status; the plan may leave it out in favour of late fusion."""
        if not (isinstance(self.block.view, Triplets) and self.block.status and self.run.plan.joint):
            return {}
        state = "h1" if self.status[i] >= 0.5 else "h0"
        return {f"{role}:cnn:h": features[f"{role}:cnn:{state}"] for role in self.block.roles}

    def _key(self, role: SeriesRole, rows: Rows, labels: Labels) -> str:
        plan = self.run.plan
        weights = hashlib.sha256(plan.weights.read_bytes()).hexdigest() if plan.weights else ""
        how = [role, asdict(self.block), asdict(self.architecture), asdict(plan.cnn), plan.frozen, self.run.seed, weights]
        who = [(self.files[i].key, int(labels[i]), float(np.nan_to_num(self.status[i], nan=-1))) for i in rows]
        return hashlib.sha256(json.dumps([code_digest(*NETWORKS), how, who], default=str).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """Every patient's deep features by networks that had not seen the patient; see :class:`pipelines.training.nested.Embedding`.

    Within a training part, ``folds`` networks each see the other folds; patients outside it are seen by networks of the whole part. All
    start from the same weights, so that their features have something in common; fine-tuned ones have more of it than ones from scratch.
    """

    networks: Networks
    table: Table  # all other features, of all patients
    folds: int

    def split(self, train: Rows, test: Rows, labels: Labels) -> tuple[Table, Table]:
        """Return the tables of both parts."""
        of_test = self.networks.embed(self._all(train, labels), test)
        return self.fitted(train, labels), self.table.rows(test).join(of_test)

    def fitted(self, rows: Rows, labels: Labels) -> Table:
        """Return the cross-fitted table of a training part."""
        splitter = StratifiedKFold(self.folds, shuffle=True, random_state=self.networks.run.seed)
        values: FloatArray | None = None
        names: tuple[str, ...] = ()
        for inner, held_out in splitter.split(rows, labels[rows]):
            part = self.networks.embed(self._all(rows[inner], labels), rows[held_out])
            if values is None:
                values, names = np.zeros((len(rows), part.values.shape[1])), part.names
            values[held_out] = part.values
        assert values is not None  # there are at least two folds
        return self.table.rows(rows).join(Table(names, values))

    def _all(self, rows: Rows, labels: Labels) -> dict[SeriesRole, Net]:
        return {role: self.networks.train(role, rows, labels) for role in self.networks.block.roles}


def _fit_head(net: FeatureNet, views: NDArray[np.float32], labels: Labels) -> None:
    """Fit the linear unit of a network that is not trained, so that its activation map speaks of the label; no feature depends on it."""
    net.eval()
    with torch.no_grad():
        pooled = torch.cat([net.pooled(batch) for batch in torch.from_numpy(views).split(4)])
    rows = pooled.numpy().astype(np.float64)
    scaling = fit_scaling(rows)
    model = LogisticRegression(C=_HEAD_PENALTY, max_iter=2000).fit(apply_scaling(rows, scaling), labels)
    weights = np.divide(model.coef_[0], scaling.std, out=np.zeros(rows.shape[1]), where=scaling.std > 0)
    with torch.no_grad():
        net.head.weight.copy_(torch.from_numpy(weights)[None])
        net.head.bias.fill_(float(model.intercept_[0] - weights @ scaling.mean))


def write_record(path: Path, parity: Parity) -> None:
    """Write last what says that a graph is whole; it is there when it is whole itself."""
    partial_file = path.with_suffix(".partial")
    partial_file.write_text(parity.model_dump_json(), encoding="utf-8")
    partial_file.replace(path)


def statuses(files: Sequence[ExtractedFile], block: Cnn) -> NDArray[np.float64]:
    """Return each patient's clinical status that a network is told, NaN where it is not known or there is none."""
    name = clinical.FEATURE_PREFIX + block.status
    return np.array([clinical.features(f.clinical).get(name, np.nan) for f in files])
