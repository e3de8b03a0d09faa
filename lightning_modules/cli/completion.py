"""Completion for bash and zsh: verbs, groups and their options (experiments too), and names of recorded runs."""

import shlex
import sqlite3
from contextlib import closing, suppress

from lightning_modules.compat.mlflow_schema import NEWEST_RUNS_QUERY, TAG_VALUES_QUERY
from lightning_modules.config.command_line import GROUPS, is_group, options_of
from lightning_modules.config.errors import UserError
from lightning_modules.tracking.store import sqlite_path, store_uri
from lightning_modules.tracking.tags import STUDY_TAG

INSTALL = """Completion of verbs, options, experiments and runs, in ~/.bashrc:
  eval "$(touchstone --completion)"
in ~/.zshrc:
  autoload -U +X bashcompinit && bashcompinit
  eval "$(touchstone --completion)\""""
SCRIPT = """_touchstone() {
  local IFS=$'\\n'
  COMPREPLY=($(touchstone --complete "${COMP_LINE:0:$COMP_POINT}" 2>/dev/null))
}
complete -o nospace -o default -F _touchstone touchstone"""
_OF_RUNS = ("compare", "compress", "export", "generate", "predict", "rerun", "serve")  # verbs whose targets are runs
_RUN_KEYS = ("resume", "resume.run", "init_from")


def complete(line: str, verbs: list[str]) -> list[str]:
    """What can follow in this line; of the last word the part that the shell replaces, which is behind its last ``=``."""
    *words, word = line.split(" ")
    key, equals, _ = word.rpartition("=")
    if len(words) == 1:
        found = verbs
    elif equals:
        names = {"study": TAG_VALUES_QUERY.format(STUDY_TAG), **dict.fromkeys(_RUN_KEYS, NEWEST_RUNS_QUERY)}
        values = _recorded(names[key]) if key in names else sorted(options_of(key)) if is_group(key) else []
        found = [f"{key}={value}" for value in values]
    elif words[1] == "reproduce":
        found = sorted(options_of("experiment"))
    else:
        found = (
            _recorded(NEWEST_RUNS_QUERY)
            if words[1] in _OF_RUNS
            else [f"{name}=" for name in (*GROUPS, *_RUN_KEYS[::2], "study")]
        )
    return [one.removeprefix(f"{key}=") if equals else one for one in found if one.replace("'", "").startswith(word)]


def _recorded(query: str) -> list[str]:
    """The names that a query finds in the local store, which is read without MLflow: its import takes seconds."""
    with suppress(sqlite3.Error, UserError):  # a server or no store: nothing to complete
        path = sqlite_path(store_uri())
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            return list(dict.fromkeys(shlex.quote(str(row[0])) for row in database.execute(query)))
    return []
