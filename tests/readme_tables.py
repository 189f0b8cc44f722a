"""The tables of README.md that are made from the code; a test compares them. ``python -m tests.readme_tables`` prints them."""

from __future__ import annotations

from hmacfs.config import SETTINGS
from hmacfs.config.declare import REQUIRED
from hmacfs.config.original import TABLES, TOP_LEVEL


def table_of_settings() -> str:
    """README, "Configuration"."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for setting in SETTINGS:
        default = "(required)" if setting.default is REQUIRED else f"`{_toml(setting.default)}`"
        lines.append(f"| `{setting.key}` | {default} | {setting.text} |")
    return "\n".join(lines)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def table_of_original_keys() -> str:
    """README, "Coming from the original, ..."."""
    names = [name for table in (*TABLES.values(), TOP_LEVEL) for name in table.values() if name]
    lines = ["| there | here |", "|---|---|"]
    for setting in dict.fromkeys(names):
        theirs = [f"`[{title}] {key}`" for title, table in TABLES.items() for key in table if table[key] == setting]
        theirs += [f"`{key}`" for key, name in TOP_LEVEL.items() if name == setting]
        word, _, values = setting.partition(" ")
        lines.append(f"| {', '.join(theirs)} | `{word}` {values} |".replace("`  |", "` |"))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table_of_settings(), table_of_original_keys(), sep="\n\n")
