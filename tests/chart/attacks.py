"""What somebody who has the operator's token might try: requests that must be refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tests.api.operator_parts import ACCOUNT
from tests.chart.rendering import Manifest


@dataclass(frozen=True)
class Attack:
    """A request that must be refused; NS stands for a namespace that is not served."""

    name: str
    method: str
    path: str
    body: Manifest | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_in_any_scope: bool = True  # False: refused where some namespaces are served, and needed where all are


RBAC = "/apis/rbac.authorization.k8s.io/v1"
OURS = "/apis/serving.transcriber.dev/v1alpha1"
SYSTEM = "/api/v1/namespaces/kube-system"
LEASES = "/apis/coordination.k8s.io/v1/namespaces"
AUDIENCES = {"spec": {"audiences": []}}
MASTERS = {"Impersonate-User": "x", "Impersonate-Group": "system:masters"}
ADMIN_REF = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
MYSELF = [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "NS"}]
BINDING = {"metadata": {"name": "mine"}, "roleRef": ADMIN_REF, "subjects": MYSELF}
ALL_RULES = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
POD = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
HOOK = {"metadata": {"name": "mine"}, "webhooks": []}
ATTACKS: Final = (
    Attack("create ClusterRoleBinding", "POST", f"{RBAC}/clusterrolebindings", BINDING),
    Attack("create RoleBinding", "POST", f"{RBAC}/namespaces/NS/rolebindings", BINDING),
    Attack("create ClusterRole", "POST", f"{RBAC}/clusterroles", {"metadata": {"name": "mine"}, "rules": ALL_RULES}),
    Attack("create Role", "POST", f"{RBAC}/namespaces/NS/roles", {"metadata": {"name": "mine"}, "rules": ALL_RULES}),
    Attack("widen its own ClusterRole", "PATCH", f"{RBAC}/clusterroles/{ACCOUNT}-NS", {"rules": ALL_RULES}),
    Attack("widen its own Role", "PATCH", f"{RBAC}/namespaces/NS/roles/{ACCOUNT}-lease", {"rules": ALL_RULES}),
    Attack("read a Secret of its namespace", "GET", "/api/v1/namespaces/NS/secrets/any"),
    Attack("list Secrets everywhere", "GET", "/api/v1/secrets"),
    Attack("watch Secrets of kube-system", "GET", f"{SYSTEM}/secrets?watch=1&timeoutSeconds=1"),
    Attack("create Secret", "POST", "/api/v1/namespaces/NS/secrets", {"metadata": {"name": "mine"}}),
    Attack("create Pod", "POST", "/api/v1/namespaces/NS/pods", POD),
    Attack("read a Pod's log", "GET", "/api/v1/namespaces/NS/pods/p/log"),
    Attack("exec", "POST", "/api/v1/namespaces/NS/pods/p/exec?command=sh"),
    Attack("attach", "POST", "/api/v1/namespaces/NS/pods/p/attach"),
    Attack("forward a port", "POST", "/api/v1/namespaces/NS/pods/p/portforward"),
    Attack("add an ephemeral container", "PATCH", "/api/v1/namespaces/NS/pods/p/ephemeralcontainers", {}),
    Attack("evict", "POST", "/api/v1/namespaces/NS/pods/p/eviction", {"metadata": {"name": "p"}}),
    Attack("impersonate a user", "GET", "/api/v1/namespaces", headers={"Impersonate-User": "admin"}),
    Attack("impersonate a group", "GET", "/api/v1/namespaces", headers=MASTERS),
    Attack("mint a token", "POST", f"{SYSTEM}/serviceaccounts/default/token", AUDIENCES),
    Attack("mint a token of its own", "POST", f"/api/v1/namespaces/NS/serviceaccounts/{ACCOUNT}/token", AUDIENCES),
    Attack("create ServiceAccount", "POST", "/api/v1/namespaces/NS/serviceaccounts", {"metadata": {"name": "mine"}}),
    Attack("list nodes", "GET", "/api/v1/nodes"),
    Attack("patch a node", "PATCH", "/api/v1/nodes/any", {"metadata": {"labels": {"a": "b"}}}),
    Attack("proxy to a node", "GET", "/api/v1/nodes/any/proxy/pods"),
    Attack("create Namespace", "POST", "/api/v1/namespaces", {"metadata": {"name": "mine"}}),
    Attack("label a Namespace privileged", "PATCH", "/api/v1/namespaces/NS", {"metadata": {"labels": {"a": "b"}}}),
    Attack("create CustomResourceDefinition", "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", {}),
    Attack("create a webhook", "POST", "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", HOOK),
    Attack("create a signing request", "POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", {}),
    Attack("take another Lease", "PATCH", f"{LEASES}/kube-system/leases/kube-scheduler", {"spec": {}}),
    Attack("take a Lease of another name", "PATCH", f"{LEASES}/NS/leases/other", {"spec": {}}),
    Attack("create DaemonSet", "POST", "/apis/apps/v1/namespaces/NS/daemonsets", {}),
    Attack("delete all its resources at once", "DELETE", f"{OURS}/namespaces/NS/transcriberdeployments"),
    Attack("create a resource", "POST", f"{OURS}/namespaces/NS/transcriberdeployments", {}),
    Attack("write a ConfigMap of kube-system", "PATCH", f"{SYSTEM}/configmaps/any", {}, is_in_any_scope=False),
    Attack("create a Deployment elsewhere", "POST", "/apis/apps/v1/namespaces/kube-system/deployments", {}, is_in_any_scope=False),
    Attack("read resources elsewhere", "GET", f"{OURS}/transcriberdeployments", is_in_any_scope=False),
    Attack("delete pods elsewhere", "DELETE", f"{SYSTEM}/pods/any", is_in_any_scope=False),
    Attack("post Events elsewhere", "POST", "/apis/events.k8s.io/v1/namespaces/kube-system/events", {}, is_in_any_scope=False),
)  # fmt: skip
