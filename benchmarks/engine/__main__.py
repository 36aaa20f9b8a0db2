"""The engine next to its peers on the same audio: `python -m benchmarks.engine`.

Hugging Face, faster-whisper and openai-whisper run the same windows in the same run as our engine, in turn, each in its process.
Writes engine.json (every record), engine.md (tables, with what must be shown and whether it is met) and engine.png. A section
that is run anew replaces that section alone in engine.json. Ctrl-C keeps what was measured.

  python -m benchmarks.engine --quick --out .cache/bench/quick      a look in some minutes: one round, few windows
  python -m benchmarks.engine --only windows --peers ours,fw-batch  two peers on the English windows
  python -m benchmarks.engine --only hour,noise                     two sections anew
  python -m benchmarks.engine --report                              write engine.md and engine.png from engine.json again
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.engine.audio import long_file_speech
from benchmarks.engine.claims import claims
from benchmarks.engine.lineup import ENTRANTS
from benchmarks.engine.machine import about
from benchmarks.engine.plot import draw
from benchmarks.engine.report import claims_table, markdown
from benchmarks.engine.sections import QUICK, SECTIONS, Bench, Record, Sizes, measure, say
from benchmarks.engine.speech import PACKAGES
from benchmarks.recordings import ROOT
from benchmarks.whisper_base import build_weights
from examples.models.assemble import FOLDER, assemble

REPORT: Final = ROOT / "docs" / "benchmarks" / "engine"
Document = dict[str, Any]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sections = "; ".join(f"{name}: {title}" for name, (title, _) in SECTIONS.items())
    peers = "; ".join(f"{name}: {entrant.title}" for name, entrant in ENTRANTS.items())
    parser.add_argument("--quick", action="store_true", help="one round of few windows: whether all works, not how fast it is")
    parser.add_argument("--only", metavar="SECTION,…", type=_some_of(SECTIONS), default=list(SECTIONS), help=sections)
    parser.add_argument("--peers", metavar="PEER,…", type=_some_of(ENTRANTS), default=list(ENTRANTS), help=peers)
    parser.add_argument("--rounds", type=int, metavar="N", help=f"how often each peer runs each line; {Sizes().rounds} by default")
    parser.add_argument("--out", type=Path, default=REPORT, help="where to write, without .json, .md and .png")
    parser.add_argument("--report", action="store_true", help="measure nothing; write the report from the records there are")
    return parser.parse_args(arguments)


def _some_of(known: Any) -> Any:
    def read(text: str) -> list[str]:
        unknown = set(text.split(",")) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"no such name: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return [name for name in known if name in text.split(",")]

    return read


def read(path: Path) -> Document:
    """Read the document of earlier runs, an empty one where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"about": {}, "sections": {}}


def write(document: Document, out: Path) -> None:
    """Write the records, the report and the picture."""
    out.parent.mkdir(parents=True, exist_ok=True)
    document["sections"] = {name: document["sections"][name] for name in SECTIONS if name in document["sections"]}
    # Each record on a line of its own: a run anew is a readable difference.
    sections = [
        f" {json.dumps(name)}: {json.dumps({k: v for k, v in section.items() if k != 'records'}, ensure_ascii=False)[:-1]}, "
        '"records": [\n' + ",\n".join("  " + json.dumps(record, ensure_ascii=False) for record in section["records"]) + "\n ]}"
        for name, section in document["sections"].items()
    ]
    text = '{"about": ' + json.dumps(document["about"], ensure_ascii=False) + ',\n"sections": {\n' + ",\n".join(sections) + "\n}}\n"
    out.with_suffix(".json").write_text(text, encoding="utf-8")
    out.with_suffix(".md").write_text(markdown(document), encoding="utf-8")
    draw(document, out.with_suffix(".png"))


def run(options: argparse.Namespace, document: Document, folder: Path) -> bool:
    """Measure the chosen sections; False when Ctrl-C ended it before all were done."""
    assemble(FOLDER)
    weights = build_weights(FOLDER, folder / "weights")
    sizes = QUICK if options.quick else Sizes()
    sizes = replace(sizes, rounds=options.rounds or sizes.rounds)
    command = "python -m benchmarks.engine" + "".join(f" {word}" for word in sys.argv[1:])
    say(f"long files are {long_file_speech()}")
    bench = Bench(sizes, options.peers, weights, folder, lambda record: None)
    for name in options.only:
        records: list[Record] = []
        bench.record = records.append
        entry = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "rounds": sizes.rounds, "command": command}
        document["sections"][name] = entry | {"seconds": 0.0, "interrupted": True, "records": records}
        try:
            seconds = measure(name, bench)
        except KeyboardInterrupt:
            say(f"{name}: interrupted; what was measured is kept")
            return False
        document["sections"][name] |= {"seconds": round(seconds, 1), "interrupted": False}
        write(document, options.out)
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; the exit code is 1 where something that must be shown was measured and is not met, 130 after Ctrl-C."""
    options = parse(arguments)
    document = read(options.out.with_suffix(".json"))
    finished = True
    if not options.report:
        document["about"] = about(PACKAGES)
        with tempfile.TemporaryDirectory(prefix="transcriber-bench-") as folder:
            finished = run(options, document, Path(folder))
    write(document, options.out)
    records = [record for section in document["sections"].values() for record in section["records"]]
    print(claims_table(records))
    if not finished:
        return 130
    return int(any(claim.is_met is False for claim in claims(records)))


if __name__ == "__main__":
    sys.exit(main())
