"""What the documentation says of commands, columns, systems and files, held against the program."""

from __future__ import annotations

import argparse
import ast
import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cli import make_parser
from pipelines.recipe import Decorrelate, Lasso, MannWhitney, Mrmr, Pca, Rank, Repeatable, Rfe
from pipelines.spec import Cnn, Cube, Histogram, PipelineSpec, Radiomics, Triplets
from pipelines.systems import catalogue

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("onnx_models/*.md"), *ROOT.glob("deploy/**/*.md")]
)
SYSTEMS = catalogue()
PARSER = make_parser()
PACKAGES = ("pipelines", "structured_reports", "node")
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
_COMMAND = re.compile(r"(?:^|`)(?:\$ )?cervinode ([^`#\n]+)", re.MULTILINE)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings as GitHub makes them."""
    prose = re.sub(r"```.*?```", "", _read(page), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.casefold()).replace(" ", "-") for heading in headings}


def _commands(page: Path) -> list[str]:
    """Return what follows ``cervinode`` wherever a page names a command in code."""
    return [one.strip() for code in _CODE.findall(_read(page)) for one in _COMMAND.findall(code)]


def _actions(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _find(command: str) -> tuple[argparse.ArgumentParser, str]:
    """Return the parser of a command line and the rest of the line; raises KeyError where there is no such command."""
    parser, words = PARSER, command.split()
    while _actions(parser) and words:
        parser = _actions(parser)[words[0]]
        words = words[1:]
    return parser, " ".join(words)


def _options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings if option.startswith("--")} - {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(_read(page)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        goal = (page.parent / file).resolve() if file else page
        assert goal.exists(), target
        assert not anchor or anchor in _anchors(goal), target


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_and_options_exist(page: Path) -> None:
    for command in _commands(page):
        parser, rest = _find(command)
        assert set(re.findall(r"--[a-z][a-z-]*", rest)) - {"--help"} <= _options(parser), command


def test_example_commands_of_training_can_be_run_as_they_stand() -> None:
    blocks = re.findall(r"^```\n(.*?)^```", _read(DOCS / "training.md") + _read(DOCS / "systems.md"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("cervinode ")]
    assert {line.split()[1] for line in lines} == {"phantom", "train", "evaluate", "models"}
    for line in lines:
        arguments = PARSER.parse_args(shlex.split(line, comments=True)[1:])
        assert getattr(arguments, "system", "olnm_mri") in SYSTEMS, line


@pytest.mark.parametrize("command", ["phantom", "train", "evaluate"])
def test_every_option_around_training_is_explained_with_its_default(command: str) -> None:
    text = _read(DOCS / "training.md")
    table = re.search(rf"^\| option of `cervinode {command} [^\n]*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None
    rows = {row.split()[1].strip("`"): row for row in table.group(1).splitlines()}
    parser = _actions(PARSER)[command]
    assert set(rows) == _options(parser)
    for action in parser._actions:
        if action.option_strings and action.default not in (None, False, argparse.SUPPRESS):
            shown = f"{action.default:g}" if isinstance(action.default, float) else str(action.default)
            assert f"({shown})" in rows[action.option_strings[-1]] or f"(`{shown}`)" in rows[action.option_strings[-1]]


def test_every_column_of_a_cohort_is_explained() -> None:
    from pipelines.training.cohort import COLUMNS, read_cohort

    rows = re.findall(r"^\| `(\w+)` \| (yes|no) \|", _read(DOCS / "training.md"), re.MULTILINE)
    assert {name for name, needed in rows if needed == "yes"} == set(COLUMNS)
    assert {name for name, needed in rows if needed == "no"} == {"roi", "roi2", "site", "split"}
    assert all(f"{name}" in (read_cohort.__doc__ or "") for name, _ in rows)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_modules_that_are_named_exist(page: Path) -> None:
    modules = {path.relative_to(ROOT).as_posix() for package in (*PACKAGES, "tests", "deploy") for path in (ROOT / package).rglob("*.py")}
    for named in re.findall(r"(?<![<\w])[\w/]+\.py\b", _read(page)):
        assert any(f"/{module}".endswith(f"/{named}") for module in modules), named
    for folder in re.findall(rf"`((?:{'|'.join(PACKAGES)})/[\w/]*)`", _read(page)):
        assert (ROOT / folder).is_dir(), folder


def _section(system: str) -> str:
    text = _read(DOCS / "systems.md")
    found = re.search(rf"^## `{system}`.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/systems.md has no section on {system}"
    return found.group()


def _rows(system: str) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Yield block, sequences and count of each line of a section's table of features."""
    table = _section(system).split("| features | sequences | per sequence |\n|---|---|---|\n", 1)[1].split("\n\n", 1)[0]
    for line in table.splitlines():
        block, roles, count = (cell.strip() for cell in line.strip("|").split("|"))
        yield block, tuple(roles.split(", ")), count


def _evaluate(arithmetic: str) -> int:
    """Return the value of sums and products such as ``14 + 16 x 74``."""
    return sum(math.prod(map(int, part.split(" x "))) for part in arithmetic.split(" + "))


@pytest.mark.parametrize("system", SYSTEMS)
def test_feature_counts_are_the_declared_ones(system: str) -> None:
    written = {(block, roles): count for block, roles, count in _rows(system)}
    declared = {(b.name, tuple(map(str, b.roles))): b for b in SYSTEMS[system].blocks}
    assert {key for key in written if key[0] != "clinical"} == set(declared)
    for key, block in declared.items():
        if isinstance(block, Cnn):
            continue
        number, _, arithmetic = written[key].partition(" = ")
        assert int(number) == (block.count if isinstance(block, Radiomics) else 9)
        assert _evaluate(arithmetic or number) == int(number)


def test_features_of_the_histotype_add_up_to_the_paper() -> None:
    counts = [int(re.match(r"\d+", count).group()) for _, _, count in _rows("histotype_mri")]  # type: ignore[union-attr]
    assert sum(counts) == 868
    histogram = next(b for b in SYSTEMS["histotype_mri"].blocks if isinstance(b, Histogram))
    from pipelines.features.histogram import NAMES

    assert histogram.name == "histogram" and len(NAMES) == 9


def _words(spec: PipelineSpec) -> Iterator[str]:
    """Yield what a section must mention: clinical values, classifiers, the numbers of the recipe's steps."""
    yield from (f"`{name}`" for name in spec.clinical_names)
    yield from spec.recipe.classifiers if len(spec.recipe.classifiers) > 1 else ()
    for step in spec.recipe.steps:
        match step:
            case Repeatable():
                yield f"{step.form} of {step.minimum:g}"
            case MannWhitney():
                yield f"Mann-Whitney p < {step.p:g}"
            case Decorrelate():
                yield f"{step.limit:g}"
                yield step.method.title()
            case Mrmr():
                yield f"mRMR keeps {step.keep}"
            case Pca():
                yield f"{step.components} principal components"
            case Lasso():
                yield f"{step.folds} folds"
                yield "one standard error" if step.rule == "1se" else "own minimum" if step.on else "lowest log loss"
            case Rfe():
                yield f"RFE leaves {step.keep}"
            case Rank():
                yield f"{step.keep} by the mean rank"


@pytest.mark.parametrize("system", SYSTEMS)
def test_section_names_what_the_declaration_uses(system: str) -> None:
    section = _section(system)
    assert [words for words in _words(SYSTEMS[system]) if words not in section] == []
    assert "*Paper-reported*" in section and f"cervinode train {system} " in section


def test_catalogue_is_listed_wherever_systems_are() -> None:
    for page in (ROOT / "README.md", DOCS / "systems.md"):
        assert [name for name in SYSTEMS if f"`{name}`" not in _read(page)] == []


@pytest.mark.train
@pytest.mark.parametrize("system", [name for name, spec in SYSTEMS.items() if spec.cnn])
def test_network_sizes_are_those_built(system: str) -> None:
    torch = pytest.importorskip("torch", reason="training needs the [train] extra")
    from pipelines.training.networks import build, choose_architecture

    block = SYSTEMS[system].cnn
    assert block is not None
    written = next(count for name, _, count in _rows(system) if name == "cnn")
    found = re.search(r"(\d+) published, (\d+) narrow", written)
    assert found is not None
    channels, axes = (3, 2) if isinstance(block.view, Triplets) else (1, 3 if isinstance(block.view, Cube) else 2)
    for published, size in zip((True, False), map(int, found.groups()), strict=True):
        with torch.device("meta"):  # shapes without weights
            net = build(block, choose_architecture(block, published=published))
            inputs = [torch.zeros(1, channels, *[block.view.size] * axes), *([torch.zeros(1, 1)] if block.status else [])]
            assert net.eval()(*inputs)[0].shape[1] == size


def test_segmenter_table_is_the_declared_one() -> None:
    text = _read(DOCS / "systems.md").split("| system | drawn on | plausible |", 1)[1].split("\n\n", 1)[0]
    for name, spec in SYSTEMS.items():
        row = next(line for line in text.splitlines() if f"`{name}`" in line)
        assert f"| {', else '.join(spec.roi.roles)} |" in row
        if spec.roi.roles != ("TVUS",):
            assert f"{spec.roi.min_volume_ml:g} to {spec.roi.max_volume_ml:g} ml" in row


def test_plan_in_the_training_page_is_python_that_the_plan_takes() -> None:
    source = re.search(r"```python\n(.*?)```", _read(DOCS / "training.md"), re.DOTALL)
    assert source is not None
    call = ast.parse(source.group(1).strip(), mode="eval").body
    assert isinstance(call, ast.Call)
    plan = ast.parse(_read(ROOT / "pipelines" / "training" / "plan.py"))
    fields = {n.target.id for n in ast.walk(plan) if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    assert {keyword.arg for keyword in call.keywords} <= fields
