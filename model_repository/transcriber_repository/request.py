"""What a build needs of a TranscriberDeployment: a narrow view of its spec, and the engine settings that follow from it."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from transcriber_engine.settings import EngineSettings
from transcriber_repository.errors import Reason, RepositoryError

DEVICES: Final = {"gpu": "cuda", "cpu": "cpu"}
# Spec fields under other names than the engine's; the rest differ only in case.
RENAMED: Final = {"draft_source": "draft"}
Role = Literal["target", "draft"]


class _View(BaseModel):
    # The spec has many more fields (scaling, capacity, …) that change no file.
    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, validate_by_name=True)


class SourceFile(_View):
    """One file of a source: its name, and its sha256 as 64 hex digits (None: the source publishes it)."""

    path: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


class Source(_View):
    """Where weights come from: `uri` with one of five schemes, `revision` of a hub repository, and the files."""

    uri: str
    revision: str | None = None
    files: tuple[SourceFile, ...] | None = None


class _Model(_View):
    target: Source
    draft: Source | None = None
    precision: str | None = None


class _Decoding(_View):
    language: str | None = None
    task: str | None = None
    timestamps: str | None = None
    max_draft_tokens: int | None = None
    draft_source: str | None = None
    chunk_seconds: int | None = None
    voice_activity_detection: str | None = None


class _Runtime(_View):
    device: str | None = None
    slots: int | None = None
    max_queued_audio_seconds: int | None = None
    max_audio_seconds: int | None = None
    max_audio_bytes: int | None = None


class _Spec(_View):
    model: _Model
    decoding: _Decoding = _Decoding()
    runtime: _Runtime = _Runtime()


class BuildRequest(BaseModel):
    """Everything of a spec that changes what a build writes."""

    model_config = ConfigDict(frozen=True)

    target: Source
    draft: Source | None
    settings: EngineSettings

    def sources(self) -> dict[Role, Source]:
        """Return the sources to fetch by their role, which is also their field below `spec.model`."""
        return {"target": self.target} | ({"draft": self.draft} if self.draft is not None else {})


def build_request(spec: Mapping[str, Any] | BaseModel) -> BuildRequest:
    """Read a spec, as its API object or as the parsed YAML; raises RepositoryError that names the field."""
    content = spec.model_dump(mode="json", by_alias=True) if isinstance(spec, BaseModel) else dict(spec)
    try:
        view = _Spec.model_validate({key: value for key, value in content.items() if value is not None})
        settings = _settings(view)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(["spec", *(str(part) for part in first["loc"])])
        raise RepositoryError(Reason.INVALID_SPEC, field, first["msg"]) from None
    if settings.draft == "model" and view.model.draft is None:
        raise RepositoryError(
            Reason.INVALID_SPEC, "spec.decoding.draftSource", "is Model: give spec.model.draft, or choose another draftSource"
        )
    return BuildRequest(target=view.model.target, draft=view.model.draft if settings.draft == "model" else None, settings=settings)


def engine_settings(spec: Mapping[str, Any] | BaseModel) -> EngineSettings:
    """Map a spec onto `engine.json`; a field left out takes the engine's default. Raises RepositoryError."""
    return build_request(spec).settings


def _settings(view: _Spec) -> EngineSettings:
    given = {
        RENAMED.get(name, name): _snake(value) if isinstance(value, str) else value
        for part in (view.decoding, view.runtime)
        for name, value in part
        if value is not None
    }
    if view.model.precision is not None:
        given["precision"] = _snake(view.model.precision)
    if "device" in given:
        given["device"] = DEVICES.get(given["device"], given["device"])
    if given.get("language") == "auto":
        del given["language"]
    if given.get("draft", "auto") == "auto":
        given["draft"] = "model" if view.model.draft is not None else "none"
    return EngineSettings.model_validate(given)


def _snake(value: str) -> str:
    """`PromptLookup` -> `prompt_lookup`, `GPU` -> `gpu`: the engine's spelling of the API's enums."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", value).lower()
