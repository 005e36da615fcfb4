"""`eftlocal doctor`: what is installed, how llama.cpp was built, and whether it works.

llama.cpp is asked in a child process only, so that a broken build cannot end the doctor.
"""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from eftlocal.cli.option_rules import fitting
from eftlocal.cli.screen import Screen
from eftlocal.cli.streams import print_json, say, tell
from eftlocal.defaults import preset_defaults
from eftlocal.errors import EftlocalError, EngineError, UsageError
from eftlocal.kinds import ByRole, for_role
from eftlocal.output_file import check_outputs, is_stdout, write_whole
from eftlocal.presets.reading import find
from eftlocal.presets.schema import Preset
from eftlocal.selftest import (
    SelfTestResult,
    cpu_has_amx,
    read_build_facts,
    rebuild,
    run_in_child,
    with_rpc,
)
from eftlocal.settings import SETTINGS, named
from eftlocal.terminal_text import shown, shown_json
from eftlocal.user_settings import Default, Given, levels, settings_path, user_settings

PACKAGES = ("eftlocal", "llama-cpp-python", "numpy", "gguf", "huggingface-hub", "textual")
ENGINE_FACTS = {
    "llama_cpp",
    "backends",
    "devices",
    "supports_rpc",
    "supports_gpu_offload",
    "system_info",
}
NEEDED_BY_VULKAN = (
    "Vulkan needs the shader compiler glslc, Vulkan's headers and loader, and the SPIR-V headers "
    "(on Debian and Ubuntu: glslc libvulkan-dev spirv-headers)"
)
REPORT = "eftlocal-report.json"
UNKNOWN = "unknown: llama.cpp could not be asked"


def doctor(
    file: Annotated[
        Path | None,
        typer.Argument(help=f"With --report: the file (default: {REPORT}); '-' is stdout."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    write_report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Write all this, settings, preset names and the last error to a file for a bug "
            "report. No prompts, no tokens; your home folder is ~.",
        ),
    ] = False,
) -> None:
    """Check this installation: versions, build, devices, and a self-test of llama.cpp.

    Exit code 8 when the self-test fails.
    """
    if file is not None and not write_report:
        raise UsageError("a file is for --report: `eftlocal doctor --report FILE`")
    file = file or Path(REPORT)
    if write_report:
        check_outputs({"--report": file}, stdout=["--report"])
    result = run_in_child()
    report = collect(result)
    if write_report:
        from eftlocal.cli.report import report as whole

        write_whole(file, shown_json(whole(report), indent=2) + "\n")
    if json_:
        print_json(report, indent=2)
    elif not (write_report and is_stdout(file)):
        Screen().print(as_table(report))
        if report["rebuild"]:  # in one piece, to be copied
            say(f"\nTo build llama.cpp for this machine:\n{report['rebuild']}")
            if "GGML_VULKAN" in report["rebuild"]:
                say(NEEDED_BY_VULKAN)
    if write_report and not is_stdout(file):
        tell(f"{file}: written; look through it, then attach it to your report")
    if not result.ok:
        raise typer.Exit(EngineError.exit_code)


def collect(result: SelfTestResult) -> dict[str, Any]:
    """The whole report as plain data; what llama.cpp was not able to tell is None."""
    build = read_build_facts()
    engine = result.facts
    info: str | None = engine.get("system_info")
    return {
        "versions": {
            **{name: _version(name) for name in PACKAGES},
            "llama.cpp": engine.get("llama_cpp"),
            "python": platform.python_version(),
        },
        "system": platform.platform(),
        "environment": sys.prefix,
        "build": build or None,
        "rebuild": None if build else rebuild(build),
        "backends": engine.get("backends"),
        "devices": engine.get("devices"),
        "rpc": engine.get("supports_rpc"),
        "gpu_offload": engine.get("supports_gpu_offload"),
        "amx": {
            "cpu": cpu_has_amx(),
            "build": None if info is None else "AMX_INT8 = 1" in info,
            "cure": build.get("amx_cure"),
        },
        "system_info": info,
        "user_settings": settings_in_use(),
        "selftest": {
            "ok": result.ok,
            "message": result.message,
            "advice": result.advice,
            "measured": {k: v for k, v in engine.items() if k not in ENGINE_FACTS},
        },
    }


def settings_in_use() -> dict[str, Any]:
    """Every setting that is not the program's own default: its value, and which source won.

    `values` has by name a value and a source, None where nothing of it is used, and `over`, what
    did not win. Stop strings add to those of the preset. Nothing here raises: what is wrong with
    the settings, `fault` says.
    """
    path = settings_path()
    found: dict[str, Any] = {"file": str(path), "there": path.is_file(), "fault": None}
    values: dict[str, Any] = {}
    try:
        won = user_settings()
        given = [(name, one.value, one.source) for level in levels() for name, one in level.items()]
        preset = find(won["preset"].value if "preset" in won else SETTINGS["preset"].default)
        won = _fitting(won, preset)
    except EftlocalError as error:
        return {**found, "fault": str(error), "values": values}
    of_preset, own, recipe = f"preset {preset.name}", preset.settings(), named("recipe")
    if "stop" in won and "stop" in own:
        one = won["stop"]
        won["stop"] = Default((*own.pop("stop"), *one.value), f"{of_preset} and {one.source}")
        given = [("stop", *vars(won["stop"]).values()) if g[2] == one.source else g for g in given]
    by_role = {name for name, value, _ in given if _is_by_role(name, value)}
    given = [
        (f"{name} of {role}" if name in by_role else name, said, source)
        for name, value, source in given
        for role in (preset.roles if name in by_role else [""])
        if (said := for_role(value, role) if name in by_role else value) is not None
    ]
    won |= {
        name: Default(value, source) for name, value, source in reversed(given) if " of " in name
    }
    given += [(name, value, of_preset) for name, value in own.items()]
    for name, value, source in given:
        of_all = name.partition(" of ")[0]  # n_ctx of base gives way to the n_ctx of all roles
        name = of_all if of_all in won and of_all not in by_role else name
        said = {"value": value, "source": source.removesuffix(f": {of_all}")}
        if isinstance(value, float) and math.isinf(value):
            said["value"] = "off"
        one = values.setdefault(name, {"value": None, "source": None, "over": []})
        replaced = name in recipe and recipe.keys() & won.keys()
        last = won[name].source if name in won else None if replaced else of_preset
        if source == last:
            values[name] = {**one, **said}
        else:
            one["over"].append(said)
    return {**found, "values": values}


def _is_by_role(name: str, value: Any) -> bool:
    return isinstance(SETTINGS[name].kind, ByRole) and isinstance(value, Mapping)


def _fitting(won: Mapping[str, Default], preset: Preset) -> dict[str, Default]:
    """Those that `eftlocal run` uses with this preset and a system prompt."""
    values: dict[str, Any] = {setting.parameter: None for setting in SETTINGS.values()}
    sources = {SETTINGS[name].parameter: one.source for name, one in won.items()}
    values |= {SETTINGS[name].parameter: one.value for name, one in won.items()}
    given = Given({**values, "system": ""}, sources)
    given, _ = fitting(given, preset_defaults(preset), preset.roles)
    return {name: one for name, one in won.items() if SETTINGS[name].parameter in given.sources}


def as_table(report: dict[str, Any]) -> Table:
    """The report for the screen: one row a fact, nothing of it read as markup."""
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")

    def row(name: str, value: str, style: str = "") -> None:
        table.add_row(Text(name), Text(value, style=style))

    for name, version in report["versions"].items():
        row(name, version or "not installed" if name != "llama.cpp" else version or UNKNOWN)
    row("system", report["system"])
    row("environment", report["environment"])
    _add_build(row, report["build"])
    row("backends", UNKNOWN if report["backends"] is None else ", ".join(report["backends"]))
    for device in report["devices"] or ():
        memory = f"{_gib(device['memory_free'])} of {_gib(device['memory_total'])} GiB free"
        row("device", f"{device['name']} ({device['kind']}): {device['description']}, {memory}")
    if report["devices"] is None:
        row("device", UNKNOWN)
    how = f"no; to build it in: {with_rpc(report['build'] or {})}"
    row("RPC", how if report["rpc"] is False else _yes_no(report["rpc"]))
    row("GPU offload", _yes_no(report["gpu_offload"]))
    amx = report["amx"]
    cured = (amx["cure"] or {}).get("applied")
    row(
        "AMX",
        f"CPU: {_yes_no(amx['cpu'])}; build: {_yes_no(amx['build'])}; "
        f"compiler workaround: {_yes_no(cured, 'unknown')}",
    )
    row("features", report["system_info"] or UNKNOWN)
    _add_settings(row, report["user_settings"])
    test = report["selftest"]
    if test["ok"]:
        row("self-test", test["message"], "green")
    else:
        row("self-test", f"failed: {test['message']}", "red")
        row("next", test["advice"])
    return table


def _add_settings(row: Any, settings: dict[str, Any]) -> None:
    there = "" if settings["there"] else " (not there)"
    row("settings", f"{settings['file']}{there}")
    if settings["fault"]:
        row("", settings["fault"], "red")
    for name, one in settings["values"].items():
        over = ", ".join(dict.fromkeys(map(_said, one["over"])))
        if one["source"] is None:
            row("", f"{name}: not used: {over}")
        else:
            row("", f"{name}: {_said(one)}{f' (not {over})' if over else ''}")


def _said(one: dict[str, Any]) -> str:
    value = one["value"]
    text = ", ".join(map(shown, value)) if isinstance(value, tuple) else str(value)
    return f"{text}, from {one['source']}"


def _add_build(row: Any, build: dict[str, Any] | None) -> None:
    if build is None:
        row("build", "as pip or uv installed it")
        return
    row("build", f"{build.get('accelerator')}, {build.get('compiler')}, {build.get('built')}")
    row("built for", str(build.get("cpu")))
    row("CMake", " ".join(build.get("cmake_args") or ["no options"]))
    row("CXXFLAGS", " ".join(build.get("cxxflags") or ["none"]))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"


def _yes_no(value: bool | None, unknown: str = UNKNOWN) -> str:
    return unknown if value is None else "yes" if value else "no"
