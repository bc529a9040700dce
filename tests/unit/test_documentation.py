"""The documents that are generated or that name files keep up with the source."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pacs_core.settings import load_settings
from pacs_core.wiring import listening

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", ["configuration", "conformance"])
def test_a_page_that_is_generated_is_current(page: str) -> None:
    script = ROOT / "docs" / f"generate_{page}.py"
    text = subprocess.run([sys.executable, script], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert (ROOT / "docs" / f"{page}.md").read_text() == text, "run `make docs`"


def test_the_conformance_statement_tells_of_every_service_that_a_listener_offers(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("generate_conformance", ROOT / "docs" / "generate_conformance.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    told = {type(service) for service in generator._services().values()}
    (tmp_path / "pacs.toml").write_text('catalog_url = "postgresql://postgres:@127.0.0.1:1/none"')
    with listening.listener(load_settings(tmp_path)) as listener:
        assert {type(service) for service in listener._services} == told


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~! ]", each)[0]).lower() for each in wanted}
    locked = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
    assert sorted(names - set(locked)) == []


def test_the_lock_file_names_no_place() -> None:
    assert not re.search(r"://|--|@", (ROOT / "requirements.lock").read_text())
