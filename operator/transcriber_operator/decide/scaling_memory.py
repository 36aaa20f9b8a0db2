"""What a look at the load leaves behind for the next one; after a restart it begins anew from the status."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from transcriber_operator.decide.autoscale import Cause, Terms
from transcriber_operator.decide.autoscale import Memory as AutoscaleMemory
from transcriber_operator.decide.budget import Memory as BudgetMemory
from transcriber_operator.decide.coldstart import Memory as ColdStartMemory
from transcriber_operator.decide.load import Memory as LoadMemory
from transcriber_operator.decide.pools import Memory as PoolsMemory


class Decided(BaseModel):
    """A scaling decision, since when it stands, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime
    replicas: dict[str, int]  # by pool
    cause: Cause
    sentence: str
    terms: Terms


class ScalingMemory(BaseModel):
    """The memories of the parts, and the last decisions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    autoscale: AutoscaleMemory = AutoscaleMemory()
    pools: PoolsMemory = PoolsMemory()
    budget: BudgetMemory = BudgetMemory()
    load: LoadMemory = LoadMemory()
    coldstart: ColdStartMemory = ColdStartMemory()
    decisions: tuple[Decided, ...] = ()  # oldest first; the last one stands
    lost: tuple[str, ...] = ()  # UIDs of pods whose node is about to go, as they were counted
    refused: tuple[str, ...] = ()  # insufficient-capacity events of the last minutes, as they were counted
