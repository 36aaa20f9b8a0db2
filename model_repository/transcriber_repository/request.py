"""What a build needs of a TranscriberDeployment's spec: its sources, and the engine settings that follow from it."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from transcriber_api.serving import Decoding, Runtime
from transcriber_api.sources import ModelSource
from transcriber_api.v1alpha1 import Spec
from transcriber_engine.settings import EngineSettings

DEVICES: Final = {"GPU": "cuda", "CPU": "cpu"}
AUTO_LANGUAGE: Final = "Auto"
Role = Literal["target", "draft"]


class SourceFile(BaseModel):
    """One file of a source: its path, and its sha256 as 64 hex digits."""

    model_config = ConfigDict(frozen=True)

    path: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Source(BaseModel):
    """Where weights come from: `uri` with one of five schemes, `revision` of a hub repository, and the files (empty: the hub's)."""

    model_config = ConfigDict(frozen=True)

    uri: str
    revision: str | None = None
    files: tuple[SourceFile, ...] = ()


class BuildRequest(BaseModel):
    """Everything of a spec that changes what a build writes."""

    model_config = ConfigDict(frozen=True)

    target: Source
    draft: Source | None
    settings: EngineSettings

    @property
    def sources(self) -> dict[Role, Source]:
        """The sources to fetch by their role, which is also their field below `spec.model`."""
        sources: dict[Role, Source] = {"target": self.target}
        if self.draft is not None:
            sources["draft"] = self.draft
        return sources


def build_request(spec: Spec) -> BuildRequest:
    """Take from a spec what a build reads; a draft that decoding.draftSource does not use is left out."""
    draft = spec.model.draft if spec.draft_source == "Model" else None
    return BuildRequest(
        target=_source(spec.model.target),
        draft=_source(draft) if draft is not None else None,
        settings=engine_settings(spec),
    )


def engine_settings(spec: Spec) -> EngineSettings:
    """Map a spec onto `engine.json`: fields of the same name, enums in the engine's spelling."""
    given: dict[str, Any] = {
        name: _snake(value) if isinstance(value, str) else value
        for part, model in ((spec.decoding, Decoding), (spec.runtime, Runtime))
        for name in model.model_fields
        if name in EngineSettings.model_fields and (value := getattr(part, name)) is not None
    }
    language = spec.decoding.language
    return EngineSettings.model_validate(
        given
        | {
            "device": DEVICES[spec.runtime.device],
            "draft": _snake(spec.draft_source),
            "language": None if language == AUTO_LANGUAGE else language,
            "precision": spec.model.precision.lower(),
        }
    )


def _source(source: ModelSource) -> Source:
    files = tuple(SourceFile(path=file.path, sha256=file.sha256) for file in source.files)
    return Source(uri=source.uri, revision=source.revision, files=files)


def _snake(value: str) -> str:
    """`PromptLookup` -> `prompt_lookup`: the engine's spelling of the API's enums."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", value).lower()
