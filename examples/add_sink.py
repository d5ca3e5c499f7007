"""Results of a stream into a file of your own kind: here a CSV file.

    python examples/add_sink.py BUNDLE

A sink takes one result after the other, in a thread of its own; what it raises is counted for that frame. Inside edgecv
the same is a file in `edgecv_runtime/stream/sinks/` and a row in its table, and `--sink` knows it by its suffix.
"""

import csv
import sys
import tempfile
from pathlib import Path

import edgecv_runtime as rt
from edgecv_runtime import stream


# --- the sink
class CsvSink(stream.Sink):
    """One line a frame: source, index, age in milliseconds, label, score."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._file = path.open("w", newline="")
        self._table = csv.writer(self._file)

    def write(self, output: stream.Output) -> None:
        """Take one result."""
        result = output.result.as_dict()
        frame = output.frame
        self._table.writerow([frame.source, frame.index, f"{output.age_ms:.1f}", result["label"], result["score"]])

    def close(self) -> None:
        """Finish what was written; may be repeated."""
        self._file.close()


# --- that is all


def main(bundle: str) -> None:
    with tempfile.TemporaryDirectory() as folder, rt.load(bundle) as model:
        path = Path(folder) / "out.csv"
        report = stream.run(model, "fake:fps=50,size=320x240,10", [CsvSink(path)])
        lines = path.read_text().splitlines()
        print(f"{report.sources[0].inferred} frames, {len(lines)} lines; the first: {lines[0]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
