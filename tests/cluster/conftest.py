"""Fixtures of one event loop per module: an operator goes on between tests, and so must the proxy that it speaks through."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_kube_config
from kubernetes.aio.dynamic import DynamicClient

from tests.cluster.quick_pods import Operated, Parts, QuickNamespace, operated, quick_namespace
from tests.rig.bridge_api import Api
from tests.rig.cluster import install_account
from tests.rig.control_plane import ControlPlane
from tests.rig.fixtures import binaries, control_plane, namespace

__all__ = ["binaries", "control_plane", "namespace", "operator", "parts", "quick", "unscheduled"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def parts(control_plane: ControlPlane) -> AsyncIterator[Parts]:
    """The control plane with the operator's account, and clients of it."""
    await asyncio.to_thread(install_account, control_plane)
    configuration = Configuration()
    await load_kube_config(str(control_plane.kubeconfig), client_configuration=configuration)
    configuration.client_session_kwargs = {"trust_env": False}
    async with ApiClient(configuration) as connection, Api(control_plane.kubeconfig) as api:
        yield Parts(control_plane, await DynamicClient(connection), api)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def unscheduled(control_plane: ControlPlane) -> AsyncIterator[None]:
    """Quick pods have no node and need none: the scheduler would say of each that it finds none."""
    scheduler = control_plane.part("kube-scheduler")
    scheduler.pause()
    yield
    scheduler.resume()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def operator(parts: Parts, unscheduled: None) -> AsyncIterator[Operated]:
    """One operator of all namespaces for the tests of a module."""
    async with operated(parts) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def quick(parts: Parts, unscheduled: None) -> AsyncIterator[QuickNamespace]:
    """A namespace of this test alone, with quick pods."""
    async with quick_namespace(parts) as entered:
        yield entered
