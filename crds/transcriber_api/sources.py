"""Where the weights of target and draft come from, and what makes them the very weights that were meant."""

import re
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from transcriber_api.quantities import ListType, ObjectName, Sha256, Text
from transcriber_api.rules import ApiModel, Rule

_SEGMENT: Final = "[A-Za-z0-9._=+@-]+"
URI_PATTERN: Final = (
    "^("
    "hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*"
    f"|s3://[a-z0-9][a-z0-9.-]+[a-z0-9](/{_SEGMENT})*"
    f"|https://[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?(/{_SEGMENT})*"
    f"|file://(/{_SEGMENT})+"
    f"|pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/{_SEGMENT})*"
    ")/?$"
)
COMMIT_PATTERN: Final = "^[0-9a-f]{40}$"
PICKLE_PATTERN: Final = r"(?i)\.(pt|pth|ckpt|pkl|pickle|bin)$"
CTRANSLATE2_PATTERN: Final = "(^|/)model[.]bin$"
FILE_PATH_PATTERN: Final = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"


def _is_pickle(path: str) -> bool:
    return bool(re.search(PICKLE_PATTERN, path)) and not re.search(CTRANSLATE2_PATTERN, path)


class SourceFile(ApiModel):
    """One file of a model source and the hash that it must have."""

    path: Annotated[str, Text("letters, digits, '.', '_', '-' and '/'", 256)] = Field(
        description="Path of the file below `uri`.", examples=["model.safetensors"]
    )
    sha256: Sha256 = Field(
        description="Its sha256, as `sha256sum FILE` prints it; a file that differs is never served.",
        examples=["26a5b8eacec24c142c2a5295a440d1ad5539faf32ba1aeb34ee477987ef0c04d"],
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="file-path-safe",
            field="path",
            message="path must be relative, of letters, digits, '.', '_' and '-' between slashes, and without '..'",
            cel=f"self.path.matches('{FILE_PATH_PATTERN}')",
            holds=lambda file: re.fullmatch(FILE_PATH_PATTERN, file.path),
        ),
        Rule(
            name="file-not-pickle",
            field="path",
            message="pickled weights can run code when loaded; use .safetensors, or CTranslate2's model.bin",
            cel=f"!self.path.matches(r'{PICKLE_PATTERN}') || self.path.matches('{CTRANSLATE2_PATTERN}')",
            holds=lambda file: not _is_pickle(file.path),
        ),
    )


def _is_from(source: Any, *schemes: str) -> bool:
    return str(source.uri).startswith(tuple(f"{scheme}://" for scheme in schemes))


class ModelSource(ApiModel):
    """A Whisper model in safetensors or CTranslate2 form, at a place and pinned."""

    uri: Annotated[str, Text("a model source URI", 512)] = Field(
        description=(
            "Where the files are: hf://ORG/NAME, s3://BUCKET/PREFIX, https://HOST/PATH, file:///PATH (where it is built) or "
            "pvc://CLAIM/PATH (a PersistentVolumeClaim in this namespace, mounted read-only)."
        ),
        examples=["hf://openai/whisper-large-v3"],
    )
    revision: Annotated[str, Text("a 40-hex commit", 128)] | None = Field(
        default=None,
        description="Commit of an hf:// repository, 40 hexadecimal digits; needed there and unknown elsewhere.",
        examples=["06f233fe06e710322aca913c1bc4249a0d71fce1"],
    )
    files: Annotated[tuple[SourceFile, ...], ListType("map", 64, ("path",))] = Field(
        default=(),
        description=(
            "The files to fetch, with their hashes; nothing else is fetched. May be empty only for hf://, where the commit names "
            "the files and the hub publishes their hashes, which are then pinned in status.repository.files."
        ),
        examples=[[{"path": "model.safetensors", "sha256": "<64 hex>"}]],
    )
    credentials_secret: ObjectName | None = Field(
        default=None,
        description=(
            "Secret in this namespace that only the build Job reads: key `token` for hf:// and https://, `accessKeyId` and "
            "`secretAccessKey` for s3:// (better: give runtime.serviceAccountName a role and leave this out)."
        ),
        examples=["hub-token"],
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="uri-known",
            field="uri",
            message="uri must be hf://ORG/NAME, s3://BUCKET/PREFIX, https://HOST/PATH, file:///PATH or pvc://CLAIM/PATH",
            cel=f"self.uri.matches('{URI_PATTERN}')",
            holds=lambda source: re.fullmatch(URI_PATTERN, source.uri),
        ),
        Rule(
            name="uri-without-dots",
            field="uri",
            message="uri must not contain '..'; write the path out",
            cel="!self.uri.contains('..')",
            holds=lambda source: ".." not in source.uri,
        ),
        Rule(
            name="revision-given",
            field="revision",
            message="an hf:// model needs revision, the 40-hex commit to serve",
            cel="!self.uri.startsWith('hf://') || has(self.revision)",
            holds=lambda source: not _is_from(source, "hf") or source.revision is not None,
        ),
        Rule(
            name="revision-fixed",
            field="revision",
            message="revision must be a 40-hex commit; a branch or tag such as main can move to other weights at any time",
            cel=f"!has(self.revision) || self.revision.matches('{COMMIT_PATTERN}')",
            holds=lambda source: source.revision is None or re.fullmatch(COMMIT_PATTERN, source.revision),
        ),
        Rule(
            name="revision-only-of-hub",
            field="revision",
            message="only hf:// models have a revision; pin the files of other sources by sha256",
            cel="!has(self.revision) || self.uri.startsWith('hf://')",
            holds=lambda source: source.revision is None or _is_from(source, "hf"),
        ),
        Rule(
            name="files-pinned",
            field="files",
            message="list files with their sha256; only an hf:// commit may leave them out",
            cel="self.uri.startsWith('hf://') || size(self.files) > 0",
            holds=lambda source: _is_from(source, "hf") or source.files,
        ),
        Rule(
            name="credentials-used",
            field="credentialsSecret",
            message="credentialsSecret is for hf://, s3:// and https:// sources; file:// and pvc:// need none",
            cel=(
                "!has(self.credentialsSecret) || self.uri.startsWith('hf://') || self.uri.startsWith('s3://')"
                " || self.uri.startsWith('https://')"
            ),
            holds=lambda source: source.credentials_secret is None or _is_from(source, "hf", "s3", "https"),
        ),
    )


class Model(ApiModel):
    """The pair that decodes: the target whose tokens are served, and a draft that guesses them ahead."""

    target: ModelSource = Field(description="The model whose transcripts are served.")
    draft: ModelSource | None = Field(
        default=None,
        description=(
            "A distilled model with the target's vocabulary that proposes tokens; the target checks each, so the transcript is the "
            "target's own. Absent: no speculation, unless decoding.draftSource is PromptLookup."
        ),
    )
    precision: Literal["Float32", "BFloat16", "Float16", "Int8"] = Field(
        default="Float16",
        description=(
            "Number format of weights and activations. A CPU takes Float32 or Int8, a GPU all but Int8. Int8 is a target of its "
            "own, quantised while it loads: its transcripts, exact with any draft and batch, are not always those of Float32."
        ),
        examples=["Float16"],
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="draft-other-than-target",
            field="draft",
            message="draft and target are the same model; a draft must be a smaller one, or be left out",
            cel="!has(self.draft) || self.draft.uri != self.target.uri",
            holds=lambda model: model.draft is None or model.draft.uri != model.target.uri,
        ),
    )
