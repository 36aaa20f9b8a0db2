"""The guard of the end-to-end story, which breaks and removes what it finds: it touches throw-away clusters alone."""

from pathlib import Path

import pytest

from tests.e2e.site import Site, SiteError, condition, until


def site(context: str) -> Site:
    return Site(context, "kubeconfig", "kubectl", "helm", Path(), "", "")


@pytest.mark.parametrize("context", ["kind-transcriber-e2e", "transcriber-test-0a1b2c3d"])
def test_a_throw_away_cluster_is_taken(context: str):
    assert site(context).context == context


@pytest.mark.parametrize("context", ["production", "arn:aws:eks:eu-west-1:1:cluster/kind-of-important", "minikube", ""])
def test_a_cluster_that_may_be_somebody_s_is_refused(context: str):
    with pytest.raises(SiteError, match=r"--kube-context .*throw-away.*kind-… or transcriber-test-…"):
        site(context)


def test_waiting_in_vain_says_for_what():
    with pytest.raises(AssertionError, match="a miracle: not within 0 s"):
        until("a miracle", lambda: None, 0)


def test_a_condition_that_is_not_there_is_empty():
    resource = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    assert condition(resource, "Ready")["status"] == "True"
    assert condition(resource, "Reconciling") == condition({}, "Ready") == {}
