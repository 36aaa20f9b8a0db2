"""Golden files: what is rendered, as YAML that a reviewer can read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

GOLDEN_DIR = Path(__file__).parent / "golden"


class _Dumper(yaml.SafeDumper):
    """Lists are indented as in Kubernetes' own documents, and nothing is an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@pytest.fixture
def assert_golden(request: pytest.FixtureRequest) -> Callable[[str, tuple[dict[str, Any], ...]], None]:
    """Compare manifests with `golden/NAME.yaml`; `pytest --update-golden` writes the file instead."""

    def compare(name: str, manifests: tuple[dict[str, Any], ...]) -> None:
        path = GOLDEN_DIR / f"{name}.yaml"
        text = yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=132)
        if request.config.getoption("--update-golden"):
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path.name} is missing; run pytest --update-golden and review it"
        assert text == path.read_text(encoding="utf-8"), f"{path.name} differs; if that is meant, run pytest --update-golden"

    return compare
