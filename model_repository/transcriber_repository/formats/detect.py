"""Tells which format a folder of fetched files is, and refuses all others."""

from pathlib import Path

from transcriber_repository.errors import Reason, RepositoryError
from transcriber_repository.formats import ctranslate2, huggingface
from transcriber_repository.formats.layout import SourceModel
from transcriber_repository.formats.tensors import refuse_pickle


def read_model(field_path: str, folder: Path) -> SourceModel:
    """Read the one model in a folder; raises RepositoryError that names the field or the file below it."""
    for path in sorted(folder.iterdir()):
        refuse_pickle(path)
    readers = [
        reader
        for name, reader in (
            (huggingface.WEIGHTS_FILE, huggingface.read_huggingface),
            (huggingface.INDEX_FILE, huggingface.read_huggingface),
            (ctranslate2.WEIGHTS_FILE, ctranslate2.read_ctranslate2),
        )
        if (folder / name).is_file()
    ]
    if len(readers) == 1:
        return readers[0](folder)
    found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
    wanted = f"{huggingface.WEIGHTS_FILE}, {huggingface.INDEX_FILE} with its shards, or {ctranslate2.WEIGHTS_FILE}"
    raise RepositoryError(Reason.UNSUPPORTED_FORMAT, f"{field_path}.files", f"must hold exactly one of {wanted}; there is {found}")
