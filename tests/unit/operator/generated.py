"""Generated specs: valid by construction, small, and of every shape that rendering and deciding branch on."""

from typing import Any

from hypothesis import strategies as st

from tests.unit.operator.specs import DRAFT, SHA256, TARGET, context
from transcriber_operator.render.context import Context

Manifest = dict[str, Any]
FILES = [{"path": "model.safetensors", "sha256": SHA256}]
labels = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
quantities = st.sampled_from(["500m", "1", "2.5", "4Gi", "1500M", "1024Mi"])


def _optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Manifest]:
    return st.fixed_dictionaries({}, optional=fields)


_resources = _optional(requests=_optional(cpu=quantities, memory=quantities), limits=_optional(memory=quantities))
_other_sources = st.one_of(
    st.builds(lambda claim: {"uri": f"pvc://{claim}/weights", "files": FILES}, labels),
    st.just({"uri": "file:///weights", "files": FILES}),
    st.builds(lambda secret: {"uri": "s3://models/x", "files": FILES, **secret}, _optional(credentialsSecret=labels)),
    st.just({"uri": "https://models.example.com:8443/x", "files": FILES, "credentialsSecret": "site"}),
)
models = _optional(draft=st.one_of(st.just(DRAFT), _other_sources)).flatmap(
    lambda given: st.just({"target": TARGET, "precision": "Float32", **given})
)
_volumes = st.one_of(
    st.builds(lambda claim: {"claimName": claim}, labels),
    st.builds(lambda size: {"ephemeral": {"sizeLimit": size}}, quantities),
)
_repositories = st.fixed_dictionaries(
    {"volume": _volumes},
    optional={
        "build": _optional(resources=_resources, timeoutSeconds=st.integers(60, 90), backoffLimit=st.integers(0, 3)),
        "revisionHistoryLimit": st.integers(0, 3),
    },
)


@st.composite
def pools(draw: st.DrawFn) -> list[Manifest]:
    made = draw(st.lists(labels, min_size=1, max_size=4, unique=True))
    shapes = st.fixed_dictionaries(
        {
            "capacityType": st.sampled_from(["Spot", "OnDemand"]),
            "minReplicas": st.integers(0, 3),
            "maxNodes": st.integers(3, 6),
            "weight": st.integers(1, 3),
        },
        optional={
            "zones": st.lists(st.sampled_from(["us-east-1a", "us-east-1b"]), max_size=2, unique=True),
            "nodeSelector": st.dictionaries(labels, labels, max_size=2),
            "tolerations": st.just([{"key": "dedicated", "operator": "Exists"}]),
        },
    )
    return [{"name": name, **draw(shapes)} for name in made]


@st.composite
def specs(draw: st.DrawFn) -> Manifest:
    made = draw(pools())
    floor = sum(pool["minReplicas"] for pool in made)
    most = draw(st.integers(max(floor, 1), floor + 6))
    scaling: Manifest = {
        "maxReplicas": most,
        "minReplicas": draw(st.integers(0, most)),
        "mode": draw(st.sampled_from(["Builtin", "External"])),
    }
    if scaling["mode"] == "External" and draw(st.booleans()):
        scaling["replicas"] = draw(st.integers(0, 20))
    capacity: Manifest = {"provisioner": "None", "pools": made}
    if draw(st.booleans()):
        node_class = {"group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": "gpu"}
        capacity |= {"provisioner": "Karpenter", "nodeClassRef": node_class}
    runtime = draw(
        _optional(
            device=st.sampled_from(["CPU", "GPU"]),
            resources=_resources,
            serviceAccountName=labels,
            priorityClassName=labels,
            slots=st.integers(1, 4),
            terminationGracePeriodSeconds=st.integers(5, 120),
            startupTimeoutSeconds=st.integers(60, 100),
        )
    )
    return {
        "model": draw(models),
        "decoding": draw(
            _optional(draftSource=st.sampled_from(["Auto", "PromptLookup", "None"]), maxDraftTokens=st.integers(0, 8))
        ),
        "runtime": runtime,
        "repository": draw(_repositories),
        "scaling": scaling,
        "capacity": capacity,
    }


@st.composite
def contexts(draw: st.DrawFn) -> Context:
    name = draw(st.from_regex(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?", fullmatch=True))
    return context(draw(specs()), name=name, https_hosts=tuple(draw(st.lists(st.just("models.example.com"), max_size=1))))
