"""The operator's account as our chart makes it: what tests run under is what users install."""

from functools import cache
from typing import Any, Final

import yaml

from tests.chart.rendering import CHART, NAMESPACE, template

TEMPLATES: Final = ("serviceaccount.yaml", "rbac.yaml")
KWOK_NODE_CLASS: Final = {"group": "karpenter.kwok.sh", "resource": "kwoknodeclasses"}  # of the Karpenter that tests run


def operator_account(namespace: str, **values: Any) -> list[dict[str, Any]]:
    """Return the operator's ServiceAccount in a namespace with all of its rights, those to the node classes of tests among them.

    NAMESPACE in the values stands for `namespace`: helm renders once for all. Raises HelmError, and BuildError without helm.
    """
    rights = {"nodeClassGroups": [*_default_values()["rbac"]["nodeClassGroups"], KWOK_NODE_CLASS], **values.get("rbac", {})}
    text = "\n---\n".join(template({**values, "rbac": rights}, only=name) for name in TEMPLATES)
    return [document for document in yaml.safe_load_all(text.replace(NAMESPACE, namespace)) if document]


@cache
def _default_values() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    return values
