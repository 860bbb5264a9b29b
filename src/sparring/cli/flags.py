"""Flags from dataclasses of settings: an option a field, the string below the field as its help, one line an error.

The standard library's parser does the parsing: help then takes a tenth of a second.
"""

import argparse
import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NoReturn

from sparring.cli.texts import below
from sparring.errors import InputError

WORDS = {int: "a whole number", float: "a number", str: "a word", Path: "a path"}


def read(
    words: Sequence[str], program: str, about: str | None, *settings: Any, without: Sequence[str] = ()
) -> list[Any]:
    """Each of `settings` with the values that the words give to its fields; `--help` prints `about` and ends.

    A setting is a dataclass with its values, or a class of them: then fields without a default are positional. Settings
    within settings become `--outer.inner`; fields named in `without` are left as they are.
    """
    parser = _Parser(
        prog=f"sparring {program}",
        description=about,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=partial(argparse.HelpFormatter, max_help_position=36),
    )
    options = [option for one in settings for option in _options(one) if option.dest not in without]
    groups: dict[str, Any] = {"": parser}
    for option in options:
        if option.prefix not in groups:
            title = option.prefix.rstrip(".").replace("_", "-")
            groups[option.prefix] = parser.add_argument_group(title, option.group)
        option.add_to(groups[option.prefix])
    positional = "".join(f" {option.metavar}" for option in options if option.required)
    parser.usage = f"%(prog)s{positional} [options]"
    given, unknown = parser.parse_known_args([spelled(word) for word in words])
    if unknown:
        name, known = unknown[0].partition("=")[0], [option.flag for option in options]
        within = [flag for flag in known if flag.startswith(f"{name}.")]  # the first of a group says what it is
        close = within or difflib.get_close_matches(name, known, n=1)
        meant = f"; did you mean {close[0]!r}?" if close else ""
        parser.error(f"Unrecognized options: {', '.join(unknown)}{meant}")
    return [_filled(one, vars(given)) for one in settings]


def taking_a_value(*kinds: type[Any]) -> set[str]:
    """The flags of these classes of settings, and of those within them, after which a word is a value: all but switches."""
    return {flag for kind in kinds for flag in _taking_a_value(kind, "--")}


def spelled(word: str) -> str:
    """`--max_epochs=2` as `--max-epochs=2`."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        said = re.sub(r"^argument (\S+): ", r"\1 ", message)
        raise InputError(f"{said} ({self.prog} --help lists all)")


class _Switch(argparse.Action):
    """`--name` and `--no-name`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, option_string == self.option_strings[0])


class _Seeds(argparse.Action):
    """`--seeds N`, the seeds 0 to N - 1, or `--seeds K L ...`, these; `--seed K`, that one."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        many = len(values) == 1 and option_string != "--seed"
        seeds = list(range(values[0])) if many else values
        if any(seed < 0 for seed in seeds):
            raise InputError(f"seeds must be >= 0; got {option_string} {' '.join(map(str, values))}")
        if not seeds or len(set(seeds)) < len(seeds):
            given = f"{option_string} {' '.join(map(str, values))}".rstrip()
            hint = "; one number says how many: --seeds 1 is the seed 0" if many else ""
            raise InputError(f"seeds must be different numbers, at least one; got {given}{hint}")
        setattr(namespace, self.dest, seeds)


@dataclass(frozen=True)
class _Option:
    """One field as the parser knows it."""

    prefix: str  # "" or "outer."
    name: str
    hint: Any
    default: Any
    group: str | None
    text: str

    @property
    def dest(self) -> str:
        return self.prefix + self.name

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def flag(self) -> str:
        return f"--{self.dest}".replace("_", "-")

    @property
    def metavar(self) -> str:
        kind, _ = _kind(self.hint)
        if typing.get_origin(kind) is Literal:
            return "{" + ",".join(typing.get_args(kind)) + "}"
        return self.name.upper() if self.required else kind.__name__.upper()

    def add_to(self, group: Any) -> None:
        kind, several = _kind(self.hint)
        if kind is bool:
            no = f"--{self.prefix}no-{self.name}".replace("_", "-")
            group.add_argument(self.flag, no, dest=self.dest, action=_Switch, nargs=0, help=self._help())
            return
        names = [self.dest if self.required else self.flag]
        more: dict[str, Any] = {} if self.required else {"dest": self.dest}
        if several:
            more["nargs"] = "*"
        if self.dest == "seeds":
            more["action"] = _Seeds
            one = {"dest": self.dest, "type": _reader(self.hint), "action": _Seeds, "nargs": 1}
            group.add_argument("--seed", metavar="INT", help="that one", **one)
        group.add_argument(*names, metavar=self.metavar, type=_reader(self.hint), help=self._help(), **more)

    def _help(self) -> str:
        usual = self.default
        if usual is None or usual is False or self.required:
            return self.text.replace("%", "%%")
        shown = "yes" if usual is True else " ".join(map(str, usual)) if isinstance(usual, tuple) else usual
        return f"{self.text} (default: {shown})".strip().replace("%", "%%")


def _options(settings: Any, prefix: str = "") -> Iterator[_Option]:
    kind = settings if isinstance(settings, type) else type(settings)
    hints, texts = typing.get_type_hints(kind), below(kind)
    about = (inspect.getdoc(kind) or "").partition("\n\n")[0] if prefix else None
    for f in dataclasses.fields(kind):
        value = _value(settings, f)
        if dataclasses.is_dataclass(value):
            yield from _options(value, f"{prefix}{f.name}.")
        elif value is not None or not _holds_settings(hints[f.name]):
            yield _Option(prefix, f.name, hints[f.name], value, about, texts.get(f.name, ""))


def _taking_a_value(kind: Any, prefix: str) -> Iterator[str]:
    for name, hint in typing.get_type_hints(kind).items():
        of, flag = _kind(hint)[0], prefix + name.replace("_", "-")
        if dataclasses.is_dataclass(of):
            yield from _taking_a_value(of, f"{flag}.")
        elif of is not bool:
            yield from [flag, "--seed"] if name == "seeds" else [flag]


def _filled(settings: Any, given: dict[str, Any], prefix: str = "") -> Any:
    """The settings with what was given."""
    changes: dict[str, Any] = {}
    for f in dataclasses.fields(settings):
        value, name = _value(settings, f), prefix + f.name
        if dataclasses.is_dataclass(value):
            changes[f.name] = _filled(value, given, f"{name}.")
        elif name in given:
            changes[f.name] = tuple(given[name]) if isinstance(given[name], list) else given[name]
    return settings(**changes) if isinstance(settings, type) else dataclasses.replace(settings, **changes)


def _value(settings: Any, f: dataclasses.Field[Any]) -> Any:
    return f.default if isinstance(settings, type) else getattr(settings, f.name)


def _kind(hint: Any) -> tuple[Any, bool]:
    """The type of one value (int for `int | None` and `tuple[int, ...]`), and whether there may be several."""
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) is tuple:
        return typing.get_args(hint)[0], True
    return hint, False


def _holds_settings(hint: Any) -> bool:
    return dataclasses.is_dataclass(_kind(hint)[0])


def _reader(hint: Any) -> Callable[[str], Any]:
    kind, _ = _kind(hint)
    made = str if typing.get_origin(kind) is Literal else kind  # the settings check their own words

    def value(word: str) -> Any:
        if isinstance(hint, types.UnionType) and word in ("None", "none"):
            return None
        try:
            return made(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {WORDS[made]}, got {word!r}") from None

    return value
