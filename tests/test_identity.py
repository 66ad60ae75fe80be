"""The keys of runs: by the standard library alone; the same under every Python and locale.

pytest runs these; so does ``python3.13 -m unittest tests.test_identity``, with no environment.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from mdr_core.config import Config, from_dict
from mdr_core.data import fingerprint
from mdr_core.data.fingerprint import SplitContent, sha256
from mdr_core.runs import identity

ROOT = Path(__file__).resolve().parents[1]
MDR = {
    "dataset": "drawn",
    "mdr_weight": 0.2,
    "weights": "classes",
    "backbone": "small_resnet",
    "levels": [-1, 0, 1],
    "lr": 1e-3,
}


def edited(change, script: str, **environment: str) -> str:
    """What ``script`` prints in a copy of the package's texts that ``change`` has edited."""
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "mdr_core"
        shutil.copytree(
            ROOT / "mdr_core", copy, ignore=shutil.ignore_patterns("__pycache__", "templates")
        )
        change(copy)
        done = subprocess.run(
            [sys.executable, "-c", f"from mdr_core.runs import identity; {script}"],
            cwd=name,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": name, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def replaced(file: str, old: str, new: str):
    """A change of one file's text."""

    def change(copy: Path) -> None:
        text = (copy / file).read_bytes()
        assert old.encode() in text, (file, old)
        (copy / file).write_bytes(text.replace(old.encode(), new.encode()))

    return change


class Code(unittest.TestCase):
    def test_the_present_text_has_a_line(self):
        self.assertIsNotNone(identity.number_version(), f"{identity.notice()}")
        self.assertIsNone(identity.notice())

    def test_a_changed_number_is_told_by_the_file_and_finds_no_run(self):
        change = replaced("losses.py", "margin: float = 0.2", "margin: float = 0.3")
        said = edited(change, "print(identity.number_version(), identity.notice())")
        self.assertRegex(
            said,
            r"^None mdr_core/losses.py differs from the code of \d{4}-\d\d-\d\d: runs of its own"
            r".*make same CHANGE=",
        )
        key = "from mdr_core.config import from_dict; "
        key += f"print(identity.key_of(from_dict({MDR}), 'data'))"
        self.assertNotEqual(edited(change, key), identity.key_of(from_dict(MDR), "data"))
        self.assertEqual(edited(lambda copy: None, key), identity.key_of(from_dict(MDR), "data"))

    def test_a_changed_comment_asks_for_the_command(self):
        change = replaced("regularizer.py", '"""', '"""A word more. ')
        self.assertIn("make same", edited(change, "print(identity.notice())"))

    def test_line_endings_and_locale_do_not_matter(self):
        def windows(copy: Path) -> None:
            for path in copy.rglob("*.py"):
                path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))

        script = "print(identity.code_hash(), identity.number_version())"
        here = f"{identity.code_hash()} {identity.number_version()}"
        self.assertEqual(edited(windows, script), here)
        for locale in ("en_US.ISO-8859-1", "C"):
            self.assertEqual(
                edited(
                    lambda copy: None,
                    script,
                    LC_ALL=locale,
                    PYTHONUTF8="0",
                    PYTHONCOERCECLOCALE="0",
                ),
                here,
            )

    def test_texts_of_one_number_version_share_their_runs(self):
        lines = [identity.line_of("one", "here", "7", "2026-01-01")]
        with mock.patch.object(identity, "code_versions", lambda: lines):
            one = identity.key_of(Config(), "data")
            with mock.patch.object(identity, "texts", lambda: {"losses": "other"}):
                lines.append(identity.line_of("two", "here", "7", "2026-01-02"))
                self.assertEqual(identity.key_of(Config(), "data"), one)
                lines[-1]["numbers"] = "8"
                self.assertNotEqual(identity.key_of(Config(), "data"), one)


class Keys(unittest.TestCase):
    def setUp(self):
        patch = mock.patch.object(identity, "number_version", lambda: "1")
        patch.start()
        self.addCleanup(patch.stop)

    def test_they_are_the_same_under_every_python(self):
        self.assertEqual(identity.key_of(Config(), "data"), "e9918bcfa70c4dd4")
        self.assertEqual(identity.key_of(from_dict(MDR), "data"), "8afc3d72b0ba7652")
        self.assertEqual(
            fingerprint.data_fingerprint([birds()], 32, False)[:16], "638cfcc537cb2f97"
        )
        self.assertEqual(fingerprint.drawn_fingerprint("drawn")[:16], "ed685ba64dc923b7")

    def test_they_hold_configuration_data_and_the_pretraining(self):
        key = identity.key_of(from_dict(MDR), "data")
        self.assertNotEqual(identity.key_of(from_dict(MDR | {"seed": 1}), "data"), key)
        self.assertNotEqual(identity.key_of(from_dict(MDR), "other data"), key)
        with mock.patch.object(identity, "pretraining", lambda config: Config(epochs=1)):
            self.assertNotEqual(identity.key_of(from_dict(MDR), "data"), key)

    def test_weights_enter_by_their_content(self):
        with tempfile.TemporaryDirectory() as folder:
            keys = []
            for name, content in (("a", b"x"), ("b", b"x"), ("c", b"y")):
                (Path(folder) / name).write_bytes(content)
                keys.append(identity.key_of(Config(weights=str(Path(folder) / name)), "data"))
        self.assertEqual(keys[0], keys[1])
        self.assertNotEqual(keys[0], keys[2])


def birds(split="train", images=("a", "b"), labels=(0, 1), names=("crow", "wren")) -> SplitContent:
    digests = [sha256(image.encode()) for image in images]
    return SplitContent(split, digests, list(labels), tuple(names))


class Data(unittest.TestCase):
    def test_all_that_a_number_depends_on_enters(self):
        found = [
            fingerprint.data_fingerprint([content], size, upright)
            for content, size, upright in (
                (birds(), 32, False),
                (birds(split="test"), 32, False),
                (birds(images=("a", "c")), 32, False),
                (birds(images=("b", "a")), 32, False),
                (birds(labels=(1, 0)), 32, False),
                (birds(names=("crow", "tit")), 32, False),
                (birds(), 33, False),
                (birds(), 32, True),
            )
        ]
        with mock.patch.object(fingerprint, "DECODING", fingerprint.DECODING + 1):
            found.append(fingerprint.data_fingerprint([birds()], 32, False))
        self.assertEqual(len(set(found)), len(found))

    def test_the_drawing_s_version_and_seed_enter(self):
        found = [
            fingerprint.drawn_fingerprint("drawn"),
            fingerprint.drawn_fingerprint("drawn_pretraining"),
            fingerprint.drawn_fingerprint("drawn", 1),
        ]
        with mock.patch.object(fingerprint, "DRAWING", fingerprint.DRAWING + 1):
            found.append(fingerprint.drawn_fingerprint("drawn"))
        self.assertEqual(len(set(found)), 4)


LOADED = "import sys, json; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"


class Alone(unittest.TestCase):
    def test_the_standard_library_is_all_it_imports(self):
        script = "import sys; print(*{name.split('.')[0] for name in sys.modules})"
        loaded = set(edited(lambda copy: None, script).split())
        at_start = subprocess.check_output([sys.executable, "-c", script], text=True).split()
        self.assertLessEqual(
            loaded - set(sys.stdlib_module_names),
            {"__main__", "mdr_core", "sitecustomize", "usercustomize", *at_start},
        )


if __name__ == "__main__":
    unittest.main()
