"""One line a check, counted."""

from collections.abc import Iterator
from contextlib import contextmanager


class Report:
    """Prints `ok NAME detail` or `FAIL NAME detail` for each check and counts both."""

    def __init__(self):
        self.passed = 0
        self.failed = 0

    def check(self, name: str, ok: bool, detail: str) -> None:
        """Records one check; `detail` is flattened to one line."""
        self.passed += ok
        self.failed += not ok
        print("ok" if ok else "FAIL", name, " ".join(detail.split())[:300], flush=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """An exception inside is the failure of check `name`: one broken model does not hide the others."""
        try:
            yield
        except Exception as error:  # whatever the runtime raises is a finding
            self.check(name, False, f"{type(error).__name__}: {error}")

    def close(self) -> int:
        """Prints the closing line; returns the process's exit status."""
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        return 1 if self.failed or not self.passed else 0
