"""Secrets: masked in what is recorded, and found in files and lines of a diff, by name and with detect-secrets."""

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

Value = TypeVar("Value")
HIDDEN = "***"
# `token`, but not the hyperparameters `tokenizer` and `max_tokens`.
SECRET_KEY = re.compile(r"(?i)password|passwd|secret|credential|(?:api|access|private)[_-]?key|token(?![a-z])")
_USERINFO = re.compile(r"(\w://)[^/\s'\"]*@")
# A whole word and what separates it from a value, matched without backtracking into the word.
_ASSIGNED = re.compile(r"(?<![\w.+~/-])([\w.+~/-]++)=")
_IN_DICT = re.compile(r"(?<![\w.+~/-])([\w.+~/-]++)[\"']?\s*+:\s*+")
_ASSIGNED_VALUE = re.compile(r"\"[^\"]*+\"|'[^']*+'|\S++")
_DICT_VALUE = re.compile(r"\"[^\"]*+\"|'[^']*+'|[^\s,}\]]++")
SECRET_NAME = re.compile(
    r"(?i)\.env\b|\.(?:pem|key|p12|pfx|jks|keystore|kdbx|gpg|asc|tfvars)$|^id_(?:rsa|dsa|ecdsa|ed25519)|kube_?config"
    r"|service[-_]?account|credential|secret|passw|(?:api|access|private|auth)[-_]?keys?\b|token(?![a-z])"
    r"|^\.(?:netrc|npmrc|pypirc|pgpass|htpasswd|dockercfg)$"
)
MAX_LINES = 5000  # of a diff; takes about a second


def mask_secrets(value: Value) -> Value:
    """Return a copy with secrets as ``***``.

    In a mapping (at any depth) that is the value of every key that reads like a secret; in a text what
    follows such a key after ``=`` or ``:``; in both the user and password of a URL.
    """
    masked: Any = value
    if isinstance(value, str):
        text = _mask_values(_USERINFO.sub(rf"\1{HIDDEN}@", value), _ASSIGNED, _ASSIGNED_VALUE)
        masked = _mask_values(text, _IN_DICT, _DICT_VALUE)
    elif isinstance(value, Mapping):
        masked = {key: HIDDEN if _is_secret(str(key), item) else mask_secrets(item) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        masked = [mask_secrets(item) for item in value]
    return masked


def _is_secret(key: str, item: object) -> bool:
    harmless = item is None or isinstance(item, bool | float | Mapping)  # `token_dropout: 0.1` is not a secret
    return SECRET_KEY.search(key) is not None and not harmless


def _mask_values(text: str, key: re.Pattern[str], value: re.Pattern[str]) -> str:
    parts, done = [], 0
    for found in key.finditer(text):
        if found.start() >= done and names_a_secret(found[1]) and (masked := value.match(text, found.end())):
            parts += [text[done : found.end()], HIDDEN]
            done = masked.end()
    return "".join([*parts, text[done:]])


def names_a_secret(key: str) -> bool:
    """Whether the last part of a key such as ``+tracking/db.password`` looks like a secret."""
    return bool(re.fullmatch(r"[\w.+~/-]+", key) and SECRET_KEY.search(re.split(r"[+~/]", key)[-1]))


def secret_name(path: str) -> bool:
    """Whether the name of the file or of one of its folders suggests a secret; `secrets.py` is code, so its content decides."""
    *folders, name = PurePosixPath(path).parts
    stem, is_code = PurePosixPath(name).stem, name.endswith((".py", ".pyi"))
    return any(SECRET_NAME.search(part) for part in (*folders, *(() if is_code else (name, stem))))


def secret_lines(text: str, suffix: str) -> list[int]:
    """Line numbers (from 1) in which detect-secrets finds a secret; `suffix` selects the language."""
    from detect_secrets.core.scan import scan_file

    with tempfile.TemporaryDirectory() as folder, _detectors():
        path = Path(folder) / f"lines{suffix}"
        path.write_text(text, encoding="utf-8", errors="replace", newline="")
        return sorted({secret.line_number for secret in scan_file(str(path))})


@contextmanager
def _detectors() -> Iterator[None]:
    """All detectors except those for IP addresses (no secrets) and random hex (matches hashes of data and commits)."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.settings import transient_settings

    plugins: Any = get_mapping_from_secret_type_to_class().values()
    names = {plugin.__name__ for plugin in plugins}
    chosen = sorted(names - {"IPPublicDetector", "HexHighEntropyString"})
    with transient_settings({"plugins_used": [{"name": name} for name in chosen]}):
        yield


def secrets_in_diff(diff: str) -> list[str]:
    """FILE:LINE of each line of a git diff with a secret, including removed and context lines.

    A last entry names what was not searched, where the diff has more than `MAX_LINES` lines.
    """
    found, left = [], MAX_LINES
    for name, numbered in _files(diff):
        searched, left = numbered[:left], left - min(left, len(numbered))
        if searched:
            lines = secret_lines("".join(f"{line}\n" for _, line in searched), PurePosixPath(name).suffix)
            found += [f"{name}:{searched[number - 1][0]}" for number in lines]
        if len(searched) < len(numbered):
            return [*found, f"{name} and later files: not searched after {MAX_LINES} lines"]
    return found


def _files(diff: str) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """Each file of a git diff with its lines and their numbers (the old ones for removed lines)."""
    name, lines, old, new, old_left, new_left = "", list[tuple[int, str]](), 0, 0, 0, 0
    for line in diff.split("\n"):
        if old_left > 0 or new_left > 0:
            is_old, is_new = line[:1] != "+", line[:1] != "-"
            if line.startswith("\\"):  # no newline at the end of the file
                continue
            lines.append((new if is_new else old, line[1:].rstrip("\r")))
            old, old_left = old + is_old, old_left - is_old
            new, new_left = new + is_new, new_left - is_new
        elif line.startswith("diff --git "):
            if lines:
                yield name, lines
            name, lines = "", []
        elif line.startswith(("--- a/", "+++ b/")):
            name = line[6:].rstrip("\t")
        elif line.startswith(('--- "a/', '+++ "b/')):  # git quotes it
            name = line[7:-1]
        elif hunk := re.match(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", line):
            old, new = int(hunk[1]), int(hunk[3])
            old_left, new_left = int(hunk[2] or 1), int(hunk[4] or 1)
    if lines:
        yield name, lines
