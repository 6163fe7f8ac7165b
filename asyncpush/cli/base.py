"""The base of the commands: click's classes, with help in sections and commands imported late."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from asyncpush.cli.output import (
    InterruptedBySignal,
    Output,
    UsageError,
    exit_code,
    is_disk_full,
    text_not_written,
)

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}

_NARROW = 60
"""Columns below which the text of an option stands below its name rather than beside it."""

_NARROWEST = 28

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Formatter(click.HelpFormatter):
    """Help as wide as the terminal, up to 80 columns; click's own is never narrower than 50."""

    def __init__(
        self, indent_increment: int = 2, width: int | None = None, max_width: int | None = None
    ) -> None:
        columns = min(shutil.get_terminal_size().columns, max_width or 80)
        super().__init__(indent_increment, width or max(_NARROWEST, columns - 2), max_width)


class Context(click.Context):
    formatter_class = Formatter


class Option(click.Option):
    """An option that knows its section in the help and the setting that it fills.

    `fills` is the name of a field of `PushOptions`, `UploadConfig` or another class of settings;
    `settings` hands the value to whichever class has that field. `convert` makes the field's value
    from the option's. An option that fills nothing is read by its command.
    """

    def __init__(
        self,
        *names: Any,
        section: str = "",
        fills: str = "",
        convert: Callable[[Any], Any] | None = None,
        **attributes: Any,
    ) -> None:
        shown = attributes.get("default") not in (None, False, "")
        attributes.setdefault("show_default", shown)
        super().__init__(*names, **attributes)
        self.section = section
        self.fills = fills
        self.convert = convert


class Argument(click.Argument):
    """An argument with a help text, which has a section of its own. `fills` and `convert` work as
    in `Option`; an argument that was not given fills nothing."""

    def __init__(
        self,
        *names: Any,
        help: str,
        fills: str = "",
        convert: Callable[[Any], Any] | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(*names, **attributes)
        self.help = help
        self.fills = fills
        self.convert = convert

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return self.make_metavar(ctx).strip("[]."), self.help or ""

    # click < 8.2 passes no context.
    def make_metavar(self, ctx: click.Context | None = None) -> str:
        name = self.metavar or (self.name or "").upper()
        name = name if self.required else f"[{name}]"
        return f"{name}..." if self.nargs != 1 else name


class Command(click.Command):
    """A command whose help lists its options in sections, if they are of several kinds."""

    context_class = Context

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(_section_of(param), []).append(record)
        rest = sections.pop("Options", [])
        named = {name: rows for name, rows in sections.items() if name != "Arguments"}
        if len(named) < 2:  # a few options need no headings
            rest = [row for rows in named.values() for row in rows] + rest
            named = {}
        for name, rows in {"Arguments": sections["Arguments"], **named, "Options": rest}.items():
            if rows:
                with formatter.section(name):
                    _write_rows(formatter, rows)

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Nothing: `format_options` writes them. (New in click 8.5, which would repeat them.)"""


def _section_of(param: click.Parameter) -> str:
    if isinstance(param, click.Argument):
        return "Arguments"
    return getattr(param, "section", "") or "Options"


def _write_rows(formatter: click.HelpFormatter, rows: Sequence[tuple[str, str]]) -> None:
    if formatter.width >= _NARROW:
        formatter.write_dl(rows, col_max=30)
        return
    indent = " " * formatter.indent_increment
    rows = [
        (names if len(names) < formatter.width else names.replace(", ", f",\n{indent}"), text)
        for names, text in rows
    ]
    formatter.write_dl(rows, col_max=10)


def option(*names: str, **attributes: Any) -> Decorator:
    """An `Option`, as a decorator; the attributes are those of `Option` and `click.Option`."""
    # A new decorator for each use: those of click 8.1.0 work only once.
    return lambda function: click.option(*names, cls=Option, **attributes)(function)


def argument(name: str, **attributes: Any) -> Decorator:
    """An `Argument`, as a decorator, with the attributes of `click.Argument` and a help text."""
    return lambda function: click.argument(name, cls=Argument, **attributes)(function)


def command(*parameters: Decorator, name: str | None = None) -> Callable[..., Command]:
    """Make a command from a function, with these arguments and options, in their order in the help.

    The function is called as `function(context, output, **values)`. Its docstring is the help text.
    Whatever it raises ends the program as `Output.failures` says.
    """

    def make(function: Callable[..., None]) -> Command:
        @click.pass_context
        def run(context: click.Context, /, **values: Any) -> None:
            output = Output(
                as_json=values.pop("as_json", False),
                quiet=values.pop("quiet", False),
                verbose=values.pop("verbose", False),
            )
            with output.failures():
                function(context, output, **values)

        decorated: Callable[..., Any] = run
        for parameter in reversed(parameters):
            decorated = parameter(decorated)
        made = click.command(
            name or function.__name__,
            cls=Command,
            help=function.__doc__,
            context_settings=HELP_OPTIONS,
        )
        return made(decorated)

    return make


T = TypeVar("T")


def filled(context: click.Context, kind: type[Any]) -> dict[str, Any]:
    """The values that options and arguments of this command give to fields of the settings class
    `kind`, by field. Raises `UsageError` when an option and an argument both give one."""
    known = {field.name for field in fields(kind)}
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    for param in context.command.params:
        if not isinstance(param, Option | Argument) or param.fills not in known:
            continue
        if on_the_command_line := _is_given(context, param):
            name = param.opts[0] if isinstance(param, Option) else param.make_metavar().strip("[]")
            if param.fills in given:
                both = f"{given[param.fills]} and {name}"
                raise UsageError(f"{both} mean the same setting: leave out one")
            given[param.fills] = name
        if on_the_command_line or param.fills not in values:
            value = context.params[str(param.name)]
            if isinstance(param, Option) or value is not None:
                values[param.fills] = value if param.convert is None else param.convert(value)
    return values


def _is_given(context: click.Context, param: click.Parameter) -> bool:
    return context.get_parameter_source(str(param.name)) is ParameterSource.COMMANDLINE


def settings(context: click.Context, kind: Callable[..., T], **more: object) -> T:
    """Settings of the class `kind`, from the options of this command that fill its fields.

    Raises `UsageError`, which names the option, for a bad value.
    """
    assert isinstance(kind, type)
    made: T = checked(context, kind, **filled(context, kind), **more)
    return made


def checked(context: click.Context | None, kind: Callable[..., T], **values: object) -> T:
    """`kind(**values)`; a `ValueError` about a field becomes a `UsageError` about its option."""
    try:
        return kind(**values)
    except ValueError as error:
        name, _, complaint = str(error).partition(" ")
        params = context.command.params if context else []
        flags = [p.opts[0] for p in params if isinstance(p, Option) and p.fills == name]
        flag = flags[0] if flags else f"--{name.replace('_', '-')}"
        raise UsageError(f"{flag} {complaint}") from error


def given_options(context: click.Context) -> set[str]:
    """The settings whose options are on the command line, whatever their values are."""
    return {
        getattr(param, "fills", "") or str(param.name)
        for param in context.command.params
        if _is_given(context, param)
    }


class Group(click.Group):
    """A group of commands. An error for an unknown name suggests similar ones."""

    context_class = Context

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of their definition

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        known = name.startswith("-") or ctx.resilient_parsing or self.get_command(ctx, name)
        if not known:
            from difflib import get_close_matches  # for mistakes alone

            near = get_close_matches(name, self.list_commands(ctx))
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"No such command: {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = [param.get_help_record(ctx) for param in self.get_params(ctx)]
        with formatter.section("Options"):
            _write_rows(formatter, [record for record in records if record is not None])
        with formatter.section("Commands"):
            _write_rows(formatter, list(self.summaries(ctx).items()))

    def summaries(self, ctx: click.Context) -> dict[str, str]:
        """One line on each command, as the help lists them."""
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        return {name: found.get_short_help_str(200) for name, found in found if found}


class Application(Group):
    """The whole program. Each command is imported when it is run, and all report failures alike.

    `table` has the module of each command and its line in the help, so that `--help` imports none.
    `exit_codes` explains each exit code.
    """

    def __init__(
        self,
        *args: Any,
        table: Mapping[str, tuple[str, str]],
        exit_codes: Mapping[int, str],
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self.table = table
        self.exit_codes = exit_codes

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            rows = [(str(code), meaning) for code, meaning in self.exit_codes.items()]
            formatter.write_dl(rows)
        super().format_epilog(ctx, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        module, _ = self.table[cmd_name]
        found = getattr(import_module(module), cmd_name.replace("-", "_"))
        assert isinstance(found, click.Command)
        return found

    def summaries(self, ctx: click.Context) -> dict[str, str]:
        return {name: summary for name, (_, summary) in self.table.items()}

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=summary)
            for name, summary in self.summaries(ctx).items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def main(
        self, args: Sequence[str] | None = None, *more: Any, **extra: Any
    ) -> Any:  # click's type; this never returns
        """Run a command and end the program with its exit code. Usage errors are shown like all
        other failures, as JSON with `--json`."""
        extra["standalone_mode"] = False
        words = sys.argv[1:] if args is None else list(args)
        as_json = "--json" in words[: (*words, "--").index("--")]
        try:
            code = super().main(args, *more, **extra)
        except click.ClickException as error:
            _end(error, as_json=as_json)
        except click.Abort:  # Ctrl-C while the command is still imported
            interrupted = InterruptedBySignal()
            Output(as_json=as_json).failure(interrupted)
            code = exit_code(interrupted)
        except OSError as error:  # from click itself, as it prints a help text
            if not is_disk_full(error):
                raise
            code = text_not_written(error)
        sys.exit(code or 0)


def _end(error: click.ClickException, *, as_json: bool) -> NoReturn:
    """Click's own errors: bad or missing arguments and options."""
    if type(error).__name__ == "NoArgsIsHelpError":  # new in click 8.2
        error.show()
    else:
        context = getattr(error, "ctx", None)
        suggestion = (
            f"run `{context.command_path} --help` for its arguments and options" if context else ""
        )
        Output(as_json=as_json).failure(UsageError(error.format_message(), suggestion=suggestion))
    sys.exit(error.exit_code)
