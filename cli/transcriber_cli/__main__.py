"""`transcriber`, and `python -m transcriber_cli`."""

from importlib.metadata import version
from typing import Annotated

import typer

from transcriber_cli import repository
from transcriber_cli.console import write_result
from transcriber_cli.doctor.command import doctor_command
from transcriber_cli.explain import explain_command
from transcriber_cli.serve import serve_command
from transcriber_cli.simulate import simulate_command
from transcriber_cli.status.command import status_command
from transcriber_cli.transcribe import transcribe_command

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,  # locals may hold secrets
)


def _version(wanted: bool) -> None:
    if wanted:
        write_result(f"transcriber {version('transcriber-operator')}")
        raise typer.Exit


@app.callback()
def transcriber(
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Whisper with exact speculative decoding on Triton.

    Serve a model on this machine, then transcribe with it:

    `transcriber serve -f examples/whisper-base.yaml`

    `transcriber transcribe talk.mp3`
    """


app.command("serve")(serve_command)
app.command("transcribe")(transcribe_command)
app.command("status")(status_command)
app.command("doctor")(doctor_command)
app.command("explain")(explain_command)
app.command("simulate")(simulate_command)
app.add_typer(repository.app, name="repository")

if __name__ == "__main__":
    app()
