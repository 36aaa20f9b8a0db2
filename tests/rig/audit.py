"""What the operator and the hooks of its chart asked of the API server, from its audit log, held against the rights that they have.

With AUDIT_VARIABLE set to a folder, every control plane logs the calls of their ServiceAccounts, and in the end writes down there
what was asked, in distinct rows; several processes may do so. The log says which role allowed a call: each is judged alone.
"""

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

AUDIT_VARIABLE: Final = "RIG_AUDIT_FOLDER"
OPERATOR: Final = "transcriber-operator"
ACCOUNTS: Final = (OPERATOR, f"{OPERATOR}-cleanup", f"{OPERATOR}-trial")
USER: Final = re.compile(r"system:serviceaccount:(?P<namespace>[^:]+):(?P<account>[^:]+)")
ROLE: Final = re.compile(r'of (?:Cluster)?Role "(?P<role>[^"]+)"')
CREATED: Final = 201
# Calls of ServiceAccounts, but for those of Kubernetes' own controllers; without bodies, and once each.
POLICY: Final[Mapping[str, Any]] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


@dataclass(frozen=True, order=True)
class Right:
    """That an account may do something by a role; the role without the namespace of its installation, a resource with its part."""

    account: str
    role: str
    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f"{self.account}: {self.verb} {'.'.join(filter(None, (self.resource, self.group)))} ({self.role})"


@dataclass(frozen=True, order=True)
class Call:
    """A call; `role` allowed it, and is empty where none did. `is_on_purpose`: a refusal that a test wanted to see."""

    account: str
    role: str
    group: str
    resource: str
    verb: str
    code: int
    is_on_purpose: bool = False

    @property
    def rights(self) -> set[Right]:
        """The rights that it took: an apply that makes the object takes that to create it too, which the log does not say."""
        verbs = {self.verb, "create"} if self.verb == "patch" and self.code == CREATED else {self.verb}
        return {Right(self.account, self.role, self.group, self.resource, verb) for verb in verbs}

    def __str__(self) -> str:
        return f"{self.account}: {self.verb} {'.'.join(filter(None, (self.resource, self.group)))}, {self.code}"


@dataclass(frozen=True)
class Refusals:
    """Refusals that a test provokes: calls (`list nodepools`) of the account of an installation in a namespace; none named: all."""

    namespace: str
    calls: frozenset[str] = frozenset()

    def has(self, namespace: str, call: str) -> bool:
        """Whether a refusal is one of these."""
        return namespace == self.namespace and (not self.calls or call in self.calls)


# Granted, and of a kind that no call shows.
SHOWN_ELSEWHERE: Final[Mapping[Right, str]] = {
    Right(OPERATOR, OPERATOR, "serving.transcriber.dev", "transcriberdeployments/finalizers", "update"): (
        "admission asks for it: tests/chart/test_rights.py::"
        "test_without_the_right_to_finalizers_a_child_that_blocks_the_deletion_of_its_owner_is_refused"
    )
}


def calls(events: Iterable[Mapping[str, Any]], provoked: Sequence[Refusals] = ()) -> Iterator[Call]:
    """Return the calls of our accounts about objects; what all users may ask, such as what kinds there are, is none."""
    for event in events:
        user = USER.fullmatch(event["user"]["username"])
        subject = event.get("objectRef")
        decision = event.get("annotations", {}).get("authorization.k8s.io/decision")
        if user is None or user["account"] not in ACCOUNTS or subject is None or decision is None:
            continue
        resource = "/".join(filter(None, (subject["resource"], subject.get("subresource"))))
        is_refused = decision == "forbid"
        reason = ROLE.search(event["annotations"].get("authorization.k8s.io/reason", ""))
        yield Call(
            user["account"],
            role="" if is_refused or reason is None else plain_role(reason["role"], user["namespace"]),
            group=subject.get("apiGroup", ""),
            resource=resource,
            verb=event["verb"],
            code=event.get("responseStatus", {}).get("code", 0),
            is_on_purpose=is_refused and any(each.has(user["namespace"], f"{event['verb']} {resource}") for each in provoked),
        )


def plain_role(name: str, namespace: str) -> str:
    """Return the name of a role without the namespace of its installation, which that of a ClusterRole has."""
    return name.replace(f"{OPERATOR}-{namespace}", OPERATOR)


def rights(manifests: Iterable[Mapping[str, Any]], namespace: str) -> set[Right]:
    """Return what roles and their bindings give to our accounts; `namespace` is that of the installation."""
    documents = list(manifests)
    bindings = [(each, subject["name"]) for each in documents if "roleRef" in each for subject in each["subjects"]]
    accounts = {_key(binding["roleRef"], binding): name for binding, name in bindings if name in ACCOUNTS}
    return {
        Right(accounts[key], plain_role(role["metadata"]["name"], namespace), group, resource, verb)
        for role in documents
        if (key := _key({"kind": role["kind"], "name": role["metadata"]["name"]}, role)) in accounts and "rules" in role
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def unused(granted: Iterable[Right], made: Iterable[Call]) -> list[Right]:
    """Return the rights that no call took, and that are not shown elsewhere."""
    used = {right for call in made for right in call.rights}
    return sorted(set(granted) - used - SHOWN_ELSEWHERE.keys())


def refused(made: Iterable[Call]) -> list[Call]:
    """Return the calls that were forbidden, and that no test provoked."""
    return sorted(call for call in made if not call.role and not call.is_on_purpose)


def read_log(file: Path) -> Iterator[dict[str, Any]]:
    """Read an audit log with the parts that it was split into; the last line of a server that was killed may be cut off."""
    for part in sorted(file.parent.glob(f"{file.stem}*{file.suffix}")):
        with part.open(encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("}\n"):
                    yield json.loads(line)


def keep(made: Iterable[Call], folder: Path) -> None:
    """Write distinct calls to a file of their own."""
    rows = [json.dumps(asdict(call)) for call in sorted(set(made))]
    (folder / f"{secrets.token_hex(8)}.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def kept(folder: Path) -> set[Call]:
    """Read what all processes have written."""
    lines = [line for file in folder.glob("*.jsonl") for line in file.read_text(encoding="utf-8").splitlines()]
    return {Call(**json.loads(line)) for line in lines}


def _key(role: Mapping[str, str], within: Mapping[str, Any]) -> tuple[str, str, str]:
    return role["kind"], role["name"], within["metadata"].get("namespace", "")
